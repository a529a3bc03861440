"""A run in a tracker: its rows and images arrive once, whatever stops it, and nothing else does."""

import importlib.machinery
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pix2seq import config
from pix2seq.command_line import TRAINING, parse_args
from pix2seq.config import CFG
from pix2seq.errors import UserError
from pix2seq.train import trackers
from pix2seq.train.engine import train
from pix2seq.train.trackers import Tracker, sent_settings
from tests.train.test_resume import train_until

NUMBERS = {"loss/detection": 0.5}


class Recorder(ModuleType):
    """A package with the functions of trackio and wandb, which keeps what it is given."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)
        self.begun: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.finished = 0
        self.Image = lambda pixels: pixels.shape
        self.Settings = lambda **values: values

    def init(self, **options: Any) -> SimpleNamespace:
        self.begun.append(options)
        return SimpleNamespace(log=lambda values, step: self.logged.append((step, values)), finish=self.finish)

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Recorder]:
    """Install a recorder in the place of a tracker."""

    def install(name: str) -> Recorder:
        recorder = Recorder(name)
        monkeypatch.setitem(sys.modules, name, recorder)
        return recorder

    return install


def tracked(cfg: CFG, kind: str, **values: Any) -> CFG:
    return config.replace(cfg, tracker=kind, task="detection", **values)


@pytest.mark.parametrize("kind", ["trackio", "wandb"])
def test_rows_and_images_of_a_run_arrive(tiny_cfg: CFG, installed: Callable[[str], Recorder], kind: str):
    recorder = installed(kind)
    train(tracked(tiny_cfg, kind, log_steps=2, example_images=1, max_objects=2, eval_every=1, max_images=2))
    names = {name for _, values in recorder.logged for name in values}
    assert {"loss/detection", "val/detection", "lr", "eval/detection/AP"} <= names
    pictures = [
        values["val/detection"] for _, values in recorder.logged if isinstance(values.get("val/detection"), tuple)
    ]
    assert len(pictures) == 1 and pictures[0][2] == 3
    assert recorder.finished == 1


def test_a_killed_run_goes_on_as_the_same_and_every_row_arrives_once(
    tiny_cfg: CFG, installed: Callable[[str], Recorder], monkeypatch: pytest.MonkeyPatch
):
    recorder = installed("trackio")
    cfg = tracked(tiny_cfg, "trackio", epochs=3, batch_size=2, save_steps=2, log_steps=1)
    train_until(cfg, 9, monkeypatch)
    assert [step for step, _ in recorder.logged] == [1, 2, 3, 4, 5, 6, 6, 7, 8, 9]
    train(parse_args(["--resume", cfg.train.run_dir], None, TRAINING))
    assert [step for step, _ in recorder.logged] == [1, 2, 3, 4, 5, 6, 6, *range(7, 13), 12, *range(13, 19), 18]
    first, second = recorder.begun
    assert first["name"] == second["name"] and second["resume"] == "allow"


def test_a_new_run_in_the_same_folder_is_another_one(tiny_cfg: CFG, installed: Callable[[str], Recorder]):
    recorder = installed("trackio")
    train(tracked(tiny_cfg, "trackio"))
    train(tracked(tiny_cfg, "trackio", overwrite=True))
    first, second = recorder.begun
    assert first["name"] != second["name"]


def test_wandb_stays_offline_unless_the_user_says_otherwise(
    tiny_cfg: CFG, tmp_path: Path, installed: Callable[[str], Recorder], monkeypatch: pytest.MonkeyPatch
):
    recorder = installed("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    Tracker(tracked(tiny_cfg, "wandb"), tmp_path)
    monkeypatch.setenv("WANDB_MODE", "online")
    Tracker(tracked(tiny_cfg, "wandb"), tmp_path)
    assert [options["mode"] for options in recorder.begun] == ["offline", "online"]
    assert recorder.begun[0]["settings"]["x_disable_meta"] and recorder.begun[0]["dir"] == str(tmp_path)


@pytest.mark.parametrize("name", ["../../../elsewhere", "/tmp/x", "..", "a\x1b-01234567", "a" * 999])
def test_a_name_that_no_run_got_here_is_not_used(
    tiny_cfg: CFG, installed: Callable[[str], Recorder], tmp_path: Path, name: str
):
    recorder = installed("trackio")
    (tmp_path / trackers.TRACKED_AS).write_text(f"trackio {name}\n", encoding="utf-8")
    Tracker(tracked(tiny_cfg, "trackio"), tmp_path)
    assert recorder.begun[0]["name"] != name and trackers.NAME.fullmatch(recorder.begun[0]["name"])


def test_no_path_and_no_name_of_a_class_is_sent():
    parsed = {*trackers.NAMED, "task_weights"}
    texts = [name for name, field in config.FIELDS.items() if field.type == "str" and name not in parsed]
    free = {name: "private" for name in texts if not config.what_is_wrong(name, "private")}
    assert {"data_root", "run_dir", "start_from", "classes", "domain"} <= free.keys()
    sent = sent_settings(config.replace(CFG(), **free))
    assert "private" not in sent.values()
    assert sent["lr"] == CFG().train.lr and sent["task"]


def test_a_tracker_that_is_not_installed_is_named_before_anything_is_read(
    tiny_cfg: CFG, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(UserError, match=r"trackio, which is not installed: pip install .*\[trackio\]"):
        train(tracked(tiny_cfg, "trackio", data_root="nowhere"))
    assert not Path(tiny_cfg.train.run_dir).exists()


def test_a_tracker_that_cannot_begin_is_one_sentence(
    tiny_cfg: CFG, tmp_path: Path, installed: Callable[[str], Recorder], monkeypatch: pytest.MonkeyPatch
):
    def refuse(**_: Any) -> None:
        raise OSError("no network\nat all")

    monkeypatch.setattr(installed("wandb"), "init", refuse)
    with pytest.raises(UserError, match=r"^wandb cannot begin a run \(no network at all\); .* leave out --tracker$"):
        Tracker(tracked(tiny_cfg, "wandb"), tmp_path)
    assert not (tmp_path / "tracker.txt").exists()


def test_a_tracker_that_fails_later_is_said_once(
    tiny_cfg: CFG, tmp_path: Path, installed: Callable[[str], Recorder], capsys: pytest.CaptureFixture
):
    installed("trackio")
    tracker = Tracker(tracked(tiny_cfg, "trackio"), tmp_path)
    tracker.run.log = lambda values, step: [][0]
    tracker.add(5, NUMBERS)
    tracker.add_pictures(5, {"val/detection": np.zeros((4, 4, 3), np.uint8)})
    assert capsys.readouterr().err.count("the tracker lacks values of step 5") == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["trackio", "wandb"])
def test_the_real_packages_take_a_run_without_a_network(
    tiny_cfg: CFG, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip(kind)
    for turn in range(2):
        tracker = Tracker(tracked(tiny_cfg, kind), tmp_path)
        assert tracker.goes_on == bool(turn)
        tracker.add(5 * turn, NUMBERS)
        tracker.add_pictures(5 * turn, {"val/detection": np.zeros((4, 4, 3), np.uint8)})
        tracker.close()
        assert not tracker.failed
