"""Evaluate a weights file, or each new one of a training run; all evaluation scripts use this."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pix2seq.config import CFG
from pix2seq.errors import UserError
from pix2seq.tasks import choose_tasks
from pix2seq.weights.find import find_weights

if TYPE_CHECKING:
    from pix2seq.evaluate.report import Shown

POLL_S = 5.0  # seconds between two checks of a watched folder
WATCHED = "last.safetensors"


def run(cfg: CFG) -> None:
    """Evaluate `--weights` on `--val-split`, or with `--watch` each new weights file of a run, on all processes."""
    from pix2seq.runtime import distributed
    from pix2seq.runtime.device import pick_device

    device = distributed.start(pick_device(cfg.device))
    try:
        if cfg.infer.watch:
            watch(cfg)
        else:
            evaluate_weights(dataclasses.replace(cfg, device=str(device)))
    finally:
        distributed.stop()


def evaluate_weights(cfg: CFG, run_folder: Path | None = None) -> Shown | None:
    """Evaluate `--weights`; write to `--output-dir`, or to a folder for the weights' step below `run_folder`. The first
    process returns what curves show of it."""
    from pix2seq.dataset.sources import open_split
    from pix2seq.evaluate.evaluation import Sizes, evaluate
    from pix2seq.evaluate.report import draw_grids, log_events, shown_of, tables, write_report
    from pix2seq.infer.load import load_predictor
    from pix2seq.runtime import distributed
    from pix2seq.runtime.files import output_folder, writing
    from pix2seq.runtime.run_folder import require_own_folders

    tasks = choose_tasks(cfg.tasks)
    predictor = load_predictor(cfg)
    predictor.require(tasks)
    if run_folder:
        require_own_folders(run_folder)
    target = run_folder / "evaluation" / f"step_{predictor.step:07}" if run_folder else Path(cfg.infer.output_dir)
    with distributed.first_alone():  # draws the scenes, if they are needed
        split = open_split(cfg, cfg.data.val_split, tasks, predictor.class_names, skeleton=predictor.skeleton)
    if split.layout and not run_folder and distributed.rank() == 0:
        print(f"val: {len(split)} images of {split.layout}")
    with output_folder(target) as staging:  # checked first, since an evaluation may take hours
        evaluation = evaluate(predictor, split, list(tasks), Sizes.of(cfg))
        if distributed.rank() == 0:
            print(tables(evaluation, split.problems))
            grids = draw_grids(evaluation, split, predictor)
            with writing(target):
                write_report(staging, evaluation, grids, find_weights(cfg.infer.weights).name)
    if distributed.rank() > 0:
        return None
    shown = shown_of(evaluation, grids, predictor.step)
    log_events((run_folder or target) / "tensorboard", shown)
    print(f"{len(evaluation.predictions)} images; wrote {target / 'metrics.json'}")
    return shown


def watch(cfg: CFG) -> None:
    """Evaluate the run folder's last weights whenever they change, until Ctrl-C or for `--watch-minutes`."""
    from pix2seq.runtime import distributed

    if distributed.world_size() > 1:
        raise UserError("--watch runs in one process; start it without torchrun")
    folder = Path(cfg.infer.watch)
    if not folder.is_dir():
        raise UserError(f"--watch expects the folder of a training run, found no {folder}")
    infer = dataclasses.replace(cfg.infer, weights=str(folder / WATCHED))
    cfg, started, seen = dataclasses.replace(cfg, infer=infer), time.monotonic(), None
    print(f"watching {folder / WATCHED}")
    while True:
        changed = _changed(folder / WATCHED)
        if changed not in (None, seen):
            seen = changed
            evaluate_weights(cfg, folder)
        elif cfg.infer.watch_minutes and time.monotonic() - started >= 60 * cfg.infer.watch_minutes:
            return
        else:
            time.sleep(min(POLL_S, 60 * cfg.infer.watch_minutes or POLL_S))


def _changed(path: Path) -> int | None:
    """The time of the file's last change, in ns; None if it does not exist. Weights are complete: they are renamed."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None
