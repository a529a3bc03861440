"""Write weights as ONNX graphs, which predict without PyTorch: encoder.onnx, step.onnx and model.json (docs/export.md).

python infer/export_onnx.py --weights photos --output-dir exported
python infer/export_onnx.py --weights photos --output-dir exported_int8 --precision int8
"""

from pix2seq.command_line import Uses, command_line
from pix2seq.config import CFG


def main(cfg: CFG) -> None:
    from pix2seq.infer.exported.export import export

    export(cfg)


if __name__ == "__main__":
    command_line(main, __doc__, Uses(("weights", "output_dir", "precision")), output_dir="exported")
