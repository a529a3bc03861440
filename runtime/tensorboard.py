"""TensorBoard's event files."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

SWITCH = "tensorboard.compat.notf"  # if a module of this name can be imported, TensorBoard does not use TensorFlow


def open_events(folder: Path, **options: Any) -> SummaryWriter:
    """A writer that appends numbers and images by step to the events in `folder`."""
    with _without_tensorflow():
        from torch.utils.tensorboard import SummaryWriter  # slow to import

    threading.excepthook = _leave_to_the_next_write
    return SummaryWriter(str(folder), **options)


def add_picture(events: SummaryWriter, name: str, image: np.ndarray, step: int) -> None:
    """Append an image (H, W, 3) uint8 RGB; as JPEG: PNGs, torch's choice, take several times the room."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    _, encoded = cv2.imencode(".jpg", image[..., ::-1])
    height, width, channels = image.shape
    picture = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=encoded.tobytes())
    events.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=picture)]), step)


def _leave_to_the_next_write(failure: threading.ExceptHookArgs) -> None:
    """Print no traceback of a thread that could not write events: the next call of the writer raises its error."""
    is_writer = type(failure.thread).__module__.startswith("tensorboard.")
    if not (is_writer and isinstance(failure.exc_value, OSError)):
        threading.__excepthook__(failure)


@contextlib.contextmanager
def _without_tensorflow() -> Iterator[None]:
    """Keep TensorBoard from importing an installed TensorFlow, which takes seconds and prints messages.

    TensorBoard decides this once, at the first access to an attribute of its `tf`. Other imports are not affected.
    """
    from tensorboard.compat import tf

    known = SWITCH in sys.modules
    sys.modules.setdefault(SWITCH, ModuleType(SWITCH))
    try:
        tf.io  # noqa: B018 - the first access
        yield
    finally:
        if not known:
            del sys.modules[SWITCH]
