"""Open the dataset that the settings name; draw the scenes first where none is named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from config import CFG, scenes_root
from dataset.coco import CocoDataset


def open_split(cfg: CFG, split: str, tasks: Sequence[str]) -> CocoDataset:
    """One split (`train2017`, `val2017`) of `--data-root`, or of the drawn scenes, with annotations for `tasks`."""
    if cfg.data.data_root:
        return CocoDataset(Path(cfg.data.data_root), split, tasks)
    from dataset import scenes

    data, root = cfg.data, scenes_root(cfg)
    if not scenes.is_written(root, data.scenes_train, data.scenes_val, data.scenes_seed):
        scenes.write_dataset(root, data.scenes_train, data.scenes_val, data.scenes_seed)
    return CocoDataset(root, split, tasks)
