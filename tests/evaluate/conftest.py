"""Images to evaluate on, and a random model to evaluate."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.dataset.coco import CocoDataset
from pix2seq.infer.predictor import Predictor
from pix2seq.models.pix2seq import Pix2Seq
from pix2seq.models.weights import Weights
from pix2seq.tasks import TASKS


@pytest.fixture
def split(scenes_root: Path) -> CocoDataset:
    """The validation images, annotated for all tasks."""
    return CocoDataset(scenes_root, "val2017", TASKS)


@pytest.fixture
def random_weights(tiny_model: Pix2Seq, tiny_cfg: CFG, split: CocoDataset) -> Weights:
    """A random model with short responses, since it seldom predicts an end token."""
    words = ["<unk>", *sorted({word for caption in split.all_captions() for word in caption.split()})]
    short = config.replace(tiny_cfg, max_objects=3, max_points=6, max_words=6)
    return Weights(tiny_model, short, split.class_names, {"words": words})


@pytest.fixture
def make_predictor(random_weights: Weights, tiny_cfg: CFG) -> Callable[..., Predictor]:
    """Make the predictor of the random model with some inference settings changed."""

    def make(**values) -> Predictor:
        cfg = config.replace(tiny_cfg, **({"num_samples": 2, "eval_batch_size": 4} | values))
        return Predictor.from_weights(random_weights, TASKS, cfg.infer, torch.device("cpu"), cfg.seed)

    return make


@pytest.fixture
def damaged_root(scenes_root: Path, tmp_path: Path) -> Path:
    """The synthetic dataset with the first validation image missing and the second one truncated."""
    root = tmp_path / "damaged"
    shutil.copytree(scenes_root, root)
    missing, cut, *_ = sorted((root / "val2017").iterdir())
    missing.unlink()
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    return root
