"""Several processes under torchrun, or one without it."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pix2seq.errors import UserError

if TYPE_CHECKING:  # a process that is alone does not need torch for what is here
    import torch
    import torch.distributed as dist

ASK_AGAIN_S = 0.02


def _group() -> ModuleType | None:
    """torch.distributed, if this process has joined others."""
    module = sys.modules.get("torch.distributed")
    return module if module is not None and module.is_initialized() else None


def is_launched() -> bool:
    """Whether torchrun started this process."""
    return "WORLD_SIZE" in os.environ


def start(device: torch.device) -> torch.device:
    """Join the processes that torchrun started, if any; return the device of this process: a GPU is torch's current one
    from here on.

    Raises UserError if there are more processes than devices.
    """
    import torch

    if not is_launched():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        return device
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    if device.type == "mps":
        raise UserError("several processes train on CUDA devices or on the CPU, not on MPS; add --device cpu")
    if device.type == "cuda":
        number, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if number >= count:
            raise UserError(f"torchrun started more processes than there are GPUs; use --nproc-per-node {count}")
        device = torch.device("cuda", number)
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    store, own_rank, size = next(rendezvous("env://"))
    dist.init_process_group(backend, store=of_this_start(store, own_rank, size), rank=own_rank, world_size=size)
    return device


def of_this_start(store: dist.Store, own_rank: int, size: int) -> dist.Store:
    """`store` with keys of their own for the `size` processes that start together now.

    torchrun keeps one store over its restarts, where a process would find the addresses of killed ones and wait for
    them. How often it has restarted tells nothing: each machine counts for itself.
    """
    from torch.distributed import PrefixStore

    me = uuid.uuid4().hex
    if own_rank == 0:
        store.set("start", me)
        for other in range(1, size):
            store.set(store.get(f"{me}/{other}").decode(), "welcome")
        return PrefixStore(me, store)
    while True:  # until the first process of now answers, not one of before
        start = store.get("start").decode()
        store.set(f"{start}/{own_rank}", me)
        if store.check([me]):
            return PrefixStore(start, store)
        time.sleep(ASK_AGAIN_S)


def restarts() -> int:
    """How often torchrun has restarted the processes after one of them failed (`--max-restarts`)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def stop() -> None:
    """Leave the process group."""
    if group := _group():
        group.destroy_process_group()


def rank() -> int:
    """The rank of this process, counted from 0."""
    return group.get_rank() if (group := _group()) else 0


def world_size() -> int:
    """The number of processes in the group; 1 without torchrun."""
    return group.get_world_size() if (group := _group()) else 1


def barrier() -> None:
    """Wait until every process has reached this point."""
    if group := _group():
        group.barrier()


@contextlib.contextmanager
def first_alone() -> Iterator[None]:
    """Run the block in the first process, then in all others, which can use the files that the first one wrote.

    The others wait until the first one has finished or failed.
    """
    if rank() > 0:
        barrier()
    try:
        yield
    finally:
        if rank() == 0:
            barrier()


def gather(items: list) -> list:
    """The items of all processes in the order of their ranks; every process gets the whole list."""
    if world_size() == 1:
        return items
    import torch.distributed as dist

    parts: list[list] = [[] for _ in range(world_size())]
    dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]


def any_of(flags: list[bool]) -> list[bool]:
    """For each flag whether it is set in any process; every process must call this with as many."""
    if world_size() == 1:
        return flags
    import torch
    import torch.distributed as dist

    numbers = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(numbers, dist.ReduceOp.MAX)
    return [bool(number) for number in numbers.tolist()]


def total(numbers: list[float]) -> list[float]:
    """The sums over all processes of numbers that the CPU knows; every process must call this with as many."""
    if world_size() == 1:
        return numbers
    import torch
    import torch.distributed as dist

    sums = torch.tensor(numbers, dtype=torch.float64)
    dist.all_reduce(sums)
    return sums.tolist()


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Run the block in every process; a UserError in one of them is raised in all."""
    error = None
    try:
        yield
    except UserError as mistake:
        error = mistake
    if world_size() > 1:
        messages = [message for message in gather([str(error) if error else ""]) if message]
        error = UserError(messages[0]) if messages else None
        if error:
            error.everywhere = True
    if error:
        raise error


def from_first(make: Callable[[], Any]) -> Any:
    """What `make` gives in the first process, in all of them."""
    value = None
    with together():
        if rank() == 0:
            value = make()
    return gather([value])[0]


def summed(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes, with gradients; every process must call this."""
    from pix2seq.runtime.summation import Sum

    return Sum.apply(tensor) if world_size() > 1 else tensor
