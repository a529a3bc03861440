"""Command lines as nobody means them become settings, or one sentence."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from pix2seq.command_line import EVALUATION, INFERENCE, TRAINING, Uses, parse_args, run_script
from pix2seq.config import CFG, FIELDS, flag, value_of
from pix2seq.errors import UserError
from tests.hostile import DEEP, ODD, fuzz

USUAL = CFG()
WORDS = (
    *("", " ", "-", "--", "---", "-1", "1e999", "-1e999", "nan", "inf", "0x10", "1_000", "१", "1,2,3", ",", "1,,2"),
    *("\x1b[2J\u202e", "\udc80", "a\0b", "a\nb", "x" * 100_000, "9" * 5000, DEEP, "{}", '{"depth": 1e999}', "true"),
    *("@/etc/passwd", "../../../etc/passwd", "/", ".", "/dev/zero", "~", "$HOME", "%s%n", "file:///etc/passwd", "None"),
)


def command_lines(uses: Uses, count: int, seed: int) -> Iterator[list[str]]:
    """Flags of a script with right, odd, missing and too many values, and words that are no flags."""
    rng = random.Random(seed)
    names = [name for name in uses.names if name != "start_from"]  # names would be fetched
    for _ in range(count):
        words = []
        for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
            name = rng.choice((*names, *names, *FIELDS, "config", "no-flip", "lr", "Image-Size"))
            usual = str(value_of(USUAL, name)) if name in FIELDS else "scenes"
            values = usual, str(rng.choice((*WORDS, *ODD)))
            odd = [rng.choice(values) for _ in range(rng.choice((0, 1, 1, 1, 2)))]
            word = flag(name) if name in FIELDS else f"--{name}"
            words += rng.choice(([word, *odd], [f"{word}={''.join(odd)}"], [word], odd))
        yield [word for word in words if word not in ("--help", "--help-all", "--list-weights")]


@pytest.mark.parametrize("count", [60, pytest.param(3000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("script", "uses"), [("train", TRAINING), ("infer", INFERENCE), ("evaluate", EVALUATION)])
def test_odd_command_lines_are_used_or_refused(
    script: str, uses: Uses, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    def parse(words: list[str]) -> None:
        try:
            run_script(lambda: parse_args(words, None, uses))
        except SystemExit as end:
            *notes, line = capsys.readouterr().err.splitlines()
            assert end.code == 2 and line.startswith("error: ") and all(note.startswith("note: ") for note in notes)
            raise UserError(line.removeprefix("error: ")) from None

    monkeypatch.chdir(tmp_path)
    counts = fuzz(f"command lines of {script}", command_lines(uses, count, seed=1), parse)
    assert counts["refused"] > count / 3 and not list(tmp_path.iterdir())
