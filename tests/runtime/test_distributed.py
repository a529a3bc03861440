"""Computations of several processes together."""

import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from pix2seq.models.resnet import BatchNorm
from pix2seq.runtime.distributed import of_this_start
from pix2seq.runtime.paths import ROOT


def statistics(x: torch.Tensor) -> tuple[BatchNorm, torch.Tensor, torch.Tensor]:
    """A batch norm after one batch, its outputs and the input's gradient of the sum of their cubes."""
    norm = BatchNorm(x.shape[1]).train()
    x = x.clone().requires_grad_()
    y = norm(x)
    y.pow(3).sum().backward()
    return norm, y.detach(), x.grad


def normalize_part(rank: int, x: torch.Tensor, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    norm, y, gradient = statistics(x.split([3, 1])[rank])
    torch.save((norm.state_dict(), y, gradient), folder / f"rank{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_batch_norm_takes_its_statistics_over_all_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(ROOT)  # where the new processes find this file
    x = torch.randn(4, 3, 5, 2, generator=torch.Generator().manual_seed(0)) * 3 + 1
    multiprocessing.spawn(normalize_part, (x, tmp_path), nprocs=2)
    norm, y, gradient = statistics(x)
    states, outputs, gradients = zip(*(torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1)), strict=True)
    torch.testing.assert_close(torch.cat(outputs), y)
    torch.testing.assert_close(torch.cat(gradients), gradient, atol=1e-4, rtol=1e-5)
    for state in states:
        torch.testing.assert_close(state["running_mean"], norm.running_mean)
        torch.testing.assert_close(state["running_var"], norm.running_var)


@pytest.mark.parametrize("first", [0, 1, 2])
def test_processes_that_were_restarted_find_nothing_of_those_before(first: int):
    """Whichever comes first, they share keys that are new: torchrun keeps its store over restarts."""
    store = dist.HashStore()

    def addresses(own_rank: int, own: str) -> list[str]:
        time.sleep(0 if own_rank == first else 0.05)
        mine = of_this_start(store, own_rank, 3)
        time.sleep(0.05 * own_rank)  # what those of before wrote could be read meanwhile
        mine.set(f"address/{own_rank}", own)
        return [mine.get(f"address/{other}").decode() for other in range(3)]

    with ThreadPoolExecutor(3) as processes:
        for own in ("before", "after"):
            assert list(processes.map(addresses, range(3), [own] * 3, timeout=30)) == [[own] * 3] * 3


RESTARTED = """
import os, signal, torch
from pix2seq.runtime import distributed

distributed.start(torch.device("cpu"))
assert distributed.gather([distributed.rank()]) == [0, 1]
distributed.barrier()
if distributed.restarts() < 10:
    os.kill(os.getpid(), signal.SIGKILL)
distributed.stop()
"""


@pytest.mark.slow
def test_processes_killed_ten_times_find_each_other_after_each_restart(torchrun: list[str], tmp_path: Path):
    script = tmp_path / "restarted.py"
    script.write_text(RESTARTED, encoding="utf-8")
    command = [*torchrun, "--max-restarts", "10", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
