"""Training runs: they reduce the loss, write their files, resume, and refuse settings that cannot work."""

import copy
import csv
import dataclasses
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.dataset.batches import Batch
from pix2seq.errors import UserError
from pix2seq.models.weights import load_weights
from pix2seq.runtime.checkpoint import load_checkpoint, save_checkpoint
from pix2seq.runtime.paths import ROOT
from pix2seq.tasks import TASKS
from pix2seq.train import finite, resume
from pix2seq.train.engine import Trainer, batch_losses, train


def weights_of(cfg: CFG, name: str = "last.safetensors") -> dict[str, torch.Tensor]:
    return load_weights(Path(cfg.train.run_dir) / name).model.state_dict()


def rows_of(cfg: CFG) -> list[dict[str, str]]:
    with (Path(cfg.train.run_dir) / "metrics.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def as_flags(cfg: CFG) -> list[str]:
    """The command line of settings that differ from the defaults."""
    flags = []
    default = CFG()
    for part, plain in ((cfg, default), *((getattr(cfg, g), getattr(default, g)) for g in ("model", "data", "train"))):
        for name, value in vars(part).items():
            if value != getattr(plain, name) and name not in ("model", "data", "train", "infer", "given"):
                flag = name.replace("_", "-")
                flags += (
                    [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
                )
    return flags


@pytest.fixture(scope="module")
def finished(tiny_model_cfg: CFG, scenes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> CFG:
    """The settings of a finished run of two epochs."""
    folder = tmp_path_factory.mktemp("run")
    cfg = config.replace(tiny_model_cfg, data_root=str(scenes_root), run_dir=str(folder), epochs=2)
    train(cfg)
    return cfg


# What a run writes


@pytest.mark.parametrize(
    "name", ["best.safetensors", "last.safetensors", "checkpoint.pt", "metrics.csv", "curves.png", "cfg.json"]
)
def test_a_run_writes(finished: CFG, name: str):
    assert (Path(finished.train.run_dir) / name).stat().st_size > 0


def test_a_run_leaves_nothing_unfinished(finished: CFG):
    assert not list(Path(finished.train.run_dir).glob("*.partial"))


def test_metrics_hold_the_validation_loss_of_every_task_and_epoch(finished: CFG):
    rows = [row for row in rows_of(finished) if row["val/detection"]]
    assert [int(row["step"]) for row in rows] == [3, 6]
    assert all(float(row[f"val/{task}"]) > 0 for row in rows for task in TASKS)


def test_metrics_hold_the_training_loss_every_few_steps(tiny_cfg: CFG):
    train(config.replace(tiny_cfg, task="keypoint", batch_size=2, steps_per_epoch=3, epochs=2, log_steps=2))
    rows = [row for row in rows_of(tiny_cfg) if row["loss/keypoint"]]
    assert [int(row["step"]) for row in rows] == [2, 4, 6]
    assert all(float(row["grad_norm"]) > 0 and 0 <= float(row["data_wait"]) <= 1 for row in rows)


def test_curves_are_an_image(finished: CFG):
    with Image.open(Path(finished.train.run_dir) / "curves.png") as image:
        assert min(image.size) > 300


def test_written_weights_name_classes_words_and_settings(finished: CFG):
    weights = load_weights(Path(finished.train.run_dir) / "best.safetensors")
    assert weights.cfg == finished
    assert weights.class_names[1] == "person"
    assert weights.text["words"][0] == "<unk>" and "a" in weights.text["words"]


# Learning


def test_a_few_images_are_learned(tiny_cfg: CFG):
    cfg = config.replace(tiny_cfg, flip=0.0, crop_flip=0.0, box_jitter=0.0, color_jitter=0.0, warmup_steps=0)
    cfg = config.replace(cfg, min_scale=1.0, max_scale=1.0, crop_min_scale=1.0, crop_max_scale=1.0)
    trainer = Trainer(config.replace(cfg, schedule="constant", lr=3e-3, captions_per_image=1, orders_per_image=1))
    trainer.begin_epoch(0)
    batch = next(iter(trainer.loader)).to(trainer.device)
    losses = []
    for _ in range(40):
        losses.append({task: loss.item() for task, loss in trainer.train_step(batch, 3e-3)[0].items()})
    for task in TASKS:
        assert losses[-1][task] < 0.8 * losses[0][task], task


def test_one_task_alone_can_be_trained(tiny_cfg: CFG):
    cfg = config.replace(tiny_cfg, task="keypoint", steps_per_epoch=1)
    train(cfg)
    assert [name for name in rows_of(cfg)[0] if name.startswith("val/")] == ["val/keypoint"]


def test_steps_per_epoch_limits_an_epoch(tiny_cfg: CFG):
    trainer = Trainer(config.replace(tiny_cfg, steps_per_epoch=2, epochs=3))
    assert trainer.total_steps == 6


def test_task_weights_scale_the_gradient(tiny_cfg: CFG):
    def after_one_step(weights: str) -> dict[str, torch.Tensor]:
        trainer = Trainer(config.replace(tiny_cfg, task_weights=weights, auxiliary_weight=0.0, clip_norm=0.0))
        trainer.begin_epoch(0)
        batch = next(iter(trainer.loader)).to(trainer.device)
        trainer.train_step(batch, 1e-3)
        return {name: p.grad for name, p in trainer.model.named_parameters()}

    alone, all_tasks, double = (after_one_step(weights) for weights in ("1,0,0,0", "1,1,1,1", "2,0,0,0"))
    name = "decoder.norm.weight"
    torch.testing.assert_close(double[name], 2 * alone[name])
    assert not torch.allclose(all_tasks[name], alone[name])


# Crops so narrow that no object is to be seen whole: most batches have no targets.
NARROW = dict(task="segmentation", segment_whole=True, auxiliary_weight=0.0, batch_size=1, min_visible=1.0)


def test_a_batch_without_targets_changes_nothing(tiny_cfg: CFG):
    trainer = Trainer(config.replace(tiny_cfg, auxiliary_weight=0.0))
    trainer.begin_epoch(0)
    batch = next(iter(trainer.loader)).to(trainer.device)
    trainer.train_step(batch, 1e-3)  # the optimizers have moments now, which would move the weights on
    before = copy.deepcopy(resume.collect(trainer))
    losses, grad_norm = trainer.train_step(batch.with_tasks({}), 1e-3)
    assert losses == {} and grad_norm == 0
    after = resume.collect(trainer)
    for part in ("trained", "average"):
        assert all(torch.equal(after[part][name], tensor) for name, tensor in before[part].items())


def test_a_run_whose_batches_have_no_targets_finishes(tiny_cfg: CFG):
    cfg = config.replace(tiny_cfg, **NARROW, crop_min_scale=8.0, crop_max_scale=10.0)
    train(cfg)
    assert [int(row["step"]) for row in rows_of(cfg)] == [12]


def test_the_first_small_epochs_use_a_smaller_canvas(tiny_cfg: CFG):
    trainer = Trainer(config.replace(tiny_cfg, small_epochs=1))
    sizes = []
    for epoch in (0, 1):
        trainer.begin_epoch(epoch)
        sizes.append(next(iter(trainer.loader)).images.shape[-1])
    assert sizes == [42, 64]


def test_validation_is_the_same_every_time(tiny_cfg: CFG):
    trainer = Trainer(tiny_cfg)
    assert trainer.validate() == pytest.approx(trainer.validate(), rel=1e-5)


def test_mixed_precision_gives_nearly_the_same_losses(tiny_cfg: CFG):
    single, mixed = (Trainer(config.replace(tiny_cfg, precision=name)).validate() for name in ("fp32", "bf16"))
    assert mixed == pytest.approx(single, rel=0.02)


# Going on


def test_one_epoch_and_resume_equal_two_epochs(finished: CFG, tmp_path: Path):
    cfg = config.replace(finished, run_dir=str(tmp_path / "run"), steps_per_epoch=0)
    train(config.replace(cfg, limit_minutes=1e-6))  # stops after its first epoch
    cfg = config.replace(cfg, limit_minutes=0.0)
    train(config.replace(cfg, resume=True))
    expected = weights_of(finished)
    for name, found in weights_of(cfg).items():
        torch.testing.assert_close(found, expected[name], atol=1e-5, rtol=0)
    columns = ["step", *(f"val/{task}" for task in TASKS)]
    rows, others = ([[float(row[name]) for name in columns] for row in rows_of(each)] for each in (cfg, finished))
    np.testing.assert_allclose(rows, others, rtol=1e-4)


def test_a_time_limit_stops_after_an_epoch(tiny_cfg: CFG, capsys: pytest.CaptureFixture):
    cfg = config.replace(tiny_cfg, epochs=5, steps_per_epoch=1, limit_minutes=1e-6)
    train(cfg)
    assert len(rows_of(cfg)) == 1
    assert "--resume" in capsys.readouterr().out


def test_resume_without_a_checkpoint_is_refused(tiny_cfg: CFG):
    with pytest.raises(UserError, match="start without --resume"):
        Trainer(config.replace(tiny_cfg, resume=True))


def test_resume_with_another_model_is_refused(finished: CFG):
    with pytest.raises(UserError, match="other settings"):
        Trainer(config.replace(finished, resume=True, decoder_width=48))


@pytest.mark.parametrize("task", ["detection", "captioning,detection,segmentation,keypoint"])
def test_resume_with_other_tasks_is_refused_and_keeps_the_metrics(finished: CFG, task: str):
    before = rows_of(finished)
    with pytest.raises(UserError, match=rf"--task is {task}, but .*checkpoint\.pt was written with {finished.task};"):
        Trainer(config.replace(finished, resume=True, task=task))
    assert rows_of(finished) == before


def test_a_checkpoint_of_an_older_version_names_no_tasks(finished: CFG, tmp_path: Path):
    state = load_checkpoint(Path(finished.train.run_dir) / "checkpoint.pt", torch.device("cpu"))
    del state["task"]
    save_checkpoint(tmp_path / "checkpoint.pt", state)
    assert Trainer(config.replace(finished, resume=True, run_dir=str(tmp_path))).step == 6


def test_a_damaged_checkpoint_is_refused(tmp_path: Path):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match=r"checkpoint\.pt cannot be read"):
        load_checkpoint(path, torch.device("cpu"))


def test_a_checkpoint_runs_no_code(tmp_path: Path):
    class Malicious:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "proof"),)

    save_checkpoint(tmp_path / "checkpoint.pt", {"model": Malicious()})
    with pytest.raises(UserError):
        load_checkpoint(tmp_path / "checkpoint.pt", torch.device("cpu"))
    assert not (tmp_path / "proof").exists()


# What cannot work


@pytest.mark.parametrize(
    "values, message",
    [
        ({"task": "detektion"}, "--task"),
        ({"task_weights": "1,2"}, "--task-weights"),
        ({"device": "nonsense"}, "--device"),
        ({"data_root": "/no/such/folder"}, "--data-root"),
        ({"max_objects": 60}, "--max-tokens"),
        ({"max_points": 90}, "--max-tokens"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_cannot_work_are_refused(tiny_cfg: CFG, values: dict, message: str):
    with pytest.raises(UserError, match=message):
        train(config.replace(tiny_cfg, **values))


def test_a_wrong_task_is_refused_before_anything_is_written(tiny_cfg: CFG):
    with pytest.raises(UserError):
        Trainer(config.replace(tiny_cfg, task="detektion"))
    assert not Path(tiny_cfg.train.run_dir).exists()


@pytest.mark.parametrize("name", ["file", "file/run"])
def test_a_run_folder_that_cannot_be_written_to_is_refused(tiny_cfg: CFG, tmp_path: Path, name: str):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=rf"{name} cannot be written to .*--run-dir"):
        Trainer(config.replace(tiny_cfg, run_dir=str(tmp_path / name)))


def test_a_step_that_is_not_finite_changes_nothing_and_names_its_images(tiny_cfg: CFG, capsys: pytest.CaptureFixture):
    trainer = Trainer(tiny_cfg)
    trainer.begin_epoch(0)
    batch = next(iter(trainer.loader)).to(trainer.device)
    trainer.train_step(batch, 1e-3)
    before = copy.deepcopy(resume.collect(trainer))
    bad = dataclasses.replace(batch, images=torch.full_like(batch.images, torch.nan))
    losses, grad_norm = trainer.train_step(bad, 1e-3)
    assert losses == {} and not torch.isfinite(grad_norm)
    assert "not finite at step 0 (detection nan" in (printed := capsys.readouterr().out)
    assert all(name in printed for name in batch.names) and "1 steps skipped so far" in printed
    after = resume.collect(trainer)
    for part in ("trained", "average"):
        assert all(torch.equal(after[part][name], tensor) for name, tensor in before[part].items())
    assert after["skipped"] == [1, 1, 0]
    assert trainer.train_step(batch, 1e-3)[0] and trainer.finite.in_a_row == 0


def test_too_many_steps_in_a_row_that_are_not_finite_stop_a_run_without_checkpoint(
    tiny_cfg: CFG, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(finite, "MOST_IN_A_ROW", 2)
    trainer = Trainer(tiny_cfg)
    with torch.no_grad():
        trainer.model.decoder.bias[5] = torch.nan
    with pytest.raises(UserError, match=r"2 steps in a row were not finite.*\(none is there\).*lower --lr"):
        trainer.run()
    assert not (trainer.folder / "checkpoint.pt").exists()


def test_they_bring_back_the_last_checkpoint_with_half_the_rate(
    tiny_cfg: CFG, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    """What spoils the weights of this run once is gone after the return."""
    monkeypatch.setattr(finite, "MOST_IN_A_ROW", 2)
    trainer = Trainer(config.replace(tiny_cfg, batch_size=1, save_steps=2, schedule="constant", warmup_steps=0))
    rates = []

    def step(batch: Batch, rate: float, counts: dict) -> tuple:
        rates.append(rate)
        if trainer.step == 5 and not trainer.finite.returns:
            with torch.no_grad():
                trainer.model.decoder.bias[5] = torch.nan
        return Trainer.train_step(trainer, batch, rate, counts)

    trainer.train_step = step
    trainer.run()
    assert "the weights are those of step 4 again, the learning rate is 0.5 of" in capsys.readouterr().out
    assert rates == [tiny_cfg.train.lr] * 7 + [tiny_cfg.train.lr / 2] * 5
    assert (trainer.step, trainer.finite.skipped, trainer.finite.in_a_row) == (12, 2, 0)
    state = load_checkpoint(trainer.folder / "checkpoint.pt", torch.device("cpu"))
    trainer.close()
    assert state["skipped"] == [2, 0, 1]
    assert Trainer(config.replace(trainer.cfg, resume=True)).finite.rate_factor == 0.5


def test_a_run_that_went_back_three_times_in_vain_stops(
    tiny_cfg: CFG, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr(finite, "MOST_IN_A_ROW", 2)
    trainer = Trainer(config.replace(tiny_cfg, batch_size=1, save_steps=1))
    good = Trainer.train_step

    def step(batch: Batch, rate: float, counts: dict) -> tuple:
        spoiled = torch.full_like(batch.images, torch.nan) if trainer.step else batch.images
        return good(trainer, dataclasses.replace(batch, images=spoiled), rate, counts)

    trainer.train_step = step
    with pytest.raises(UserError, match=r"2 steps in a row were not finite.*3 times half the learning rate"):
        trainer.run()
    assert capsys.readouterr().out.count("went back: ") == 3
    assert load_checkpoint(trainer.folder / "checkpoint.pt", torch.device("cpu"))["skipped"] == [6, 0, 3]


def test_missing_images_are_one_clear_line_with_worker_processes_too(tiny_cfg: CFG, tmp_path: Path):
    root = tmp_path / "scenes"
    root.mkdir()
    (root / "annotations").symlink_to(Path(tiny_cfg.data.data_root) / "annotations")
    (root / "train2017").mkdir()
    (root / "val2017").mkdir()
    with pytest.raises(UserError, match="has no image that can be read") as error:
        train(config.replace(tiny_cfg, data_root=str(root), workers=1, check_data=False))
    assert "\n" not in str(error.value)


def test_losses_are_those_of_one_task_at_a_time(tiny_cfg: CFG):
    trainer = Trainer(tiny_cfg)
    trainer.begin_epoch(0)
    batch = next(iter(trainer.loader)).to(trainer.device)
    together, _ = batch_losses(trainer.average, batch, tiny_cfg.train)
    for task, part in batch.tasks.items():
        alone, _ = batch_losses(trainer.average, batch.with_tasks({task: part}), tiny_cfg.train)
        torch.testing.assert_close(alone[task], together[task])


def test_a_step_in_parts_is_the_same_step(tiny_cfg: CFG):
    """But for batch norms, which are frozen here; layers that are computed again change nothing either."""
    gradients = []
    for values in ({}, {"accumulate": 3}, {"recompute": True}):
        cfg = config.replace(tiny_cfg, frozen_stages=5, check_data=False, **values)
        trainer = Trainer(cfg)
        trainer.begin_epoch(0)
        trainer.model.train()
        batch = next(iter(trainer.loader)).to(trainer.device)
        assert len(batch.parts) == values.get("accumulate", 1)
        losses = trainer.backward(batch)
        gradients.append(
            {name: p.grad for name, p in trainer.trained.named_parameters() if p.grad is not None} | losses
        )
        trainer.close()
    for found in gradients[1:]:
        assert found.keys() == gradients[0].keys()
        for name, value in found.items():
            torch.testing.assert_close(value, gradients[0][name], atol=1e-5, rtol=1e-3, msg=name)


# Several processes


def train_on_two_processes(cfg: CFG, torchrun: list[str]) -> dict[str, torch.Tensor]:
    """The weights of both processes, which are the same."""
    script = ROOT / "tests" / "train" / "two_processes.py"
    done = subprocess.run([*torchrun, script, *as_flags(cfg)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    folder = Path(cfg.train.run_dir)
    first, second = (torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    return first


@pytest.mark.slow
def test_two_processes_train_one_model(tiny_cfg: CFG, torchrun: list[str]):
    cfg = config.replace(tiny_cfg, epochs=2, batch_size=2)
    first = train_on_two_processes(cfg, torchrun)
    validated = [row for row in rows_of(cfg) if row["val/detection"]]
    assert [int(row["step"]) for row in validated] == [3, 6]
    assert np.isfinite([float(row["val/detection"]) for row in validated]).all()
    with pytest.raises(AssertionError):  # and it did learn something
        torch.testing.assert_close(first["decoder.bias"], torch.zeros_like(first["decoder.bias"]))


@pytest.mark.slow
def test_two_processes_train_one_model_although_one_has_no_targets(tiny_cfg: CFG, torchrun: list[str]):
    cfg = config.replace(tiny_cfg, **NARROW, epochs=2, crop_min_scale=1.0, crop_max_scale=3.0)
    # Batch norms over all processes, which wait for each other's images.
    cfg = config.replace(cfg, backbone="resnet50_official", backbone_kwargs='{"width": 0.125}', frozen_stages=0)
    train_on_two_processes(cfg, torchrun)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_equal_one_with_twice_the_batch(
    tiny_cfg: CFG, torchrun: list[str], tmp_path: Path, parallel: str
):
    """Six steps on four images each: the same batch norms, losses and updates. Muon would make more of rounding."""
    cfg = config.replace(tiny_cfg, epochs=2, ema_decay=0.9, lr=1e-3, optimizer="adamw", check_data=False)
    train(config.replace(cfg, run_dir=str(tmp_path / "one")))
    expected = load_checkpoint(tmp_path / "one" / "checkpoint.pt", torch.device("cpu"))
    cfg = config.replace(cfg, run_dir=str(tmp_path / "two"), batch_size=2, parallel=parallel)
    train_on_two_processes(cfg, torchrun)
    found = load_checkpoint(tmp_path / "two" / "checkpoint.pt", torch.device("cpu"))
    assert found.keys() == expected.keys() and found["step"] == 6
    for part in ("trained", "average"):
        assert found[part].keys() == expected[part].keys()
        for name, value in expected[part].items():
            if name.endswith("key.bias"):
                continue  # a softmax does not depend on it: its gradient is rounding alone, which Adam makes large
            torch.testing.assert_close(found[part][name], value, atol=1e-5, rtol=1e-5, msg=f"{part} {name}")


@pytest.mark.slow
def test_the_script_trains_under_torchrun(tiny_cfg: CFG, tmp_path: Path, torchrun: list[str]):
    script = ROOT / "train" / "train_multi_task.py"
    flags = as_flags(config.replace(tiny_cfg, batch_size=2))
    done = subprocess.run([*torchrun, script, *flags], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("wrote ") == 1
