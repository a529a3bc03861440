"""Settings: presets, flags and files say the same thing."""

import dataclasses
import json
import math
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from pix2seq.command_line import command_line, parse_args
from pix2seq.config import CFG, PRESETS, RANGES, TASKS, from_json, replace, to_json
from pix2seq.errors import UserError
from pix2seq.models.pix2seq import Pix2Seq
from pix2seq.runtime.paths import ROOT, project_path

GROUPS = ("model", "data", "train", "infer")


def flag_names() -> list[str]:
    """Every setting as it stands on the command line."""
    names = [member.name for member in dataclasses.fields(CFG) if member.name not in GROUPS]
    for group in GROUPS:
        names += [member.name for member in dataclasses.fields(getattr(CFG(), group))]
    return ["--" + name.replace("_", "-") for name in names]


@pytest.fixture(scope="module")
def help_text() -> str:
    command = [sys.executable, ROOT / "train" / "train_multi_task.py", "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=True, env={"COLUMNS": "120"}).stdout


def test_no_flags_give_the_defaults():
    assert parse_args([]) == CFG()


def test_flags_change_fields_of_every_group():
    cfg = parse_args(["--image-size", "64", "--flip", "0", "--lr", "0.1", "--top-k", "5", "--seed", "3", "--resume"])
    assert cfg == replace(CFG(), image_size=64, flip=0.0, lr=0.1, top_k=5, seed=3, resume=True)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_name_themselves(name: str):
    assert PRESETS[name].preset == name
    assert parse_args(["--preset", name]) == PRESETS[name]


def test_flags_win_over_scripts_and_scripts_over_presets():
    cfg = parse_args(["--preset", "deit3-small", "--lr", "0.5"], None, task="keypoint", lr=0.1, batch_size=3)
    assert cfg.model == PRESETS["deit3-small"].model
    assert (cfg.task, cfg.train.batch_size, cfg.train.lr) == ("keypoint", 3, 0.5)


def test_task_takes_names_with_commas():
    assert parse_args(["--task", "detection,segmentation"]).tasks == ("detection", "segmentation")


def test_several_images_follow_one_flag():
    assert parse_args(["--image", "a.jpg", "b.jpg"]).infer.image == ("a.jpg", "b.jpg")


def test_no_two_flags_have_the_same_name():
    assert len(set(flag_names())) == len(flag_names())


def test_every_setting_is_a_flag_with_help(help_text: str):
    flat = " ".join(help_text.replace("│", " ").split())
    for flag in flag_names():
        assert f"{flag} " in flat or f"{flag}," in flat, flag
    comments = [
        line.split("  # ")[1]
        for line in (ROOT / "config.py").read_text(encoding="utf-8").splitlines()
        if line.startswith("    ") and "  # " in line and ": " in line.split("  # ")[0] and " = " in line
    ]
    assert len(comments) >= len(flag_names())
    missing = [comment for comment in comments if comment.split(",")[0].split(";")[0][:30] not in flat]
    assert missing == []


def test_help_opens_with_what_the_script_does(help_text: str):
    assert "Train several tasks together." in help_text


def test_help_answers_at_once_from_any_folder_without_torch(tmp_path: Path):
    script = ROOT / "train" / "train_multi_task.py"
    code = (
        f"import runpy, sys; sys.argv = [{str(script)!r}, '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules and 'cv2' not in sys.modules"
    )
    seconds = []
    for _ in range(3):  # the quickest of three, in processor time: others may be at work
        before = os.times()
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=True)
        after = os.times()
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(seconds) < 1.5


@pytest.mark.parametrize(
    "flags", [["--no-such-flag"], ["--image-size", "large"], ["--schedule", "sine"], ["--epochs", "1.5"], ["stray"]]
)
def test_wrong_flags_end_with_status_2(flags: list[str], capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as end:
        parse_args(flags)
    assert end.value.code == 2
    assert capsys.readouterr().err


def test_an_unknown_preset_is_refused():
    with pytest.raises(UserError, match="deit3-small"):
        parse_args(["--preset", "huge"])


@pytest.mark.parametrize("task", ["detections", "", "detection,", "detection,detection"])
def test_wrong_tasks_are_refused(task: str):
    with pytest.raises(UserError, match="--task"):
        _ = replace(CFG(), task=task).tasks


@pytest.mark.parametrize("weights", ["1", "1,2,x", "1,2,3,4,5", "1,2,3,-1", "1,2,3,nan", "1,2,3,inf"])
def test_wrong_task_weights_are_refused(weights: str):
    with pytest.raises(UserError, match="--task-weights"):
        _ = replace(CFG(), task_weights=weights).loss_weights


# Ranges of numbers

FREE: set[str] = set()  # numbers of which every value makes sense


def number_types() -> dict[str, type]:
    """Every setting that is a number, and of which kind."""
    members = [member for group in (CFG, *map(type, map(CFG().__getattribute__, GROUPS))) for member in fields(group)]
    return {m.name: {"int": int, "float": float}[m.type] for m in members if m.type in ("int", "float")}


def test_every_number_has_a_range_or_is_free():
    assert number_types().keys() - FREE == RANGES.keys()


@pytest.mark.parametrize("name", RANGES)
def test_a_range_s_ends_are_accepted_and_what_lies_beyond_is_refused(name: str):
    (low, high), kind = RANGES[name], number_types()[name]
    cfg = replace(CFG(), encoder_heads=1, decoder_heads=1)  # widths depend on them
    for value in filter(math.isfinite, (low, high)):
        assert replace(cfg, **{name: kind(value)})
    beyond = [math.nextafter(low, -math.inf), math.nextafter(high, math.inf), math.nan, math.inf]
    for value in [low - 1] + ([high + 1] * math.isfinite(high) if kind is int else beyond):
        with pytest.raises(UserError) as error:
            replace(cfg, **{name: value})
        limits = f"at least {low}" if high == math.inf else f"a number from {low} to {high}"
        assert str(error.value) == f"--{name.replace('_', '-')} expects {limits}, got {value}"


@pytest.mark.parametrize("flags", ["--epochs 0", "--workers -1", "--pad-value 3", "--lr nan", "--seed -1"])
def test_the_command_line_refuses_numbers_out_of_range(flags: str):
    with pytest.raises(UserError, match=f"{flags.split()[0]} expects .*, got {flags.split()[1]}"):
        parse_args(flags.split())


@pytest.mark.parametrize("name", ["README.md", "Makefile"])
def test_the_numbers_of_written_commands_are_in_range(name: str):
    kinds = number_types()
    found = re.findall(r"--([a-z0-9-]+) (-?[\d.]+)", (ROOT / name).read_text(encoding="utf-8"))
    settings = [(flag.replace("-", "_"), number) for flag, number in found if flag.replace("-", "_") in kinds]
    for setting, number in settings:
        assert replace(CFG(), **{setting: kinds[setting](number.rstrip("."))})
    assert settings


@pytest.mark.parametrize(
    "flags, unit",
    [
        (["--decoder-width", "64"], 12),
        (["--encoder-width", "190"], 12),
        (["--encoder-heads", "1", "--encoder-width", "90"], 4),
        (["--transformer", "llama", "--decoder-heads", "4", "--decoder-width", "168"], 16),
    ],
)
def test_a_width_that_heads_and_positions_cannot_share_is_refused(flags: list[str], unit: int):
    with pytest.raises(UserError, match=rf"-width expects a multiple of {unit} for --\w+-heads \d, got {flags[-1]}"):
        parse_args(flags)


@pytest.mark.parametrize("style", ["standard", "llama"])
def test_the_narrowest_width_of_three_heads_makes_a_model(tiny_model_cfg: CFG, style: str):
    width = dict(encoder_width=12, encoder_heads=3, decoder_width=12, decoder_heads=3)
    model = Pix2Seq(replace(tiny_model_cfg, transformer=style, **width).model)
    logits = model(torch.rand(1, 3, 64, 64), torch.tensor([[10, 1500]]), torch.tensor([0]))
    assert logits.shape == (1, 2, tiny_model_cfg.model.vocab_size)


def test_task_weights_follow_the_order_of_tasks():
    cfg = replace(CFG(), task="keypoint,detection", task_weights="0.5,2")
    assert cfg.loss_weights == {"keypoint": 0.5, "detection": 2.0}


def test_tasks_weigh_the_same_by_default():
    assert CFG().loss_weights == dict.fromkeys(TASKS, 1.0)


def test_replace_leaves_the_original_alone():
    cfg = CFG()
    changed = replace(cfg, epochs=99, task="detection")
    assert (changed.train.epochs, changed.task) == (99, "detection")
    assert cfg == CFG()


def test_replace_refuses_names_that_do_not_exist():
    with pytest.raises(TypeError):
        replace(CFG(), epoch=1)


@pytest.mark.parametrize("cfg", [*PRESETS.values(), replace(CFG(), image=("a.jpg", "b.jpg"), lr=1e-7)])
def test_settings_survive_the_round_trip_through_json(cfg: CFG):
    assert from_json(to_json(cfg)) == cfg


def test_json_of_other_versions_can_be_read():
    values = json.loads(to_json(replace(CFG(), lr=0.5)))
    values["train"]["invented_later"] = values["also_later"] = 1
    del values["train"]["epochs"], values["seed"]
    assert from_json(json.dumps(values)) == replace(CFG(), lr=0.5)


def test_a_user_error_is_one_line_and_status_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    def main(_: CFG) -> None:
        raise UserError("expected that, got this")

    monkeypatch.setattr(sys, "argv", ["script"])
    with pytest.raises(SystemExit) as end:
        command_line(main, None)
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: expected that, got this\n"


def test_paths_are_below_the_project_unless_they_exist_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.txt").touch()
    assert project_path("here.txt") == Path("here.txt")
    assert project_path("elsewhere.txt") == ROOT / "elsewhere.txt"
    assert project_path("/absolute") == Path("/absolute")
