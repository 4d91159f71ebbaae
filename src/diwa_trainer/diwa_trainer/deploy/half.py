"""Graphs that take half the room: their weights lie in the file as float16, and are computed with as float32."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LEAST = 1024
"""Smaller tensors stay as they are."""


def with_half_weights(graph: bytes) -> bytes:
    """Return an ONNX model whose large float32 weights are stored as float16, each cast back where it is used.

    ONNX Runtime casts them once, as it loads the file: it runs as fast as before, with weights rounded to 11 bits.

    Raises:
        ValueError: a weight is too large for float16.
    """
    model = onnx.load_model_from_string(graph)
    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < LEAST:
            continue
        name, largest = tensor.name, np.abs(values).max()
        if not largest <= np.finfo(np.float16).max:
            raise ValueError(f"{name} has a weight of {largest:g}, too large for float16")
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
        casts.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return model.SerializeToString()
