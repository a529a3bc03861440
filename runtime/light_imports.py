"""Programs start without packages that are imported on the way but never used."""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

# What timm imports for most of its time: image transforms and datasets, and two models that need torch's compiler.
UNUSED = ("torchvision", "timm.models.naflexvit", "timm.models.gemma4_vit")


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
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        if any(name == unused or name.startswith(f"{unused}.") for unused in UNUSED):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Placeholder(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def leave_out_unused(backbone: str) -> None:
    """Let placeholders stand for UNUSED in this process, unless timm is imported already or `backbone` is one of them.

    For programs of our own alone: in a process of somebody else they may be needed.
    """
    if "timm" not in sys.modules and not backbone.startswith(("naflexvit", "gemma4")):
        sys.meta_path.insert(0, _Finder())


@contextlib.contextmanager
def without_compiler() -> Iterator[None]:
    """Within this context torch computes shapes (on its meta device) without having imported its compiler.

    Functions of that device import it when they are called first, for more than a second, only to have it leave them
    alone: a stand-in for it does so here.
    """
    if (name := "torch._dynamo") in sys.modules:
        yield
        return
    sys.modules[name] = stand_in = ModuleType(name)
    stand_in.disable = lambda function, *_, **__: function
    try:
        yield
    finally:
        del sys.modules[name]
