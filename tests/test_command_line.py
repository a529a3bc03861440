"""The command line: the flags that scripts list, accept and refuse, and `--config` files."""

import json
import os
import re
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pix2seq.command_line import EVALUATION, INFERENCE, TRAINING, command_line, parse_args
from pix2seq.config import CFG, FIELDS, GROUP_OF, PRESETS, RENAMED, flag, replace, to_json, value_of
from pix2seq.config_file import recipes
from pix2seq.errors import UserError
from pix2seq.runtime.paths import ROOT
from pix2seq.tasks import TASKS

PROGRAMS = sorted(
    path.relative_to(ROOT).as_posix()
    for room in ("train", "infer", "evaluate", "dataset", "scenes", "bench", "weights")
    for path in (ROOT / room).glob("*.py")
    if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
)
OWN_FLAGS = (
    "bench/decoding.py",
    "bench/exported.py",
    "bench/memory.py",
    "bench/plot.py",
    "bench/tasks.py",
    "bench/training.py",
)  # and the three of weights/
SCRIPTS = [name for name in PROGRAMS if name not in OWN_FLAGS and not name.startswith("weights/")]
LINES, COLUMNS = 40, 120


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """Run a script in this process until it exits; return its status and both outputs."""
    monkeypatch.setenv("COLUMNS", str(COLUMNS))

    def run(script: str, *flags: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [str(ROOT / script), *flags])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        return end.value.code or 0, *capsys.readouterr()

    return run


def flags_in(text: str) -> set[str]:
    """The flags that a help text lists."""
    return set(re.findall(r"^  (--[a-z0-9-]+)", text, re.MULTILINE))


@pytest.fixture
def refused(run):
    """The one line that a script prints for flags that it refuses."""

    def refused(script: str, *flags: str) -> str:
        status, out, err = run(script, *flags)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert err.startswith("error: ")
        return err

    return refused


# Help


def test_there_are_scripts():
    assert len(SCRIPTS) == 35 and len(PROGRAMS) == 44


@pytest.mark.parametrize("script", PROGRAMS)
def test_help_fits_a_screen(run, script: str):
    status, out, _ = run(script, "--help")
    lines = out.splitlines()
    assert status == 0 and len(lines) <= LINES
    assert max(map(len, lines)) <= COLUMNS


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_begins_with_the_purpose_of_a_script_and_refers_to_help_all(run, script: str):
    _, brief, _ = run(script, "--help")
    _, whole, _ = run(script, "--help-all")
    first = (ROOT / script).read_text(encoding="utf-8").splitlines()[0].strip('"')
    assert first[:60] in brief and first[:60] in whole
    assert "--help-all lists all" in brief
    assert flags_in(brief) <= flags_in(whole)
    count = int(re.search(r"lists all (\d+) settings", brief)[1])
    assert len(flags_in(whole) - {"--config", "--list-weights", "--help", "--help-all"}) == count


def test_help_shows_ranges_of_words_and_defaults_of_the_script(run):
    _, out, _ = run("train/train_coco_keypoint.py", "--help-all")
    assert "[runs/keypoint]" in out and "(adamw, muon) [muon]" in out and "[off]" in out and "[0.001]" in out
    titles = re.findall(r"^(\w[\w ]*):$", out, re.MULTILINE)
    assert titles == ["run", "data", "training", "model", "inference and evaluation"]


def test_every_setting_is_a_flag_of_some_script_with_its_help(run):
    texts = [" ".join(run(script, "--help-all")[1].split()) for script in SCRIPTS]
    for name, member in FIELDS.items():
        start = member.metadata["help"].split(",")[0][:40]
        assert any(f"{flag(name)} " in text or f"{flag(name)}," in text for text in texts), name
        assert any(start in text for text in texts), name


def test_inference_lists_no_settings_of_training_data_and_model(run):
    for script in (name for name in SCRIPTS if name.startswith("infer/")):
        names = {word[2:].replace("-", "_") for word in flags_in(run(script, "--help-all")[1])}
        assert {GROUP_OF[name] for name in names & FIELDS.keys()} == {"", "infer"}, script


@pytest.mark.parametrize("script", ["train/train_coco_img_captioning.py", "infer/infer_single_image_caption.py"])
def test_captioning_lists_no_settings_of_other_tasks(run, script: str):
    found = flags_in(run(script, "--help-all")[1])
    others = {flag(name) for name, member in FIELDS.items() if member.metadata["tasks"]} - {
        flag(name) for name, member in FIELDS.items() if "captioning" in member.metadata["tasks"]
    }
    assert {"--max-points", "--max-objects", "--noise-objects", "--num-samples"} <= others
    assert not found & others


def test_help_of_all_scripts_imports_no_torch():
    program = (
        "import runpy, sys\n"
        f"for path in {[str(ROOT / script) for script in PROGRAMS]}:\n"
        "    sys.argv = [path, '--help']\n"
        "    try: runpy.run_path(path, run_name='__main__')\n"
        "    except SystemExit as stop: assert not stop.code\n"
        "assert not {'torch', 'timm', 'tensorflow', 'matplotlib', 'yaml'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Flags


def test_no_flags_give_the_defaults():
    assert parse_args([]) == CFG()


def test_flags_change_fields_of_every_group():
    cfg = parse_args(["--image-size", "64", "--flip", "0", "--lr", "1e-1", "--top-k=5", "--seed", "3", "--resume"])
    assert cfg == replace(CFG(), image_size=64, flip=0.0, lr=0.1, top_k=5, seed=3, resume=True)


def test_underscores_are_dashes_and_the_last_of_two_flags_wins():
    cfg = parse_args(["--image_size", "64", "--image-size=96", "--resume", "--no-resume", "--no_pretrained"])
    assert cfg == replace(CFG(), image_size=96, pretrained=False)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_defaults(name: str):
    assert parse_args(["--preset", name]) == PRESETS[name]
    assert parse_args(["--preset", name], uses=TRAINING).tasks == tuple(TASKS)


def test_flags_win_over_scripts_and_scripts_over_presets():
    cfg = parse_args(["--preset", "deit3-small", "--lr", "0.5"], task="keypoint", lr=0.1, batch_size=3)
    assert cfg.model == PRESETS["deit3-small"].model
    assert (cfg.task, cfg.train.batch_size, cfg.train.lr) == ("keypoint", 3, 0.5)


def test_task_takes_names_with_commas():
    assert parse_args(["--task", "detection,segmentation"]).tasks == ("detection", "segmentation")


def test_several_images_follow_one_flag():
    assert parse_args(["--image", "a.jpg", "b.jpg", "--seed", "1"]).infer.image == ("a.jpg", "b.jpg")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--image-size large", "--image-size expects a whole number from 1 to 2048, got large"),
        ("--epochs 1.5", "--epochs expects a whole number of at least 1, got 1.5"),
        ("--epochs 0", "--epochs expects a whole number of at least 1, got 0"),
        ("--workers -1", "--workers expects a whole number from 0 to 1024, got -1"),
        ("--pad-value 3", "--pad-value expects a number from 0 to 1, got 3"),
        ("--lr nan", "--lr expects a number from 1e-09 to 10, got nan"),
        ("--schedule sine", "--schedule expects one of cosine, linear, exponential, constant, got sine"),
        ("--preset huge", "--preset expects one of demo, .*, got 'huge'"),
        ("--task detections", "--task expects names among .*, got 'detections'"),
        ("--epochs", "--epochs expects a value"),
        ("--no-such-flag 1", "there is no flag --no-such-flag"),
        ("--imagesize 1", "there is no flag --imagesize; did you mean --image-size?"),
        ("--no-lr", "there is no flag --no-lr; did you mean --lr?"),
        ("--resume yes", "there is no folder yes; --resume expects the folder of a run"),
        (
            "--resume yes --overwrite",
            "--resume goes on with a run, --overwrite begins one in its place; leave one of them out",
        ),
        ("-x", "there is no flag -x"),
        ("--resum", "there is no flag --resum; did you mean --resume?"),
    ],
)
def test_wrong_flags_are_refused_in_a_sentence(flags: str, message: str):
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        parse_args(flags.split())


@pytest.mark.parametrize(
    ("script", "flags", "reason"),
    [
        ("infer/infer_single_image_caption.py", "--image-size 64", "the model's settings are in the weights file"),
        (
            "infer/infer_single_image_caption.py",
            "--num-samples 4",
            "it is for segmentation, this script for captioning",
        ),
        ("infer/infer_single_image_caption.py", "--task detection", "this script is for captioning alone"),
        ("infer/infer_single_image_multi_task.py", "--lr 1", "this script uses no such setting of training"),
        ("infer/infer_single_image_multi_task.py", "--no-resume", "this script uses no such setting of training"),
        ("evaluate/evaluate_detection.py", "--max-objects=4", "the model's settings are in the weights file"),
        ("evaluate/evaluate_detection.py", "--flip 0", "this script uses no such setting of data"),
        ("train/train_coco_keypoint.py", "--drop-words 0.5", "it is for captioning, this script for keypoint"),
        ("train/train_multi_task.py", "--image x.jpg", "this script uses no such setting of inference"),
        ("scenes/draw.py", "--image-size 3", "this script uses no such setting of model"),
    ],
)
def test_a_flag_without_effect_is_refused_with_the_reason(refused, script: str, flags: str, reason: str):
    name = flags.split()[0].partition("=")[0].replace("--no-resume", "--resume")
    assert refused(script, *flags.split()).startswith(f"error: {name} has no effect here: {reason}")


def test_scripts_that_detect_first_take_settings_of_detection():
    for only in ("segmentation", "keypoint"):
        assert parse_args(["--end-threshold", "0"], None, INFERENCE, only).infer.end_threshold == 0
    with pytest.raises(UserError, match="it is for detection, this script for captioning"):
        parse_args(["--end-threshold", "0"], None, INFERENCE, "captioning")


def test_a_script_with_task_takes_the_settings_of_all_of_them(run):
    assert "--max-words" in flags_in(run("evaluate/upper_bound.py", "--help-all")[1])


@pytest.mark.parametrize("old", RENAMED)
def test_an_old_flag_is_accepted_and_its_new_name_is_printed(old: str, capsys: pytest.CaptureFixture):
    assert parse_args([flag(old), "5"]) == replace(CFG(), **{RENAMED[old]: 5})
    note = capsys.readouterr().err
    assert (
        note == f"note: {flag(old)} is called {flag(RENAMED[old])} now; the next release does not know the old name\n"
    )


def test_training_refuses_settings_that_do_not_fit_together(refused):
    assert "--no-full-detection" in refused("train/train_multi_task.py", "--full-detection")
    parse_args(["--full-detection"])  # other uses of the settings do not mind


def test_a_setting_without_effect_is_reported_once(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    parse_args(["--watch-minutes", "3"], None, EVALUATION)
    assert capsys.readouterr().err == "note: --watch-minutes has no effect without --watch\n"
    monkeypatch.setenv("RANK", "1")
    parse_args(["--watch-minutes", "3"], None, EVALUATION)
    assert capsys.readouterr().err == ""


def test_a_user_error_is_one_line_and_status_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    def main(_: CFG) -> None:
        raise UserError("expected that, got this")

    monkeypatch.setattr(sys, "argv", ["script"])
    with pytest.raises(SystemExit) as end:
        command_line(main, None, TRAINING)
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: expected that, got this\n"


WRITTEN = ("README.md", "Makefile", *(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")))


@pytest.mark.parametrize("name", WRITTEN)
def test_written_commands_have_flags_that_their_scripts_take_and_numbers_in_range(run, name: str):
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    for script, flags in re.findall(r"(\w+/\w+\.py)\b([^\n|`#]*)", text):
        if script in SCRIPTS:
            taken = flags_in(run(script, "--help-all")[1])
            taken |= {flag.replace("--", "--no-", 1) for flag in taken}
            assert set(re.findall(r"--[a-z][a-z-]*", flags)) - {"--nproc-per-node"} <= taken, script
    kinds = {name: {"int": int, "float": float}.get(member.type) for name, member in FIELDS.items()}
    found = [(word.replace("-", "_"), number) for word, number in re.findall(r"--([a-z-]+) (-?\d[\d.]*)", text)]
    assert all(replace(CFG(), **{name: kinds[name](number.rstrip("."))}) for name, number in found if kinds.get(name))


# Files of settings


@pytest.fixture
def read(tmp_path: Path):
    """Parse flags after a `--config` file with some text."""

    def read(text: str, *flags: str, name: str = "own.yaml", **options) -> CFG:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return parse_args(["--config", str(tmp_path / name), *flags], **options)

    return read


def test_a_file_sets_what_flags_set_and_flags_win(read):
    cfg = read("# mine\nimage_size: 640\nlr: 1e-4\nflip: 0\nresume: true\nimage: [a.jpg, b.jpg]\n", "--lr", "0.5")
    assert cfg == replace(CFG(), image_size=640, lr=0.5, flip=0, resume=True, image=("a.jpg", "b.jpg"))


def test_a_file_wins_over_a_script_and_a_preset(read):
    cfg = read("preset: vit-b\nepochs: 3\nmax_tokens: 600", batch_size=7, epochs=9)
    assert cfg == replace(PRESETS["vit-b"], epochs=3, batch_size=7, max_tokens=600)


def test_a_flag_s_preset_wins_over_a_file_s(read):
    assert read("preset: vit-b", "--preset", "deit3-small") == PRESETS["deit3-small"]


@pytest.mark.parametrize("name", ["cfg.json", "cfg.yaml"])
def test_a_run_s_cfg_json_is_such_a_file(read, name: str, capsys: pytest.CaptureFixture):
    cfg = replace(PRESETS["vit-b"], lr=1e-7, data_root="/data/é", task="keypoint,detection", image=("x.jpg",))
    assert read(to_json(cfg), name=name) == cfg
    assert capsys.readouterr().err == ""


def test_old_names_in_a_file_are_accepted(read):
    assert read("train:\n  dense_weight: 0.5\ninfer: {max_pictures: 3}") == replace(
        CFG(), auxiliary_weight=0.5, max_images=3
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("imagesize: 3", "own.yaml: there is no setting imagesize; did you mean image_size?"),
        ("image-size: 3", "own.yaml: there is no setting image-size; did you mean image_size?"),
        ("model: {zebra: 3}", "own.yaml: there is no setting zebra"),
        ("image_size: large", "own.yaml: image_size expects a whole number from 1 to 2048, got 'large'"),
        ("image_size: '192'", "own.yaml: image_size expects a whole number from 1 to 2048, got '192'"),
        ("image_size: 192.0", "own.yaml: image_size expects a whole number from 1 to 2048, got 192.0"),
        ("image_size: true", "own.yaml: image_size expects a whole number from 1 to 2048, got True"),
        ("image_size:", "own.yaml: image_size expects a whole number from 1 to 2048, got None"),
        ("model: {image_size: 0}", "own.yaml: image_size expects a whole number from 1 to 2048, got 0"),
        ("flip: .nan", "own.yaml: flip expects a number from 0 to 1, got nan"),
        ("resume: 1", "own.yaml: resume expects true or false, got 1"),
        ("schedule: sine", "own.yaml: schedule expects one of cosine, linear, exponential, constant, got 'sine'"),
        ("preset: huge", "own.yaml: preset expects one of demo, resnet50, .*, got 'huge'"),
        ("task: [detection]", r"own.yaml: task expects a text, got \('detection',\)"),
        ("task: painting", "own.yaml: task expects names among detection, .*, got 'painting'"),
        ("task: detection,detection", "own.yaml: task expects each task once"),
        ("image: a.jpg", "own.yaml: image expects texts, got 'a.jpg'"),
        ("seed: 1\nseed: 2", "own.yaml: seed is there twice"),
        ("lr: 1\ntrain: {lr: 2}", "own.yaml: lr is there twice"),
        ("3: 1", "own.yaml: the key 3 is no setting"),
        ("[a]: 1", "own.yaml: the key"),
        ("model: 3", "own.yaml: there is no setting model"),
        ("", "own.yaml expects settings such as image_size: 640"),
        ("- a", "own.yaml expects settings such as image_size: 640"),
        ("a: [", "own.yaml: this is not YAML: .*line 1"),
        ("a: !!python/object/apply:os.system ['ls']", "own.yaml: this is not YAML"),
    ],
)
def test_a_mistake_in_a_file_is_named_with_file_and_key(read, text: str, message: str):
    with pytest.raises(UserError, match=message.replace("?", r"\?")) as error:
        read(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["{", '{"seed": 1, "seed": 2}', "seed: 1"])
def test_a_json_file_is_json(read, text: str):
    with pytest.raises(UserError, match=r"own\.json: "):
        read(text, name="own.json")


def test_a_missing_or_binary_file_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"there is no nowhere\.yaml: --config expects a file, or .*scenes"):
        parse_args(["--config", "nowhere.yaml"])
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\xfd")
    for path in (tmp_path, tmp_path / "bytes"):
        with pytest.raises(UserError, match=r"cannot be read|is not text in UTF-16"):
            parse_args(["--config", str(path)])


def test_settings_of_a_file_that_a_script_does_not_use_are_ignored_and_reported(read, capsys: pytest.CaptureFixture):
    cfg = read(to_json(replace(PRESETS["vit-b"], task="detection", score_threshold=0.5)), uses=INFERENCE)
    assert cfg == replace(CFG(), task="detection", score_threshold=0.5, coord_window=0)
    note = capsys.readouterr().err
    assert note.startswith("note: ") and note.count("\n") == 1
    assert "own.yaml: this script does not use preset, image_size," in note and re.search(r"and \d+ more$", note)


def test_a_script_of_one_task_keeps_it_and_reports_a_file_s(read, capsys: pytest.CaptureFixture):
    assert read("task: detection\nmax_points: 30", uses=TRAINING, only="captioning").tasks == ("captioning",)
    assert capsys.readouterr().err.endswith("own.yaml: this script does not use task\n")


# Recipes


def test_recipes_are_there():
    assert {"scenes", "coco_people", "pix2seq_resnet50", "pix2seq_vit_b", "multi_task_vit_b"} <= set(recipes())


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_trains_and_states_time_and_results(name: str, capsys, monkeypatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)  # its name means the same everywhere
    cfg = parse_args(["--config", name], None, TRAINING)
    assert cfg.train.run_dir == f"runs/{name}"
    assert capsys.readouterr().err == ""
    head = (ROOT / "recipes" / f"{name}.yaml").read_text(encoding="utf-8").split("\n\n")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    for word in ("command", "time", "measured"):
        assert re.search(rf"^# {word} ", head, re.MULTILINE), word
    commands = re.findall(r"(?:train|evaluate)/\w+\.py (?:.*\\\n#)*.*", head)
    assert len(commands) == 2 and f"--config {name}" in commands[0]
    for command in commands:
        script, *flags = command.replace("\\\n#", " ").partition("   (")[0].split()
        assert (ROOT / script).is_file()
        if "--start-from" in flags:  # a file that is fetched first
            start = flags.index("--start-from")
            del flags[start : start + 2]
        assert parse_args(flags, None, TRAINING if script.startswith("train/") else EVALUATION)


def test_the_recipe_of_the_shipped_weights_is_that_of_their_file():
    from safetensors import safe_open

    with safe_open(ROOT / "weights" / "scenes.safetensors", framework="numpy") as file:
        trained = json.loads(file.metadata()["cfg"])
    cfg = parse_args(["--config", "scenes"], None, TRAINING)
    known = {"resume": True, "ema_decay": 0.9995}  # made in two parts, with an average that was too slow
    assert trained["train"].pop("precision") == cfg.training_precision  # which is said by "auto" now
    for group in ("model", "data", "train"):
        for name, value in trained[group].items():
            if name in FIELDS and name not in known:
                assert value_of(cfg, name) == value, name


def test_a_name_means_a_recipe_and_a_path_a_file_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scenes").write_text("epochs: 3", encoding="utf-8")
    assert parse_args(["--config", "scenes"]).train.epochs == 18
    assert parse_args(["--config", "./scenes"]).train.epochs == 3


def test_ctrl_c_among_the_imports_of_a_script_shows_no_traceback(tmp_path: Path):
    (tmp_path / "argparse.py").write_text("raise KeyboardInterrupt", encoding="utf-8")
    places = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, str(ROOT / "train" / "train_multi_task.py")]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": places}, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "")
    assert done.returncode == -signal.SIGINT
