"""The checkpoints that Google published for its TensorFlow code, by the names they have here.

`pix2seq.weights.find` fetches them; https://github.com/google-research/pix2seq lists them.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from pix2seq.errors import UserError

BASE_URL = "https://storage.googleapis.com/pix2seq/"
MIRROR = "PIX2SEQ_BASE_URL"  # the environment variable that names another server with the same folders
TEXT_MODEL = "multi_task/data/c4_en_32k_spm.model"  # named by the official configs/config_multi_task.py


@dataclass(frozen=True)
class Official:
    """A published checkpoint: its folder below the base address and what was published about it."""

    folder: str
    preset: str  # of config.PRESETS
    image_size: int  # side of the canvas, pixels
    parameters: float  # millions
    figures: str  # on COCO, as published

    @property
    def megabytes(self) -> int:
        """What is fetched of it, in MB: the model's tensors in float32, without the optimizer's state."""
        return round(4 * self.parameters)

    @property
    def kind(self) -> str:
        """`obj365_pretrain`, `coco_det_finetune` or `multi_task`."""
        return self.folder.partition("/")[0]


PURPOSES = {
    "obj365_pretrain": "detection of Objects365's classes; a start for fine-tuning",
    "coco_det_finetune": "detection of COCO's classes",
    "multi_task": "detection, segmentation, keypoints, captions",
}

# Google's first table had the names ViT-B and ViT-L of the Objects365 rows swapped; the addresses are right.
# The multi-task rows were published as 115.2 M parameters, which leaves out the 32,000 text tokens of their vocabulary.
CHECKPOINTS = {
    "obj365-resnet50-640": Official("obj365_pretrain/resnet_640x640_b256_s400k", "resnet50", 640, 36.6, ""),
    "obj365-resnet50-c4-640": Official("obj365_pretrain/resnetc_640x640_b256_s400k", "resnet50-c4", 640, 84.7, ""),
    "obj365-vit-b-640": Official("obj365_pretrain/vit_b_640x640_b256_s400k", "vit-b", 640, 115.2, ""),
    "obj365-vit-l-640": Official("obj365_pretrain/vit_l_640x640_b256_s400k", "vit-l", 640, 341.2, ""),
    "coco-resnet50-640": Official("coco_det_finetune/resnet_640x640", "resnet50", 640, 36.6, "box AP 39.1"),
    "coco-resnet50-1024": Official("coco_det_finetune/resnet_1024x1024", "resnet50", 1024, 36.6, "box AP 41.7"),
    "coco-resnet50-1333": Official("coco_det_finetune/resnet_1333x1333", "resnet50", 1333, 36.6, "box AP 42.6"),
    "coco-resnet50-c4-640": Official("coco_det_finetune/resnetc_640x640", "resnet50-c4", 640, 84.7, "box AP 44.7"),
    "coco-resnet50-c4-1024": Official("coco_det_finetune/resnetc_1024x1024", "resnet50-c4", 1024, 84.7, "box AP 46.9"),
    "coco-resnet50-c4-1333": Official("coco_det_finetune/resnetc_1333x1333", "resnet50-c4", 1333, 84.7, "box AP 47.3"),
    "coco-vit-b-640": Official("coco_det_finetune/vit_b_640x640", "vit-b", 640, 115.2, "box AP 44.2"),
    "coco-vit-b-1024": Official("coco_det_finetune/vit_b_1024x1024", "vit-b", 1024, 115.2, "box AP 46.5"),
    "coco-vit-b-1333": Official("coco_det_finetune/vit_b_1333x1333", "vit-b", 1333, 115.2, "box AP 47.1"),
    "coco-vit-l-640": Official("coco_det_finetune/vit_l_640x640", "vit-l", 640, 341.2, "box AP 47.6"),
    "coco-vit-l-1024": Official("coco_det_finetune/vit_l_1024x1024", "vit-l", 1024, 341.2, "box AP 49.2"),
    "coco-vit-l-1333": Official("coco_det_finetune/vit_l_1333x1333", "vit-l", 1333, 341.2, "box AP 50.0"),
    "multi-vit-b-640": Official("multi_task/ckpt/vit_b_640x640", "vit-b", 640, 131.6, "box AP 44.2, BLEU-4 34.3"),
    "multi-vit-b-1024": Official(
        "multi_task/ckpt/vit_b_1024x1024", "vit-b", 1024, 131.6, "box AP 46.5, mask AP 38.2, keypoint AP 64.8"
    ),
}


def table() -> str:
    """The published checkpoints as a Markdown table, in columns of equal width."""
    rows = [("name", "backbone", "parameters, M", "MB to fetch", "image, px", "on COCO, as published", "what it does")]
    for name, item in CHECKPOINTS.items():
        numbers = f"{item.parameters}", f"{item.megabytes}", f"{item.image_size}"
        rows.append((name, item.preset, *numbers, item.figures, PURPOSES[item.kind]))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rows.insert(1, tuple("-" * width for width in widths))
    return "\n".join(f"| {' | '.join(map(str.ljust, row, widths))} |" for row in rows)


def base_url() -> str:
    """The address that the folders are below: Google's, or that of `$PIX2SEQ_BASE_URL`."""
    url = os.environ.get(MIRROR) or BASE_URL
    if not re.match("https?://", url):
        raise UserError(f"{MIRROR} expects an address that starts with https:// or http://, got {url!r}")
    return url.rstrip("/") + "/"
