"""Several processes under torchrun, or one without it."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from pix2seq.errors import UserError

ASK_AGAIN_S = 0.02


def start(device: torch.device) -> torch.device:
    """Join the processes that torchrun started, if any; return the device of this process.

    Raises UserError if there are more processes than devices.
    """
    if "WORLD_SIZE" not in os.environ:
        return device
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
    me = uuid.uuid4().hex
    if own_rank == 0:
        store.set("start", me)
        for other in range(1, size):
            store.set(store.get(f"{me}/{other}").decode(), "welcome")
        return dist.PrefixStore(me, store)
    while True:  # until the first process of now answers, not one of before
        start = store.get("start").decode()
        store.set(f"{start}/{own_rank}", me)
        if store.check([me]):
            return dist.PrefixStore(start, store)
        time.sleep(ASK_AGAIN_S)


def restarts() -> int:
    """How often torchrun has restarted the processes after one of them failed (`--max-restarts`)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def stop() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """The rank of this process, counted from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """The number of processes in the group; 1 without torchrun."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait until every process has reached this point."""
    if dist.is_initialized():
        dist.barrier()


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
    parts: list[list] = [[] for _ in range(world_size())]
    dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]


def any_of(flags: list[bool]) -> list[bool]:
    """For each flag whether it is set in any process; every process must call this with as many."""
    if world_size() == 1:
        return flags
    numbers = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(numbers, dist.ReduceOp.MAX)
    return [bool(number) for number in numbers.tolist()]


def total(numbers: list[float]) -> list[float]:
    """The sums over all processes of numbers that the CPU knows; every process must call this with as many."""
    if world_size() == 1:
        return numbers
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


class _Sum(torch.autograd.Function):
    """The sum over all processes. Every process's loss depends on each summand, so gradients are summed as well."""

    @staticmethod
    def forward(_, tensor: torch.Tensor) -> torch.Tensor:
        total = tensor.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_, gradient: torch.Tensor) -> torch.Tensor:
        return _Sum.apply(gradient)


def summed(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes, with gradients; every process must call this."""
    return _Sum.apply(tensor) if world_size() > 1 else tensor
