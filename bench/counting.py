"""The memory of a training step, counted: the tensors of a step that runs without numbers."""

from __future__ import annotations

import contextlib
import tempfile
import weakref
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from pix2seq.bench.training import prepare
from pix2seq.models import resnet
from pix2seq.runtime import device
from pix2seq.train.optimizer import Optimizers
from pix2seq.train.preflight import longest_batch


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of all tensors that operations make while they live."""

    def __init__(self) -> None:
        super().__init__()
        self.known, self.now, self.peak = WeakIdKeyDictionary(), 0, 0

    def count(self, values: Any) -> None:
        """Add the tensors in a nest of `values` that are not known yet; several of one storage count once."""
        storages = (value.untyped_storage() for value in tree_leaves(values) if isinstance(value, Tensor))
        for storage in storages:
            if storage not in self.known:
                self.known[storage] = size = storage.nbytes()
                self.now += size
                weakref.finalize(storage, self._free, size)
        self.peak = max(self.peak, self.now)

    def _free(self, size: int) -> None:
        self.now -= size

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = operation(*args, **(kwargs or {}))
        self.count(made)
        return made


def needed_mb(preset: str, images: int, way: str, precision: str) -> float:
    """The most memory of two steps, in MB: the second has the optimizers' moments from its beginning."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = prepare(preset, images, way, "cpu", folder)
        batch = longest_batch(trainer)
        trainer.close()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        learner, tasks = trainer.learner, tuple(batch.tasks)
        without_numbers(learner)
        optimizers = Optimizers(learner.parts[0], learner.head, trainer.cfg)
        batch = batch.map(mode.from_tensor).to(torch.device("cpu"))  # images as floats
        with PeakMemory() as memory:
            memory.count([*learner.parameters(), *learner.buffers(), *trainer.average.parameters(), batch.images])
            totals = {name: torch.ones(()) for name in (*tasks, "canvases", "places")}
            for _ in range(2):
                with as_on_gpu():
                    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                        loss = learner(batch, totals)[0]
                    loss.backward()
                optimizers.step(1e-3)
                optimizers.zero_grad()
    return memory.peak / 1e6


@contextlib.contextmanager
def as_on_gpu() -> Iterator[None]:
    """Within this context steps on a processor, which is the only device whose gradients can be computed without being
    there, make the tensors that they would make on a GPU."""
    with (
        sdpa_kernel(SDPBackend.FLASH_ATTENTION),  # keeps no matrix of scores
        patch.object(F, "layer_norm", _wide_layer_norm),
        patch.object(F, "dropout", _fused_dropout),
        patch.object(resnet, "channel_sums", lambda x: x.sum((0, 2, 3))),
        patch.object(device, "plans_each_size", lambda _: True),
    ):
        yield


def _wide_layer_norm(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """As autocast has it on a GPU alone: the input of a norm is widened, and so is all that is added to its output."""
    return torch.layer_norm(x.float(), *args, **kwargs)


def _fused_dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """A GPU's, which keeps a byte for each number; a processor's keeps a factor of the type of `x`."""
    return torch.native_dropout(x, p, training)[0] if training and p else x


def without_numbers(module: nn.Module) -> None:
    """Put fake tensors, of the mode that this is called in, in the place of a module's own."""
    for part in module.modules():
        for name, own in part._parameters.items():
            if own is not None:
                part._parameters[name] = nn.Parameter(torch.empty_like(own, device="cpu"), own.requires_grad)
        for name, own in part._buffers.items():
            if own is not None:
                part._buffers[name] = torch.empty_like(own, device="cpu")
