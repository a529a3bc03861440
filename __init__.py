"""Pix2Seq Toolkit: detection, segmentation, keypoints and captions as token sequences of one encoder-decoder.

import pix2seq
model = pix2seq.load()
result = model("image.jpg", tasks=["detection", "captioning"])
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from pix2seq.runtime.interrupt import end_quietly
from pix2seq.runtime.threads import let_threads_sleep

if TYPE_CHECKING:
    from pix2seq.api import Model

__all__ = ["load"]

_script = os.path.realpath(getattr(sys.modules["__main__"], "__file__", None) or "")
if os.path.dirname(os.path.dirname(_script)) == os.path.dirname(os.path.realpath(__file__)):
    end_quietly()  # a script of ours; programs of others decide for themselves
let_threads_sleep()  # before anything of ours imports torch


def load(weights: str = "photos", device: str = "auto", **settings: Any) -> Model:
    """The model of a weights file: a path, the name of shipped or official weights, or `hf://owner/repo[/file]`.

    `device` is cpu, cuda, cuda:1, mps, or auto: the fastest that is there. `settings` are fields of
    `pix2seq.config.InferCFG` such as `score_threshold=0.5`, and `seed`. Raises `pix2seq.errors.UserError`, with one
    sentence, if the file is none of this toolkit's or a setting does not exist.
    """
    from pix2seq.api import Model  # imports torch: not before it is needed

    return Model.load(weights, device, **settings)
