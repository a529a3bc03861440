"""What every evaluation script does: score a weights file, or each new one of a training run."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

from config import CFG, UserError, project_path
from infer.run import let_threads_sleep

POLL_S = 5.0  # seconds between two looks at a watched folder
WATCHED = "last.safetensors"


def run(cfg: CFG) -> None:
    """Score `--weights` on `--val-split`, or with `--watch` each new weights file of a run, on all processes."""
    let_threads_sleep()
    from models import distributed
    from models.device import pick_device

    device = distributed.start(pick_device(cfg.device))
    try:
        if cfg.infer.watch:
            watch(cfg)
        else:
            evaluate_weights(dataclasses.replace(cfg, device=str(device)), Path(cfg.infer.output_dir), step=0)
    finally:
        distributed.stop()


def evaluate_weights(cfg: CFG, target: Path, step: int, events: Path | None = None) -> None:
    """Score `--weights` as of training `step`; files go into `target`, TensorBoard's into `events` or there too."""
    from dataset.sources import open_split
    from evaluate.evaluation import evaluate
    from evaluate.report import log_scalars, tables, write_report
    from infer.predictor import load_predictor
    from models import distributed

    predictor = load_predictor(cfg)
    predictor.require(cfg.tasks)
    with distributed.first_alone():  # draws the scenes, if they are needed
        split = open_split(cfg, cfg.data.val_split, cfg.tasks, predictor.class_names)
    evaluation = evaluate(predictor, split, cfg.tasks)
    if distributed.rank() == 0:
        write_report(target, evaluation, split, predictor.class_names, cfg, Path(cfg.infer.weights).name)
        log_scalars(events or target / "tensorboard", evaluation, step)
        print(f"{tables(evaluation)}\n{len(evaluation.answers)} pictures; wrote {target / 'metrics.json'}")


def watch(cfg: CFG) -> None:
    """Score the run folder's last weights whenever they change; ends with Ctrl-C or after `--watch-minutes`."""
    from models import distributed

    if distributed.world_size() > 1:
        raise UserError("--watch looks at a folder from one process; start it without torchrun")
    folder = project_path(cfg.infer.watch)
    if not folder.is_dir():
        raise UserError(f"--watch expects the folder of a training run, found no {folder}")
    infer = dataclasses.replace(cfg.infer, weights=str(folder / WATCHED))
    cfg, started, seen = dataclasses.replace(cfg, infer=infer), time.monotonic(), None
    print(f"watching {folder / WATCHED}")
    while True:
        changed = _changed(folder / WATCHED)
        if changed not in (None, seen):
            seen, step = changed, last_step(folder / "metrics.csv")
            evaluate_weights(cfg, folder / "evaluation" / f"step_{step:07}", step, folder / "tensorboard")
        elif cfg.infer.watch_minutes and time.monotonic() - started >= 60 * cfg.infer.watch_minutes:
            return
        else:
            time.sleep(min(POLL_S, 60 * cfg.infer.watch_minutes or POLL_S))


def _changed(path: Path) -> int | None:
    """When a file was last written, None if it is not there; weights appear whole, by a rename."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def last_step(path: Path) -> int:
    """The training step of the last row of a run's `metrics.csv`; 0 if there is none."""
    rows = path.read_text().splitlines()[1:] if path.is_file() else []
    return int(rows[-1].split(",")[0]) if rows else 0
