"""Threads sleep while they wait: the policy must be set before torch is imported."""

import os
import subprocess
import sys

import pytest

from pix2seq.command_line import run_script
from pix2seq.runtime.threads import let_threads_sleep

WATCH = """
import importlib.abc, os, sys
class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "torch":
            print(os.environ.get("OMP_WAIT_POLICY"))
sys.meta_path.insert(0, Watch())
"""


@pytest.mark.parametrize("module", ["infer.generator", "train.engine"])
def test_torch_is_imported_after_the_policy_is_set(module: str):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    command = [sys.executable, "-c", f"{WATCH}\nimport pix2seq.{module}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "PASSIVE\n"


def test_every_script_sets_the_policy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    seen = []
    run_script(lambda: seen.append(os.environ["OMP_WAIT_POLICY"]))
    assert seen == ["PASSIVE"]


def test_a_policy_of_the_user_is_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    let_threads_sleep()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
