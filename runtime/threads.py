"""How threads wait for each other."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

ONE_THREAD = 1e8  # multiplications up to which one thread takes no longer than several do with their waiting


def let_threads_sleep() -> None:
    """Let torch's threads sleep while they wait for each other, and numpy compute with one thread; what the user has
    set (OMP_WAIT_POLICY, OPENBLAS_NUM_THREADS) stays.

    On a busy machine, threads that spin while they wait slow training down: eight steps took 54 s, and 7 s where they
    sleep. Threads of numpy's OpenBLAS spin, too, and its products here are small ones. Both libraries read this when
    they are loaded, so call it before torch and numpy are imported. It only sets environment variables, which child
    processes inherit.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@contextlib.contextmanager
def threads_for(multiplications: float) -> Iterator[None]:
    """One thread for work of at most so many multiplications of weights with inputs, as many as ever for more."""
    import torch

    usual = torch.get_num_threads()
    if multiplications > ONE_THREAD or usual == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(usual)
