"""How several processes train one model: torch's own engines around the learner, and whole tensors of it in files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from pix2seq.models.pix2seq import Pix2Seq
from pix2seq.runtime import distributed
from pix2seq.train.learner import Learner


def shard(module: nn.Module, model: Pix2Seq, device: torch.device) -> None:
    """Leave each process a part of every parameter of `module`, which holds `model`: a transformer layer is whole only
    while it computes."""
    mesh = init_device_mesh(device.type, (distributed.world_size(),))
    for layer in (*model.encoder.layers, *getattr(model.encoder.backbone.net, "blocks", ()), *model.decoder.layers):
        fully_shard(layer, mesh=mesh)
    fully_shard(module, mesh=mesh)


def engine_of(learner: Learner, in_parts: bool) -> nn.Module:
    """What a step calls instead of `learner`, so that gradients are the mean over all processes: the learner itself
    where it is sharded or alone, else DistributedDataParallel, which sends them while others are computed.

    The graph is the same in every step, whatever a batch holds (see `pack`): parameters that a backbone has and does
    not use are found once, or where steps come `in_parts`, which torch allows no static graph, each time.
    """
    if distributed.world_size() == 1 or isinstance(learner, FSDPModule):
        return learner
    options = {"find_unused_parameters": True} if in_parts else {"static_graph": True}
    return DistributedDataParallel(learner, broadcast_buffers=False, gradient_as_bucket_view=True, **options)


@contextlib.contextmanager
def summing(engine: nn.Module, last: bool) -> Iterator[None]:
    """A part of a step: gradients stay with this process until the `last` one."""
    if isinstance(engine, FSDPModule):
        engine.set_requires_gradient_sync(last)
    with engine.no_sync() if isinstance(engine, DistributedDataParallel) and not last else contextlib.nullcontext():
        yield


def whole(state: Any) -> Any:
    """A state with whole tensors in place of sharded ones: the form of files. Every process must call this."""
    if isinstance(state, dict):
        return {key: whole(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [whole(value) for value in state]
    return state.full_tensor() if isinstance(state, DTensor) else state


def sharded_like(value: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor as `parameter` is: as it is, or this process's part of it."""
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


def load_whole(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Load a state of whole tensors into a module that may be sharded; raises what `load_state_dict` raises."""
    own = module.state_dict()
    module.load_state_dict({name: sharded_like(value, own.get(name)) for name, value in state.items()})
