"""What a run's length is made of: settings that fit the number of images, unless they are given."""

import dataclasses
import re

import pytest

from pix2seq import config
from pix2seq.config import CFG, PRESETS
from pix2seq.train.announce import describe_learning
from pix2seq.train.engine import Trainer, train
from pix2seq.train.schedule import LEAST_STEPS, describe_choice, fit_to_data, total_steps


@pytest.mark.parametrize("preset", ["demo", "vit-b"])
@pytest.mark.parametrize("images, batch, passes", [(1, 8, None), (60, 8, None), (600, 16, None), (2700, None, 1)])
def test_a_run_has_enough_steps(preset: str, images: int, batch: int | None, passes: int | None):
    before = PRESETS[preset]
    cfg = fit_to_data(before, images, validation=20)
    steps = total_steps(cfg, images)
    assert steps > LEAST_STEPS - cfg.train.epochs and (steps < 2 * LEAST_STEPS or cfg.train.passes_per_epoch == 1)
    assert cfg.train.batch_size == (batch or before.train.batch_size)
    assert cfg.train.passes_per_epoch == (passes or cfg.train.passes_per_epoch)
    assert cfg.train.warmup_steps <= steps / 10 and cfg.train.log_steps <= steps / 50
    assert cfg.train.eval_every in (0, cfg.train.epochs)


def test_many_images_change_nothing():
    assert fit_to_data(CFG(), 24_000, 500) == CFG()
    assert describe_choice(CFG(), CFG(), 24_000, 4200) == ""


def test_what_is_given_is_not_changed():
    given = dict(batch_size=32, epochs=14, warmup_steps=300, log_steps=50, eval_every=0)
    cfg = config.replace(CFG(), **given)
    assert fit_to_data(cfg, 60, 20) == cfg
    assert fit_to_data(config.replace(CFG(), steps_per_epoch=5), 60, 20).train.passes_per_epoch == 1


def test_processes_share_the_images():
    one, four = (fit_to_data(CFG(), 2048, 20, processes) for processes in (1, 4))
    assert (one.train.batch_size, four.train.batch_size) == (32, 16)


def test_choices_and_too_few_steps_are_described():
    cfg = config.replace(CFG(), epochs=1)
    text = describe_choice(cfg, fit_to_data(cfg, 60, 20), 60, 7)
    assert "chosen for 60 images: --batch-size 8 --warmup-steps 0 --log-steps 1" in text
    assert "7 steps are too few" in text


@pytest.mark.parametrize(
    "losses, told",
    [
        ([], ""),
        ([5.0], ""),
        ([5.0, 4.0, 4.05], ""),
        ([5.0, 4.0, 4.5], "rose from 4.000 after epoch 2 to 4.500.*training images alone"),
        ([5.0, 4.99, 4.98], "hardly fell, from 5.000 after epoch 1 to 4.980"),
    ],
)
def test_what_the_validation_losses_tell(losses: list[float], told: str):
    assert re.search(told, describe_learning(losses)) and bool(told) == bool(describe_learning(losses))


def test_a_small_run_says_what_was_chosen_and_evaluates_at_its_end(tiny_cfg: CFG, capsys: pytest.CaptureFixture):
    cfg = config.replace(tiny_cfg, task="detection", max_images=2)
    few = {name for name in cfg.given if name not in ("epochs", "warmup_steps", "log_steps")}
    cfg = dataclasses.replace(cfg, given=frozenset(few), train=dataclasses.replace(cfg.train, epochs=2))
    trainer = Trainer(cfg)
    assert trainer.cfg.train.passes_per_epoch == 84 and trainer.total_steps == 504
    trainer.close()
    assert "chosen for 12 images: --passes-per-epoch 84" in capsys.readouterr().out


def test_the_time_is_told_before_the_first_step(tiny_cfg: CFG, capsys: pytest.CaptureFixture):
    train(config.replace(tiny_cfg, task="detection", epochs=2))
    printed = capsys.readouterr().out
    assert printed.index("to go, by a trial of the first batch") < printed.index("validation:")
    assert "6 steps are too few to learn from" in printed
