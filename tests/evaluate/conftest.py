"""Images to evaluate on."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def damaged_root(scenes_root: Path, tmp_path: Path) -> Path:
    """The drawn dataset with the first validation image missing and the second one cut in the middle."""
    root = tmp_path / "damaged"
    shutil.copytree(scenes_root, root)
    missing, cut, *_ = sorted((root / "val2017").iterdir())
    missing.unlink()
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    return root
