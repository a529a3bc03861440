"""Read TensorFlow object checkpoints (`tf.train.Checkpoint`): variables by the attribute names that lead to them."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pix2seq.errors import UserError
from pix2seq.weights.protobuf import fields, numbers, texts
from pix2seq.weights.tensor_bundle import Bundle, Damaged

OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"  # the key of TensorFlow's graph of which object contains which
STATE = "checkpoint"  # the file that names the newest checkpoint of a folder
MOST_PATH = 4096  # characters: a chain of many objects has paths that fill the memory


@dataclass(frozen=True)
class Variable:
    """A variable in a checkpoint: its key, its shape, and every path `attribute/attribute/…` that leads to it."""

    key: str
    shape: tuple[int, ...]
    paths: tuple[str, ...]


@dataclass
class Node:
    """An object that was saved: the objects it contains by attribute name, and the keys of its own tensors."""

    children: list[tuple[str, int]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)


class ObjectCheckpoint:
    """A bundle of tensors with the graph of the objects that they belong to; UserError if it has no such graph."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        if OBJECT_GRAPH not in bundle.entries:
            raise UserError(f"{bundle.index} is no object checkpoint of TensorFlow 2; the official Pix2Seq files are")
        graph = bundle.read(OBJECT_GRAPH)
        try:
            self._nodes = read_graph(graph.item())
        except (ValueError, TypeError, AttributeError) as error:
            raise Damaged(f"the objects of {bundle.index} cannot be read ({error}); download it again") from None

    def variables(self, root: str) -> list[Variable]:
        """The variables of the object that was saved as `root`, without those of an optimizer saved beside it.

        A variable can have several paths, such as Keras' weight name and a Python attribute; all are returned.
        """
        starts = [node for name, node in self._nodes[0].children if name == root]
        if not starts:
            names = ", ".join(name for name, _ in self._nodes[0].children)
            raise UserError(
                f"{self.bundle.index} holds no `{root}`, only {names}; it is not an official Pix2Seq checkpoint"
            )
        found: dict[str, list[str]] = {}
        reached, queue = {starts[0]: ""}, deque(starts[:1])
        while queue:
            node = queue.popleft()
            for name, child in self._nodes[node].children:
                path = reached[node] + name.replace("/", ".S")  # as TensorFlow writes it in keys
                if len(path) > MOST_PATH:
                    raise Damaged(f"{self.bundle.index} has objects in objects beyond any model; download it again")
                for key in self._nodes[child].keys:
                    found.setdefault(key, []).append(path)
                if child not in reached:
                    reached[child] = f"{path}/"
                    queue.append(child)
        if missing := found.keys() - self.bundle.entries.keys():
            raise UserError(f"{self.bundle.index} lacks {len(missing)} variables, among them {min(missing)}")
        return [Variable(key, self.bundle.entries[key].shape, tuple(paths)) for key, paths in found.items()]

    def read(self, variable: Variable) -> np.ndarray:
        """The variable's values."""
        return self.bundle.read(variable.key)


def read_graph(message: bytes) -> list[Node]:
    """The objects of a TrackableObjectGraph (tensorflow/core/protobuf/trackable_object_graph.proto); ValueError if
    it is damaged."""
    nodes = []
    for number, content in fields(message):
        if number != 1:
            continue
        node = Node()
        for kind, value in fields(content):
            if kind == 1:  # ObjectReference
                node.children.append((texts(value).get(2, b"").decode(), numbers(value).get(1, 0)))
            elif kind == 2:  # SerializedTensor
                node.keys.append(texts(value).get(3, b"").decode(errors="surrogateescape"))
        nodes.append(node)
    if not nodes or any(not 0 <= child < len(nodes) for node in nodes for _, child in node.children):
        raise ValueError("an object is missing")
    return nodes


def open_checkpoint(source: Path) -> ObjectCheckpoint:
    """The whole checkpoint `source`: `…/ckpt-N` or its index, or a folder, of which the latest is taken."""
    prefix = find_checkpoint(source)
    return ObjectCheckpoint(Bundle(_index(prefix)))


def find_checkpoint(source: Path) -> Path:
    """The prefix `…/ckpt-N` of a checkpoint: `source` itself, or the latest one if `source` is a folder."""
    if not source.is_dir():
        prefix = source.with_suffix("") if source.suffix == ".index" else source
        if not _index(prefix).is_file():
            raise UserError(
                f"there is no checkpoint {source}; expected a folder, or ckpt-N with ckpt-N.index beside it"
            )
        return prefix
    state = source / STATE
    named = newest(state.read_text(encoding="utf-8", errors="replace")) if state.is_file() else ""
    if named and _index(source / named).is_file():
        return source / named
    numbers = [int(match[1]) for path in source.iterdir() if (match := re.fullmatch(r"ckpt-(\d+)\.index", path.name))]
    if not numbers:
        raise UserError(f"there is no checkpoint in {source}; expected ckpt-N.index and ckpt-N.data-… in it")
    return source / f"ckpt-{max(numbers)}"


def newest(state: str) -> str:
    """The name `ckpt-N` from the content of TensorFlow's file `checkpoint`, a text proto; empty if it names none."""
    match = re.search(r'^model_checkpoint_path: "(?:[^"]*/)?([\w.-]{0,200}\w)"', state, re.MULTILINE)
    return match[1] if match else ""


def _index(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}.index")
