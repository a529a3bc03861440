"""TensorBoard's event files."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

SWITCH = (
    "tensorboard.compat.notf"  # TensorBoard's own: where a module of this name can be imported, it has no TensorFlow
)


def open_events(folder: Path, **options: Any) -> SummaryWriter:
    """A writer of numbers by step into `folder`, which appends."""
    with _without_tensorflow():
        from torch.utils.tensorboard import SummaryWriter  # slow to import

    return SummaryWriter(str(folder), **options)


@contextlib.contextmanager
def _without_tensorflow() -> Iterator[None]:
    """Let TensorBoard do without a TensorFlow that is installed: it would import it, for seconds and with lines of its
    own. It decides at the first look at its `tf`, and remembers; what else this process imports is left alone."""
    from tensorboard.compat import tf

    known = SWITCH in sys.modules
    sys.modules.setdefault(SWITCH, ModuleType(SWITCH))
    try:
        tf.io  # noqa: B018 - the first look
        yield
    finally:
        if not known:
            del sys.modules[SWITCH]
