"""TensorBoard's event files."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def open_events(folder: Path, **options: Any) -> SummaryWriter:
    """A writer of numbers by step into `folder`, which appends."""
    # TensorBoard's own switch: else it imports a TensorFlow that is installed, for seconds and with lines of its own.
    sys.modules.setdefault("tensorboard.compat.notf", ModuleType("notf"))
    from torch.utils.tensorboard import SummaryWriter  # slow to import

    return SummaryWriter(str(folder), **options)
