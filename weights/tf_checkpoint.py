"""Read TensorFlow object checkpoints (`tf.train.Checkpoint`): variables by the attribute names that lead to them.

TensorFlow is imported only when a checkpoint is opened, since nothing else in the project needs it.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pix2seq.errors import UserError

OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"  # the key of TensorFlow's graph of which object contains which


@dataclass(frozen=True)
class Variable:
    """A variable in a checkpoint: its key, its shape, and every path `attribute/attribute/…` that leads to it."""

    key: str
    shape: tuple[int, ...]
    paths: tuple[str, ...]


class ObjectCheckpoint:
    """An open checkpoint; raises UserError if the files are no checkpoint or are damaged."""

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        tf = _import_tensorflow()
        from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

        self._errors = (tf.errors.OpError, IndexError, ValueError, RuntimeError)
        with self._readable():
            self._reader = tf.train.load_checkpoint(str(prefix))
            self._shapes = self._reader.get_variable_to_shape_map()
            # The graph is the data file's last entry: if the file is cut, this fails before anything is converted.
            graph = self._reader.get_tensor(OBJECT_GRAPH) if OBJECT_GRAPH in self._shapes else None
        if graph is None:
            raise UserError(f"{prefix} is no object checkpoint of TensorFlow 2; the official Pix2Seq files are")
        self._nodes = TrackableObjectGraph.FromString(graph).nodes

    def variables(self, root: str) -> list[Variable]:
        """The variables of the object that was saved as `root`, without those of an optimizer saved beside it.

        A variable can have several paths, such as Keras' weight name and a Python attribute; all are returned.
        """
        starts = [child.node_id for child in self._nodes[0].children if child.local_name == root]
        if not starts:
            names = ", ".join(child.local_name for child in self._nodes[0].children)
            raise UserError(f"{self.prefix} holds no `{root}`, only {names}; it is not an official Pix2Seq checkpoint")
        found: dict[str, list[str]] = {}
        reached, queue = {starts[0]: ""}, deque(starts[:1])
        while queue:
            node = queue.popleft()
            for child in self._nodes[node].children:
                path = reached[node] + child.local_name.replace("/", ".S")  # as TensorFlow writes it in keys
                for attribute in self._nodes[child.node_id].attributes:
                    found.setdefault(attribute.checkpoint_key, []).append(path)
                if child.node_id not in reached:
                    reached[child.node_id] = f"{path}/"
                    queue.append(child.node_id)
        return [Variable(key, tuple(self._shapes.get(key, ())), tuple(paths)) for key, paths in found.items()]

    def read(self, variable: Variable) -> np.ndarray:
        """The variable's values."""
        with self._readable():
            return self._reader.get_tensor(variable.key)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"the checkpoint {self.prefix} cannot be read ({reason}); download it again") from None


def find_checkpoint(source: Path) -> Path:
    """The prefix `…/ckpt-N` of a checkpoint: `source` itself, or the latest one if `source` is a folder."""
    if not source.is_dir():
        prefix = source.with_suffix("") if source.suffix == ".index" else source
        if not _index(prefix).is_file():
            raise UserError(
                f"there is no checkpoint {source}; expected a folder, or ckpt-N with ckpt-N.index beside it"
            )
        return prefix
    state = source / "checkpoint"
    named = re.search(
        r'^model_checkpoint_path: "(?:.*/)?(.+)"', state.read_text(encoding="utf-8") if state.is_file() else "", re.M
    )
    if named and _index(source / named[1]).is_file():
        return source / named[1]
    numbers = [int(match[1]) for path in source.iterdir() if (match := re.fullmatch(r"ckpt-(\d+)\.index", path.name))]
    if not numbers:
        raise UserError(f"there is no checkpoint in {source}; expected ckpt-N.index and ckpt-N.data-… in it")
    return source / f"ckpt-{max(numbers)}"


def _index(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}.index")


def _import_tensorflow() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # no messages about the processor
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # not needed to read files, and prints a message
    try:
        import tensorflow
    except ImportError as error:
        raise UserError(
            f"reading an official checkpoint needs TensorFlow ({error}); pip install -r requirements-convert.txt"
        ) from None
    return tensorflow
