"""TensorBoard's events are written without TensorFlow, which can still be imported."""

import subprocess
import sys
from pathlib import Path

import pytest


def run(program: str, *args: Path) -> str:
    """The output of `program` in a separate process."""
    done = subprocess.run([sys.executable, "-c", program, *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


WRITE = """
import sys
from pathlib import Path
from pix2seq.runtime.tensorboard import SWITCH, open_events
with open_events(Path(sys.argv[1])) as events:
    events.add_scalar("loss", 0.5, 1)
print(sorted({"tensorflow", SWITCH} & sys.modules.keys()))
"""


def test_no_tensorflow_is_imported_and_modules_are_not_changed(tmp_path: Path):
    assert run(WRITE, tmp_path) == "[]\n"
    assert list(tmp_path.glob("events.out.*"))


@pytest.mark.slow
def test_tensorflow_can_be_imported_afterwards(tmp_path: Path):
    pytest.importorskip("tensorflow", exc_type=ImportError)
    after = "import tensorflow\nprint(int(tensorflow.constant(1) + 1))\nopen_events(Path(sys.argv[1])).close()\n"
    assert run(WRITE + after, tmp_path) == "[]\n2\n"


def test_a_switch_that_was_set_before_stays_set(tmp_path: Path):
    before = "import sys, types\nsys.modules['tensorboard.compat.notf'] = types.ModuleType('notf')\n"
    assert run(before + WRITE, tmp_path) == "['tensorboard.compat.notf']\n"
