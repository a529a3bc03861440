"""Weights of an ONNX graph in 8 bits: a quarter of the size, computed with as fp32.

A standard operator (DequantizeLinear) makes them fp32, once when a runtime loads the graph, or each time it computes.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

INT8_MAX = 127
LEAST = 1024  # numbers of a tensor that is worth it


def with_int8_weights(graph: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose matrices, kernels and embeddings are rounded to 127 steps of the largest number of each output."""
    small = onnx.ModelProto()
    small.CopyFrom(graph)
    axes, kept, nodes = _axes(small.graph), [], []
    for tensor in small.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.name not in axes or values.dtype != np.float32 or values.size < LEAST:
            kept.append(tensor)
            continue
        axis = axes[tensor.name] % values.ndim
        others = tuple(number for number in range(values.ndim) if number != axis)
        scale = np.maximum(np.abs(values).max(axis=others) / INT8_MAX, np.finfo(np.float32).tiny)
        steps = np.rint(values / np.expand_dims(scale, others)).astype(np.int8)
        parts = {f"{tensor.name}.int8": steps, f"{tensor.name}.scale": scale.astype(np.float32)}
        kept += [numpy_helper.from_array(part, name) for name, part in parts.items()]
        nodes.append(onnx.helper.make_node("DequantizeLinear", list(parts), [tensor.name], axis=axis))
    others = list(small.graph.node)
    del small.graph.initializer[:], small.graph.node[:]
    small.graph.initializer.extend(kept)
    small.graph.node.extend(nodes + others)
    return small


def _axes(graph: onnx.GraphProto) -> dict[str, int]:
    """The dimension of outputs, or of tokens, of each tensor that is a weight."""
    axes: dict[str, int] = {}
    for node in graph.node:
        attributes = {attribute.name: attribute for attribute in node.attribute}
        if node.op_type == "Conv":
            axes[node.input[1]] = 0
        elif node.op_type == "MatMul":
            axes.setdefault(node.input[1], -1)
        elif node.op_type == "Gemm":
            axes.setdefault(node.input[1], 0 if "transB" in attributes and attributes["transB"].i else 1)
        elif node.op_type in ("Gather", "Transpose"):  # rows of an embedding, which may be the output's matrix too
            axes[node.input[0]] = 0
    return axes
