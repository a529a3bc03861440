"""Settings: each has a help text and a range; values that do not fit are refused; old files can be read."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from pix2seq import config
from pix2seq.command_line import parse_args
from pix2seq.config import (
    CFG,
    DECODING,
    FIELDS,
    GROUP_OF,
    PRESETS,
    RENAMED,
    check_training,
    decoding_in,
    decoding_of,
    flag,
    from_json,
    notices,
    replace,
    to_json,
    value_of,
    what_is_wrong,
    with_decoding,
)
from pix2seq.errors import UserError
from pix2seq.models.pix2seq import Pix2Seq
from pix2seq.runtime.paths import weights_path
from pix2seq.tasks import TASKS

NUMBERS = [name for name, member in FIELDS.items() if member.type in ("int", "float")]
WORDS = [name for name, member in FIELDS.items() if member.metadata["choices"]]


# Fields


def test_no_two_settings_have_the_same_name():
    parts = (CFG(), *(getattr(CFG(), group) for group in config.GROUPS))
    names = [name for part in parts for name in vars(part) if name not in (*config.GROUPS, "given")]
    assert len(names) == len(set(names)) == len(FIELDS)


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_has_help_and_a_default_that_fits(name: str):
    metadata = FIELDS[name].metadata
    assert metadata["help"] and metadata["help"][0] != " "
    assert set(metadata["tasks"]) <= set(TASKS)
    assert what_is_wrong(name, FIELDS[name].default) == ""


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_has_a_range(name: str):
    assert all(math.isfinite(FIELDS[name].metadata[end]) for end in ("low", "high"))


@pytest.mark.parametrize("name", NUMBERS)
def test_the_ends_of_a_range_are_accepted_and_values_beyond_are_refused(name: str):
    low, high = (FIELDS[name].metadata[end] for end in ("low", "high"))
    kind = {"int": int, "float": float}[FIELDS[name].type]
    cfg = replace(CFG(), encoder_heads=1, decoder_heads=1)  # widths depend on them
    for value in (low, high):
        assert replace(cfg, **{name: kind(value)})
    beyond = [low - 1, high + 1, True, str(low), math.nan, math.inf, -math.inf]
    beyond += [math.nextafter(low, -math.inf), math.nextafter(high, math.inf)] if kind is float else [float(low)]
    for value in beyond:
        with pytest.raises(UserError) as error:
            replace(cfg, **{name: value})
        limits = f"of at least {low}" if high == config.MOST else f"from {low} to {high}"
        number = "a whole number" if kind is int else "a number"
        assert str(error.value) == f"{flag(name)} expects {number} {limits}, got {value!r}"


def test_a_whole_number_of_any_size_is_checked():
    assert what_is_wrong("seed", 10**400)
    assert what_is_wrong("epochs", 10**400)


@pytest.mark.parametrize("name", WORDS)
def test_a_choice_must_be_one_of_the_listed_ones(name: str):
    choices = FIELDS[name].metadata["choices"]
    assert all(value_of(replace(CFG(), **{name: choice}), name) == choice for choice in choices)
    with pytest.raises(UserError, match=f"{flag(name)} expects one of {choices[0]}, .*, got 'sine'"):
        replace(CFG(), **{name: "sine"})


@pytest.mark.parametrize(
    "values",
    [dict(resume=1), dict(resume="yes"), dict(epochs=1.0), dict(vocab=3), dict(image="a.jpg"), dict(image=(1,))],
)
def test_a_value_of_another_type_is_refused(values: dict):
    with pytest.raises(UserError, match=f"{flag(next(iter(values)))} expects"):
        replace(CFG(), **values)


@pytest.mark.parametrize("task", ["detections", "", "detection,", "detection,detection"])
def test_wrong_tasks_are_refused(task: str):
    with pytest.raises(UserError, match="--task"):
        parse_args(["--task", task])


@pytest.mark.parametrize("weights", ["1", "1,2,x", "1,2,3,4,5", "1,2,3,-1", "1,2,3,nan", "1,2,3,inf"])
def test_wrong_task_weights_are_refused(weights: str):
    with pytest.raises(UserError, match="--task-weights"):
        replace(CFG(), task_weights=weights)


def test_task_weights_follow_the_order_of_tasks():
    cfg = replace(CFG(), task="keypoint,detection", task_weights="0.5,2")
    assert cfg.loss_weights == {"keypoint": 0.5, "detection": 2.0}


def test_tasks_have_equal_weights_by_default():
    assert CFG().loss_weights == dict.fromkeys(TASKS, 1.0)


@pytest.mark.parametrize(
    "values, unit, got",
    [
        (dict(decoder_width=64), 12, 64),
        (dict(encoder_width=190), 12, 190),
        (dict(encoder_heads=1, encoder_width=90), 4, 90),
        (dict(transformer="llama", decoder_heads=4, decoder_width=168), 16, 168),
    ],
)
def test_a_width_that_heads_and_positions_cannot_share_is_refused(values: dict, unit: int, got: int):
    with pytest.raises(UserError, match=rf"-width expects a multiple of {unit} for --\w+-heads \d, got {got}"):
        replace(CFG(), **values)


@pytest.mark.parametrize("style", ["standard", "llama"])
def test_the_narrowest_width_of_three_heads_makes_a_model(tiny_model_cfg: CFG, style: str):
    width = dict(encoder_width=12, encoder_heads=3, decoder_width=12, decoder_heads=3)
    model = Pix2Seq(replace(tiny_model_cfg, transformer=style, **width).model)
    logits = model(torch.rand(1, 3, 64, 64), torch.tensor([[10, 1500]]), torch.tensor([0]))
    assert logits.shape == (1, 2, tiny_model_cfg.model.vocab_size)


def test_replace_does_not_change_the_original():
    cfg = CFG()
    changed = replace(cfg, epochs=99, task="detection")
    assert (changed.train.epochs, changed.task) == (99, "detection")
    assert cfg == CFG()


def test_replace_refuses_names_that_do_not_exist():
    with pytest.raises(TypeError):
        replace(CFG(), epoch=1)


# Settings that do not fit together


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (dict(min_scale=2.0), "--min-scale expects at most --max-scale 1.15, got 2.0"),
        (dict(crop_min_scale=1.5), "--crop-min-scale expects at most --crop-max-scale"),
        (dict(noise_objects=True), "set --full-detection too"),
        (dict(full_detection=True), "--no-full-detection"),
        (dict(coord_sigma=0.0), "set --coord-window 0"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(values: dict, message: str):
    with pytest.raises(UserError, match=message):
        check_training(replace(CFG(), **values))


@pytest.mark.parametrize(
    "values",
    [
        dict(noise_objects=True, task="captioning"),
        dict(full_detection=True, task="keypoint"),
        dict(coord_sigma=0.0, coord_window=0),
        dict(coord_sigma=0.0, task="captioning"),
        dict(noise_objects=True, full_detection=True),
    ],
)
def test_settings_of_other_tasks_are_not_checked(values: dict):
    check_training(replace(CFG(), **values))


@pytest.mark.parametrize(
    ("values", "word"),
    [
        (dict(label_smoothing=0.1), "--label-smoothing"),
        (dict(small_epochs=14), "--small-epochs 14"),
        (dict(schedule="linear", cosine_share=0.5), "--cosine-share"),
        (dict(detection_top_p=0.4, end_threshold=0.5), "--end-threshold"),
        (dict(keypoint_top_p=0.1, invisible_threshold=0.3), "--invisible-threshold"),
        (dict(watch_minutes=1.0), "--watch-minutes"),
        (dict(watch="runs/x", weights="y.safetensors"), "--weights"),
    ],
)
def test_a_setting_without_effect_is_reported(values: dict, word: str):
    (notice,) = notices(replace(CFG(), **values))
    assert notice.startswith(word)


@pytest.mark.parametrize("values", [{}, dict(label_smoothing=0.1, task="captioning")])
def test_settings_that_fit_are_not_reported(values: dict):
    assert notices(replace(CFG(), **values)) == []


# Presets


@pytest.mark.parametrize("name", PRESETS)
def test_presets_name_themselves_fit_together_and_leave_the_task_alone(name: str):
    assert (PRESETS[name].preset, PRESETS[name].task) == (name, CFG.task)
    check_training(PRESETS[name])
    assert name in FIELDS["preset"].metadata["help"]
    assert notices(PRESETS[name]) == []


# Decoding settings of a weights file


def test_what_is_given_wins_over_a_weights_file_and_that_over_the_rest():
    cfg = replace(PRESETS["vit-b"], end_threshold=0.97, seed=3)
    decoded = with_decoding(cfg, {"end_threshold": 0.5, "coord_window": 5, "top_k": 7}).infer
    assert (decoded.end_threshold, decoded.coord_window, decoded.top_k) == (0.97, 5, 7)
    assert decoded.top_p == CFG().infer.top_p


def test_settings_on_a_command_line_are_given_and_defaults_are_not(tmp_path: Path):
    (tmp_path / "own.yaml").write_text("top_k: 3", encoding="utf-8")
    cfg = parse_args(["--coord-window", "0", "--config", str(tmp_path / "own.yaml")], output_dir="results")
    assert cfg.given == {"coord_window", "top_k", "output_dir"}


def test_a_run_s_decoding_settings_are_those_that_are_not_the_defaults():
    assert decoding_of(CFG()) == {}
    cfg = replace(PRESETS["vit-b"], end_threshold=0.5, weights="mine.safetensors")
    assert decoding_of(cfg) == {"end_threshold": 0.5, "coord_window": 0}
    assert set(DECODING) <= {name for name in FIELDS if GROUP_OF[name] == "infer"}


def test_settings_of_a_later_version_are_left_out_and_told(capsys: pytest.CaptureFixture):
    written = {"decoding": '{"top_k": 7, "sight": 2}'}
    assert decoding_in(written) == decoding_in(written) == {"top_k": 7}
    assert capsys.readouterr().err.count("leaves out: sight") == 1


# Files


@pytest.mark.parametrize("cfg", [*PRESETS.values(), replace(CFG(), image=("a.jpg", "b.jpg"), lr=1e-7)])
def test_settings_are_unchanged_by_the_round_trip_through_json(cfg: CFG):
    assert from_json(to_json(cfg)) == cfg


def test_json_of_other_versions_can_be_read():
    values = json.loads(to_json(replace(CFG(), lr=0.5)))
    values["train"]["invented_later"] = values["also_later"] = 1
    del values["train"]["epochs"], values["seed"]
    assert from_json(json.dumps(values)) == replace(CFG(), lr=0.5)


@pytest.mark.parametrize("old", RENAMED)
def test_old_names_in_json_are_accepted(old: str):
    new = RENAMED[old]
    values = json.loads(to_json(CFG()))
    del values[GROUP_OF[new]][new]
    values[GROUP_OF[new]][old] = 5
    assert value_of(from_json(json.dumps(values)), new) == 5


def test_settings_that_moved_to_another_group_are_found():
    values = json.loads(to_json(CFG()))
    values["data"]["max_objects"] = 7
    del values["model"]["max_objects"]
    assert from_json(json.dumps(values)).model.max_objects == 7


@pytest.mark.parametrize("text", ["{}", "[]", "3", '{"model": 1, "data": {}, "train": {}, "infer": {}}', "no json"])
def test_json_without_settings_is_refused(text: str):
    with pytest.raises(UserError, match="cfg cannot be read"):
        from_json(text)


def test_json_with_an_invalid_value_is_refused():
    text = to_json(CFG()).replace('"image_size": 192', '"image_size": "192"')
    with pytest.raises(UserError, match="--image-size expects a whole number from 1 to 2048, got '192'"):
        from_json(text)


def test_the_shipped_weights_which_have_old_names_keep_their_settings():
    with safe_open(weights_path("scenes"), framework="numpy") as file:
        text = file.metadata()["cfg"]
    old = json.loads(text)
    assert {"max_pictures"} <= old["infer"].keys() and {"dense_weight"} <= old["train"].keys()  # what this test is for
    cfg = from_json(text)
    assert cfg.train.auxiliary_weight == old["train"]["dense_weight"]
    assert cfg.infer.max_images == old["infer"]["max_pictures"]
    for group in config.GROUPS:
        values = {name: value for name, value in old[group].items() if name in FIELDS}
        assert {name: value_of(cfg, name) for name in values} == {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }


FIRST_VERSION = Path(__file__).parent / "first_version_cfg.json"


def test_settings_of_the_first_version_can_be_read():
    cfg = from_json(FIRST_VERSION.read_text(encoding="utf-8"))
    assert (cfg.model.max_objects, cfg.model.max_points) == (33, 30)  # they were settings of the data then
    assert (cfg.model.backbone, cfg.model.normalize, cfg.data.flip, cfg.infer.top_p) == ("resnet18", False, 0.5, 0.4)
    assert cfg.train.auxiliary_weight == CFG().train.auxiliary_weight
