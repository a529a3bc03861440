"""Load the variables of an official checkpoint into a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pix2seq.config import CFG
from pix2seq.errors import UserError
from pix2seq.models.pix2seq import Pix2Seq
from pix2seq.weights.official_names import Arrange, place
from pix2seq.weights.tf_checkpoint import ObjectCheckpoint, Variable

SHOWN = 4  # most names in an error message


@dataclass(frozen=True)
class Source:
    """The origin of a model's tensor: a variable, and how its dimensions are arranged."""

    variable: Variable
    arrange: Arrange

    def fits(self, shape: torch.Size) -> bool:
        """Whether the arranged variable has the given shape."""
        try:
            return self.arrange(torch.empty(self.variable.shape, device="meta")).shape == shape
        except (RuntimeError, IndexError):  # wrong number of dimensions
            return False


def find_sources(variables: Iterable[Variable]) -> dict[str, Source]:
    """The source of each of the model's tensors by name; raises UserError if `official_names` lacks a variable."""
    sources: dict[str, Source] = {}
    unknown = []
    for variable in variables:
        found = next(filter(None, map(place, variable.paths)), None)
        if found is None or found.name in sources:
            unknown.append(variable.key)
        else:
            sources[found.name] = Source(variable, found.arrange)
    if unknown:
        raise UserError(
            f"{len(unknown)} variables are not those of an official Pix2Seq model, and only those can be converted: "
            f"{_some(unknown)}"
        )
    return sources


def empty_model(cfg: CFG) -> Pix2Seq:
    """The model of `cfg` on the meta device, without memory for its parameters."""
    with torch.device("meta"):
        return Pix2Seq(cfg.model)


def check_fit(sources: Mapping[str, Source], own: Mapping[str, Tensor]) -> None:
    """Raise UserError unless `sources` has every tensor of the state dict `own`, in its shape."""
    wrong = [f"{sources[name].variable.key} is not part of the model" for name in sources.keys() - own.keys()]
    wrong += [f"there is no variable for {name}" for name in own.keys() - sources.keys() if not _may_lack(name)]
    for name in sources.keys() & own.keys():
        if not sources[name].fits(own[name].shape):
            variable = sources[name].variable
            wrong.append(f"{variable.key} of {list(variable.shape)} does not fill {name} of {list(own[name].shape)}")
    if wrong:
        raise UserError(f"{len(wrong)} variables do not fit the model that the others belong to: {_some(wrong)}")


def fill(model: Pix2Seq, checkpoint: ObjectCheckpoint, sources: Mapping[str, Source], dtype: torch.dtype) -> None:
    """Fill the empty `model` with tensors of `dtype`, reading one variable after the other."""
    tensors = {}
    for name, own in model.state_dict().items():
        if name not in sources:
            tensors[name] = torch.zeros(own.shape, dtype=dtype if own.is_floating_point() else own.dtype)
            continue
        source = sources[name]
        numbers = torch.from_numpy(checkpoint.read(source.variable))
        tensors[name] = source.arrange(numbers).to(dtype).contiguous()
        if not tensors[name].isfinite().all():
            raise UserError(f"{source.variable.key} has numbers that {dtype} cannot hold; use --dtype fp32 or bf16")
    model.load_state_dict(tensors, assign=True)


def _may_lack(name: str) -> bool:
    """Whether the checkpoint may lack a tensor, which is zero then: the output bias and counts of batches."""
    return name == "decoder.bias" or name.endswith(".num_batches_tracked")


def _some(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)[:SHOWN])
