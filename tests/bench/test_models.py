"""The benchmarks of whole architectures run and report every figure."""

from collections.abc import Callable
from types import ModuleType

from pix2seq.config import CFG, replace


def test_official_detection_reports_every_figure(bench: Callable[[str], ModuleType], tiny_model_cfg: CFG, capsys):
    cfg = replace(tiny_model_cfg, full_detection=True, task="detection")
    bench("official_detection").main(cfg)
    printed = capsys.readouterr().out
    for figure in ("M parameters", "build", "encode", "decode", "tokens/s", "peak memory"):
        assert figure in printed


def test_both_styles_are_trained_and_compared(bench: Callable[[str], ModuleType], tiny_cfg: CFG, capsys):
    bench("transformer_styles").main(replace(tiny_cfg, epochs=1))
    rows = capsys.readouterr().out.splitlines()[-2:]
    assert [row.split()[0] for row in rows] == ["standard", "llama"]
    assert all(float(number) > 0 for row in rows for number in row.split()[1:])
