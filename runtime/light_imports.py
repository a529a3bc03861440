"""Programs start without packages that are imported on the way but never used."""

from __future__ import annotations

import contextlib
import gc
import importlib.abc
import importlib.machinery
import importlib.util
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

# What timm imports for most of its time: image transforms and datasets, downloads, and two models that need torch's
# compiler.
UNUSED = ("torchvision", "torch.hub", "huggingface_hub", "timm.models.naflexvit", "timm.models.gemma4_vit")


class _Class(type):
    """A class that nothing is an instance of; what is read of it, such as a member of an enumeration, is its name."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _Placeholder(ModuleType):
    """A module that has whatever class is asked for; none of them can be instantiated."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Class(name, (), {"__init__": _refuse, "__module__": self.__name__})


def _refuse(self: Any, *_: Any, **__: Any) -> None:
    raise ImportError(f"{type(self).__module__}.{type(self).__name__} is not there in a program that only predicts")


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, unused: frozenset[str]) -> None:
        self.unused = unused

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        if name in self.unused or name.partition(".")[0] in self.unused:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Placeholder(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def leave_out_unused(backbone: str) -> None:
    """Let placeholders stand for UNUSED in this process, and for the models of timm that `backbone` is none of, unless
    timm is imported already or `backbone` is one of UNUSED.

    For programs of our own alone: in a process of somebody else they may be needed.
    """
    if "timm" not in sys.modules and not backbone.startswith(("naflexvit", "gemma4")):
        sys.meta_path.insert(0, _Finder(frozenset({*UNUSED, *other_models(backbone)})))


@contextlib.contextmanager
def without_garbage() -> Iterator[None]:
    """Within this context, of imports and loading, nothing becomes garbage: looking for it takes a tenth of the time.

    What is there at the end is never looked through again.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()


def other_models(backbone: str) -> set[str]:
    """The modules of timm's models that are not needed for `backbone`; none where no module defines it."""
    found = importlib.util.find_spec("timm")
    files = Path(found.origin).parent.glob("models/[a-z]*.py") if found else ()
    sources = {file.stem: file.read_text(encoding="utf-8") for file in files}
    definition = f"\ndef {backbone.partition('.')[0]}("
    needed = {module for module, source in sources.items() if definition in source}
    following = list(needed)
    while following:
        imported = re.findall(r"^\s*from (?:timm\.models)?\.(\w+) import", sources[following.pop()], re.MULTILINE)
        new = (set(imported) & sources.keys()) - needed
        needed |= new
        following += new
    return {f"timm.models.{module}" for module in sources.keys() - needed} if needed else set()


@contextlib.contextmanager
def shapes_alone() -> Iterator[None]:
    """Within this context torch computes shapes (on its meta device) without having imported its compiler and sympy.

    Functions of that device import these when they are called first, for more than a second, only to leave them alone:
    there is a stand-in for the compiler, ranges are made elsewhere, and random numbers, which have no place, nowhere.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class Light(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Sequence = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if function is torch.arange:
                device = kwargs.pop("device", None) or "meta"
                return function(*args, **kwargs, device="cpu").to(device)
            result = args[0] if args else kwargs.get("tensor")
            if function.__name__ in ("normal_", "uniform_", "kaiming_uniform_") and result.is_meta:
                return result
            return function(*args, **kwargs)

    with _standing_in_for_the_compiler(), torch.device("meta"), Light():
        yield


@contextlib.contextmanager
def _standing_in_for_the_compiler() -> Iterator[None]:
    if (name := "torch._dynamo") in sys.modules:
        yield
        return
    sys.modules[name] = stand_in = ModuleType(name)
    stand_in.disable = lambda function, *_, **__: function
    try:
        yield
    finally:
        del sys.modules[name]
