"""Convert an official Pix2Seq checkpoint of TensorFlow to a weights file that every script reads.

python weights/convert_official.py coco_det_finetune/vit_b_640x640 vit-b.safetensors
python weights/convert_official.py multi_task/ckpt/vit_b_640x640 multi.safetensors --text-model c4_en_32k_spm.model
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pix2seq.command_line import run_script
from pix2seq.errors import UserError
from pix2seq.weights.conversion import DTYPES, convert


def parse_args(args: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="CKPT_DIR", help="folder of the checkpoint, or .../ckpt-N")
    parser.add_argument("out", type=Path, metavar="OUT.safetensors", help="weights file to write")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32", help="numbers in the weights file (%(default)s)")
    parser.add_argument(
        "--image-size", type=square, help="side of the canvas, pixels (by config.json or the folder's name)"
    )
    parser.add_argument("--official-config", type=Path, help="config.json of its training (the one in the folder)")
    parser.add_argument("--classes", default="coco", help="coco, objects365, or a JSON file of id: name (%(default)s)")
    parser.add_argument("--text-model", type=Path, help="SentencePiece model of captions; without it: no captioning")
    parser.add_argument(
        "--projection", choices=("linear", "linear_p"), default="", help="from encoder to decoder, where it has no MLP"
    )
    return parser.parse_args(args)


def square(text: str) -> int:
    """The side of a square canvas in pixels."""
    if not text.lstrip("-").isdecimal():
        raise UserError(f"--image-size expects one number, the side of a square canvas, got {text}")
    return int(text)


def main(args: list[str]) -> None:
    weights = convert(**vars(parse_args(args)))
    model, cfg = weights.model, weights.cfg
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    print(
        f"{cfg.preset or 'no preset'}, {millions:.1f} M parameters, {cfg.model.image_size} px: {', '.join(cfg.tasks)}"
    )


if __name__ == "__main__":
    run_script(lambda: main(sys.argv[1:]))
