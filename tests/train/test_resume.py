"""A run that was stopped anywhere goes on as if it had not been, with nothing but the name of its folder."""

import errno
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from pix2seq import config
from pix2seq.command_line import TRAINING, parse_args
from pix2seq.config import CFG
from pix2seq.errors import UserError
from pix2seq.runtime import checkpoint
from pix2seq.runtime.checkpoint import load_checkpoint, save_checkpoint
from pix2seq.runtime.paths import ROOT
from pix2seq.train import engine, resume
from pix2seq.train.engine import Trainer, train
from pix2seq.train.preflight import failures
from tests.hostile import fuzz, mutated
from tests.train.test_engine import as_flags

CPU = torch.device("cpu")
RANDOM = dict(task="detection", dropout=0.2, attention_dropout=0.1, drop_path=0.2, batch_size=2, check_data=False)
FEW_TENSORS = dict(backbone="patches", backbone_kwargs="{}", encoder_width=8, decoder_width=8, decoder_layers=1)
STEPS = 12  # two epochs of six


@pytest.fixture(scope="module")
def run_cfg(tiny_model_cfg: CFG, scenes_root: Path) -> CFG:
    """Two epochs that draw at random in every layer, with a checkpoint every other step."""
    values = dict(epochs=2, data_root=str(scenes_root), save_steps=2, lr=1e-3, log_steps=4)
    return config.replace(tiny_model_cfg, **RANDOM, **values)


@pytest.fixture(scope="module")
def whole(run_cfg: CFG, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The final state of a run that nothing stopped, and its metrics."""
    folder = tmp_path_factory.mktemp("whole")
    train(config.replace(run_cfg, run_dir=str(folder)))
    return final(folder)


def final(folder: Path) -> dict:
    """The last checkpoint and the metrics but for times."""
    rows = (folder / "metrics.csv").read_text(encoding="utf-8").splitlines()
    timed = [rows[0].split(",").index(name) for name in ("images_per_s", "data_wait")]
    cells = [[cell for place, cell in enumerate(row.split(",")) if place not in timed] for row in rows]
    return load_checkpoint(folder / "checkpoint.pt", CPU) | {"metrics": cells}


def assert_same(found: object, expected: object, name: str = "") -> None:
    """Bit for bit, but for what the optimizers are given anew before each update."""
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), name
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), name
        for key in expected.keys() - {"cfg", "lr", "eps"}:
            assert_same(found[key], expected[key], f"{name}.{key}")
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), name
        for place, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_same(one, other, f"{name}.{place}")
    else:
        assert found == expected, name


def train_until(cfg: CFG, step: int, patch: pytest.MonkeyPatch, stop=KeyboardInterrupt) -> None:
    """Train until before step number `step`, where `stop` is raised, or called if it is a function."""
    learning_rate = engine.learning_rate

    def rate(now: int, *rest: object) -> float:
        if now == step:
            if isinstance(stop, type):
                raise stop
            stop()
        return learning_rate(now, *rest)

    with patch.context() as inner:
        inner.setattr(engine, "learning_rate", rate)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            train(cfg)


def resumed(folder: Path, *flags: str) -> CFG:
    return parse_args(["--resume", str(folder), *flags], None, TRAINING)


# Exactly


@pytest.mark.parametrize("step", [3, 7, 11])
def test_a_killed_run_goes_on_bit_for_bit(
    run_cfg: CFG, whole: dict, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    train_until(config.replace(run_cfg, run_dir=str(tmp_path / "run")), step, monkeypatch)
    assert load_checkpoint(tmp_path / "run" / "checkpoint.pt", CPU)["step"] == step // 2 * 2
    train(resumed(tmp_path / "run"))
    assert_same(final(tmp_path / "run"), whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_signal_ends_a_run_after_the_step_with_a_checkpoint(
    run_cfg: CFG,
    whole: dict,
    number: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
):
    cfg = config.replace(run_cfg, run_dir=str(tmp_path / "run"), save_steps=0)
    before = signal.getsignal(number)
    train_until(cfg, 4, monkeypatch, lambda: os.kill(os.getpid(), number))
    assert signal.getsignal(number) is before
    assert f"stopped after step 5 of {STEPS}; go on with --resume {tmp_path / 'run'}" in capsys.readouterr().out
    assert load_checkpoint(tmp_path / "run" / "checkpoint.pt", CPU)["step"] == 5
    train(resumed(tmp_path / "run"))
    assert_same(final(tmp_path / "run"), whole)


def killed_and_resumed(cfg: CFG, kills: list[tuple[int, int]]) -> tuple[int, list[str]]:
    """Train in processes of which each gets (signal, step); the exit status of the last, and what all printed."""
    script = [sys.executable, str(ROOT / "tests" / "train" / "resumed_run.py")]
    flags, printed, status = as_flags(cfg), [], 0
    for kill in [*kills, None]:
        environment = os.environ | ({"PIX2SEQ_TEST_KILL": f"{kill[0]:d}:{kill[1]}"} if kill else {})
        environment |= {} if kill else {"PIX2SEQ_TEST_KILL": ""}
        done = subprocess.run([*script, *flags], env=environment, capture_output=True, text=True, timeout=300)
        printed.append(done.stdout + done.stderr)
        status = done.returncode
        if (Path(cfg.train.run_dir) / "checkpoint.pt").exists():
            flags = ["--resume", cfg.train.run_dir]
    return status, printed


@pytest.mark.slow
def test_a_stopped_run_ends_with_its_loading_processes(run_cfg: CFG, tmp_path: Path):
    cfg = config.replace(run_cfg, run_dir=str(tmp_path / "run"), workers=2)
    flags = [sys.executable, str(ROOT / "tests" / "train" / "resumed_run.py"), *as_flags(cfg)]
    environment = os.environ | {"PIX2SEQ_TEST_KILL": f"{signal.SIGTERM:d}:3"}
    done = subprocess.run(flags, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert "stopped after step 4" in done.stdout


@pytest.mark.slow
def test_twenty_four_random_kills_change_no_bit(run_cfg: CFG, tmp_path: Path):
    chance = random.Random(0)
    runs = [config.replace(run_cfg, run_dir=str(tmp_path / str(number)), workers=number % 2) for number in range(5)]
    status, _ = killed_and_resumed(runs[0], [])
    assert status == 0
    expected = final(tmp_path / "0")
    for cfg in runs[1:]:
        steps = sorted(chance.sample(range(2, STEPS), 6))
        kills = [(chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT]), at) for at in steps]
        status, printed = killed_and_resumed(cfg, kills)
        assert status == 0, printed[-1]
        assert_same(final(Path(cfg.train.run_dir)), expected)
        assert not list(Path(cfg.train.run_dir).glob("*.partial"))


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_go_on_bit_for_bit(run_cfg: CFG, torchrun: list[str], tmp_path: Path, parallel: str):
    """After a kill, by the user's --resume or by torchrun itself."""
    script = str(ROOT / "tests" / "train" / "resumed_run.py")
    cfg, states = config.replace(run_cfg, batch_size=1, parallel=parallel), []
    for name, kill, options in (
        ("whole", "", []),
        ("killed", f"{signal.SIGKILL:d}:3", []),
        ("restarted", f"{signal.SIGKILL:d}:3", ["--max-restarts", "1"]),
    ):
        flags = as_flags(config.replace(cfg, run_dir=str(tmp_path / name)))
        environment = os.environ | {"PIX2SEQ_TEST_KILL": kill}
        command = [*torchrun, *options, script, *flags]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert bool(done.returncode) == (name == "killed"), done.stderr[-2000:]
        if name == "killed":
            command = [*torchrun, script, "--resume", str(tmp_path / name)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stderr[-2000:]
            assert "not exact" not in done.stdout
        states.append(final(tmp_path / name))
    assert len(states[0]["random"]) == 2
    for state in states:
        del state["metrics"]
    assert_same(states[1], states[0])
    assert_same(states[2], states[0])


@pytest.mark.slow
def test_one_process_goes_on_from_the_checkpoint_of_sharded_ones(
    run_cfg: CFG, torchrun: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
):
    script = str(ROOT / "tests" / "train" / "resumed_run.py")
    flags = as_flags(config.replace(run_cfg, batch_size=1, parallel="fsdp", epochs=1, run_dir=str(tmp_path / "run")))
    done = subprocess.run([*torchrun, script, *flags], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    train(resumed(tmp_path / "run", "--epochs", "2"))
    assert "not exact: 1 processes instead of 2" in capsys.readouterr().out
    assert final(tmp_path / "run")["epoch"] == 2


def test_a_run_whose_folder_is_removed_loses_nothing_that_it_has_learned(
    run_cfg: CFG, whole: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    """It makes the folder again, with a checkpoint of the same step, from which it can go on."""
    cfg, run = config.replace(run_cfg, run_dir=str(tmp_path / "run"), save_steps=0), tmp_path / "run"

    def remove_then_stop() -> None:
        shutil.rmtree(run)
        os.kill(os.getpid(), signal.SIGTERM)

    train_until(cfg, 4, monkeypatch, remove_then_stop)
    assert capsys.readouterr().err.count("was removed: it is made again") == 1
    train(resumed(run))
    found = final(run)
    assert [row[0] for row in found["metrics"]] == ["step", *(row[0] for row in whole["metrics"][2:])]
    assert_same({**found, "metrics": [], "rows": 0}, {**whole, "metrics": [], "rows": 0})


# With what changes


@pytest.fixture(scope="module")
def stopped(run_cfg: CFG, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was killed after its sixth step, with the checkpoints of two steps."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch:
        train_until(config.replace(run_cfg, run_dir=str(folder)), 5, patch)
    return folder


@pytest.fixture
def copied(stopped: Path, tmp_path: Path) -> Path:
    """A copy of that folder."""
    folder = tmp_path / "run"
    folder.mkdir()
    for path in stopped.iterdir():
        if path.is_file() and not path.name.startswith("."):
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_changed_settings_are_listed_and_reach_the_optimizers(copied: Path, capsys: pytest.CaptureFixture):
    trainer = Trainer(resumed(copied, "--lr", "0.5", "--epochs", "3", "--weight-decay", "0", "--beta2", "0.9"))
    printed = capsys.readouterr().out
    assert "changed from here on: epochs 2 → 3, lr 0.001 → 0.5, weight_decay 0.05 → 0.0, beta2 0.95 → 0.9" in printed
    assert "not exact" not in printed
    groups = [group for part in trainer.optimizers.parts for group in part.param_groups]
    assert all(group["weight_decay"] == 0 for group in groups) and groups[0]["betas"][1] == 0.9
    assert all(len(state) for part in trainer.optimizers.parts for state in part.state.values())
    assert (trainer.step, trainer.total_steps) == (4, 18)
    trainer.close()


@pytest.mark.parametrize("flags", ["--image-size 96", "--seed 3", "--optimizer adamw", "--decoder-width 48"])
def test_settings_that_made_the_run_cannot_change(copied: Path, flags: str):
    with pytest.raises(UserError, match=rf"{flags.split()[0]} is {flags.split()[1]}, but .* --start-from"):
        Trainer(resumed(copied, *flags.split()))


def test_another_batch_size_goes_on_behind_the_images_that_were_seen(copied: Path):
    trainer = Trainer(resumed(copied, "--batch-size", "4"))
    trainer.begin_epoch(0)
    assert (trainer.sampler.done, len(trainer.sampler)) == (2, 3)
    assert trainer.total_steps == 4 + 1 + 3
    trainer.close()


def test_other_classes_are_refused_and_never_renumbered(copied: Path):
    state = load_checkpoint(copied / "checkpoint.pt", CPU)
    names = state["labels"]["class_names"]
    one, two, *_ = names
    names[one], names[two] = names[two], names[one]
    save_checkpoint(copied / "checkpoint.pt", state)
    with pytest.raises(UserError, match=f"the classes of the data are not those .*{one}: {names[one]} then"):
        Trainer(resumed(copied))


def test_a_checkpoint_of_an_earlier_version_goes_on_and_says_what_is_not_exact(
    copied: Path, capsys: pytest.CaptureFixture
):
    state = load_checkpoint(copied / "checkpoint.pt", CPU)
    known = ("trained", "average", "optimizers", "step", "epoch", "best", "task")
    save_checkpoint(copied / "checkpoint.pt", {name: state[name] for name in known})
    trainer = Trainer(resumed(copied))
    assert trainer.step == 4 and "not exact: the checkpoint is of an earlier version" in capsys.readouterr().out
    trainer.close()


# What may be damaged


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone", "nan"])
def test_the_checkpoint_before_is_used_if_the_newest_is_damaged(
    copied: Path, damage: str, capsys: pytest.CaptureFixture
):
    path = copied / "checkpoint.pt"
    content = bytearray(path.read_bytes())
    if damage == "nan":
        state = load_checkpoint(path, CPU)
        next(iter(state["trained"].values()))[0] = torch.nan
        torch.save(state, path)
    elif damage == "gone":
        path.unlink()
    else:
        middle = len(content) // 2
        content[middle] ^= 0xFF
        path.write_bytes(content[:middle] if damage == "cut" else content)
    assert load_checkpoint(path, CPU)["step"] == 2
    assert "going on from checkpoint.previous.pt, the one before it" in capsys.readouterr().err


def test_damaged_rows_of_metrics_stop_no_resume(copied: Path, capsys: pytest.CaptureFixture):
    with (copied / "metrics.csv").open("ab") as file:
        file.write(b'x,1,2\n\0\0\0\n\xff\xfe\n"' + b"9" * 200_000 + b"\n3")
    Trainer(resumed(copied)).close()
    assert "rows were damaged and are left out" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["pipe", "endless"])
def test_metrics_that_are_no_file_of_rows_are_left_out(copied: Path, kind: str, capsys: pytest.CaptureFixture):
    (copied / "metrics.csv").unlink()
    if kind == "pipe":
        os.mkfifo(copied / "metrics.csv")
    else:
        (copied / "metrics.csv").touch()
        os.truncate(copied / "metrics.csv", 2**40)
    Trainer(resumed(copied)).close()
    assert "metrics.csv cannot be read (it" in capsys.readouterr().err


def test_a_full_disk_leaves_the_last_checkpoint_and_nothing_else(
    copied: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    before = sorted(path.name for path in copied.iterdir())
    state = load_checkpoint(copied / "checkpoint.pt", CPU)

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for module, name in ((checkpoint.torch, "save"), (os, "fsync")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, fail)
            with pytest.raises(UserError, match=r"cannot be written \(No space left on device\); .*--resume"):
                save_checkpoint(copied / "checkpoint.pt", state)
        assert sorted(path.name for path in copied.iterdir()) == before
    assert load_checkpoint(copied / "checkpoint.pt", CPU)["step"] == 4


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (MemoryError(), "not enough memory for --batch-size 2 at --image-size .*lower one"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory"), "lower one of them, and go on with"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "loads images has ended .* --workers"),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full .*--resume"),
    ],
)
def test_what_a_machine_does_to_a_run_is_a_sentence(run_cfg: CFG, error: Exception, advice: str):
    with pytest.raises(UserError, match=advice) as shown, failures(run_cfg):
        raise error
    assert "\n" not in str(shown.value)


def test_a_state_that_is_not_finite_is_not_saved(copied: Path):
    state = load_checkpoint(copied / "checkpoint.pt", CPU)
    next(iter(state["trained"].values()))[0] = torch.inf
    with pytest.raises(UserError, match=r"not finite in 1 tensors, among them trained\."):
        save_checkpoint(copied / "checkpoint.pt", state)
    assert load_checkpoint(copied / "checkpoint.pt", CPU)["step"] == 4


# What a stranger may have written


def written(path: Path, pickled: bytes) -> None:
    """An archive such as torch's, with this pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (("data.pkl", pickled), ("version", b"3\n"), ("byteorder", b"little")):
            archive.writestr(f"archive/{name}", content)


def shared_parts(path: Path) -> None:
    """An archive of a thousand parts, all of which are the same bytes."""
    written(path, bytes(9999))
    content = path.read_bytes()
    start = content.index(b"PK\1\2")
    entry, end = content[start : content.index(b"PK\1\2", start + 4)], content[content.index(b"PK\5\6") :]
    counts = struct.pack("<HHI", 1000, 1000, 1000 * len(entry))
    path.write_bytes(content[:start] + 1000 * entry + end[:8] + counts + end[16:])


HOSTILE = {
    "parts that share their bytes": shared_parts,
    "expanded": lambda path: torch.save({"a": torch.ones(1).expand(10**12)}, path),
    "meta": lambda path: torch.save({"a": torch.empty(10**9, device="meta")}, path),
    "sparse": lambda path: torch.save({"a": torch.eye(2).to_sparse()}, path),
    "complex": lambda path: torch.save({"a": torch.tensor([complex("nan")])}, path),
    "holds itself": lambda path: written(path, b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s."),
    "a list that holds itself": lambda path: written(path, b"\x80\x02}q\x00X\x01\x00\x00\x00a]q\x01h\x01as."),
    "deep": lambda path: written(path, b"\x80\x02}X\x01\x00\x00\x00a" + b"]" * 9999 + b"a" * 9998 + b"s."),
    "code": lambda path: torch.save({"a": os.system}, path),
    "no names": lambda path: torch.save({1: 2}, path),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_checkpoint_is_refused(tmp_path: Path, kind: str):
    HOSTILE[kind](tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match=r"checkpoint\.pt cannot be read"):
        load_checkpoint(tmp_path / "checkpoint.pt", CPU)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("step", -1), ("epoch", "x"), ("best", float("nan")), ("task", None), ("cfg", "[" * 10_000), ("rows", [])),
        *(("trained", torch.ones(2)), ("trained", {}), ("optimizers", []), ("optimizers", [{}, {}])),
        *(
            ("labels", {"class_names": {}}),
            ("labels", None),
            ("random", [{"cpu": torch.ones(3)}]),
            ("random", [{}]),
            ("recent", [3]),
        ),
        *(("skipped", [1]), ("world_size", 0)),
    ],
)
def test_a_state_of_no_run_is_refused(copied: Path, name: str, value: object):
    state = load_checkpoint(copied / "checkpoint.pt", CPU)
    torch.save(state | {name: value}, copied / "checkpoint.pt")
    (copied / "checkpoint.previous.pt").unlink()
    with pytest.raises(UserError, match=r"checkpoint") as error:
        Trainer(resumed(copied))
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("count", [30, pytest.param(3000, marks=pytest.mark.slow)])
def test_mutated_states_are_resumed_or_refused(
    run_cfg: CFG, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
):
    """All that a resume does with a checkpoint but building the model anew; of few tensors, so that most tries change
    something else, and none takes long."""
    path, chance = tmp_path / "run" / "checkpoint.pt", random.Random(0)
    train_until(config.replace(run_cfg, **FEW_TENSORS, run_dir=str(path.parent)), 3, monkeypatch)
    cfg = resumed(path.parent)
    trainer, good = Trainer(cfg), load_checkpoint(path, CPU)

    def go_on(state: dict) -> None:
        torch.save(state, path)
        state = resume.read_state(path, CPU)
        resume.require_same_run(state, cfg)
        resume.vocabulary_in(state)
        resume.require_same_labels(state, trainer)
        resume.restore(trainer, state)

    counts = fuzz("checkpoint's values", (mutated(good, chance) for _ in range(count)), go_on)
    trainer.close()
    assert counts["refused"] and counts["accepted"]


def test_losses_of_no_task_of_the_run_are_left_out(copied: Path):
    state = load_checkpoint(copied / "checkpoint.pt", CPU)
    save_checkpoint(copied / "checkpoint.pt", state | {"recent": [{"detection": 2.5, "x\x1b": 1.0}]})
    trainer = Trainer(resumed(copied))
    trainer.close()
    assert trainer.recent == [{"detection": 2.5}]


def test_moments_of_another_shape_are_refused(copied: Path):
    state = load_checkpoint(copied / "checkpoint.pt", CPU)
    moments = next(iter(state["optimizers"][0]["state"].values()))
    moments["exp_avg"] = torch.ones(7, 7, 7)
    save_checkpoint(copied / "checkpoint.pt", state)
    with pytest.raises(UserError, match="exp_avg has another shape"):
        Trainer(resumed(copied))
