"""What an ONNX file says about itself, read from its bytes without running any of it.

A deployed bundle may come from anywhere. Before ONNX Runtime sees a graph we want to know that its weights lie inside
the file (ONNX may name *other* files as the place of a tensor) and that its inputs and outputs are the ones we agreed
on. ONNX is protobuf; the two dozen lines that walk its wire format keep the `onnx` package off the robot.
Field numbers: onnx/onnx.proto of ONNX 1.16, unchanged since IR version 3 for what is read here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from diwa_runtime.errors import BundleError

FLOAT, UINT8 = 1, 2
ELEMENT_TYPES = {FLOAT: "float32", UINT8: "uint8", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64"}

# Where other messages lie inside a message: {kind: {field number: kind of what lies there}}.
_CHILDREN = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse_tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse_tensor", 23: "sparse_tensor"},
    "sparse_tensor": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 13, 14
_MODEL_GRAPH, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT, _TENSOR_NAME = 7, 5, 11, 12, 8


@dataclass(frozen=True)
class Signature:
    """A graph's inputs and outputs: name -> (element type, shape); None stands for a free dimension."""

    inputs: dict[str, tuple[str, tuple[int | None, ...]]]
    outputs: dict[str, tuple[str, tuple[int | None, ...]]]


def read_signature(model: bytes, name: str) -> Signature:
    """Return the signature of the ONNX `model`, having made sure that all of its tensors lie inside it.

    Raises:
        BundleError: not ONNX, or a tensor lies in another file; says which file by `name`.
    """
    try:
        _check_no_external_data(memoryview(model), name)
        graphs = [value for number, value in _fields(memoryview(model)) if number == _MODEL_GRAPH]
        if len(graphs) != 1:
            raise ValueError(f"{len(graphs)} graphs")
        return _graph_signature(_message(graphs[0]))
    except ValueError as error:
        raise BundleError(f"{name}: not an ONNX model ({error}); export the bundle again") from None


def _check_no_external_data(model: memoryview, name: str) -> None:
    pending: list[tuple[str, memoryview]] = [("model", model)]
    while pending:
        kind, message = pending.pop()
        for number, value in _fields(message):
            if kind == "tensor" and (number == _TENSOR_EXTERNAL_DATA or (number == _TENSOR_DATA_LOCATION and value)):
                raise BundleError(f"{name}: keeps weights in another file, which is refused; export it as one file")
            if child := _CHILDREN[kind].get(number):
                pending.append((child, _message(value)))


def _graph_signature(graph: memoryview) -> Signature:
    fields = list(_fields(graph))
    constants = {
        _text(value)
        for number, tensor in fields
        if number == _GRAPH_INITIALIZER
        for field, value in _fields(_message(tensor))
        if field == _TENSOR_NAME
    }
    inputs = dict(_value_info(_message(value)) for number, value in fields if number == _GRAPH_INPUT)
    outputs = dict(_value_info(_message(value)) for number, value in fields if number == _GRAPH_OUTPUT)
    return Signature({name: info for name, info in inputs.items() if name not in constants}, outputs)


def _value_info(message: memoryview) -> tuple[str, tuple[str, tuple[int | None, ...]]]:
    """Read a ValueInfoProto: name 1, type 2 -> tensor_type 1 -> (elem_type 1, shape 2 -> dim 1 -> dim_value 1)."""
    fields = dict(_fields(message))
    tensor = dict(_fields(_message(dict(_fields(_message(fields.get(2, b"")))).get(1, b""))))
    dimensions = [_message(value) for number, value in _fields(_message(tensor.get(2, b""))) if number == 1]
    shape = tuple(size if isinstance(size := dict(_fields(d)).get(1), int) else None for d in dimensions)
    code = tensor.get(1, 0)
    element = ELEMENT_TYPES.get(code, f"type {code}") if isinstance(code, int) else "no tensor"
    return _text(fields.get(1, b"")), (element, shape)


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (field number, value) of a protobuf message: an int for varints, else the bytes.

    Raises:
        ValueError: the bytes are no protobuf message.
    """
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, wire_type = tag >> 3, tag & 7
        if number == 0:
            raise ValueError("field number 0")
        if wire_type == 0:
            value, position = _varint(message, position)
            yield number, value
            continue
        if wire_type == 2:
            size, position = _varint(message, position)
        elif wire_type in (1, 5):
            size = 8 if wire_type == 1 else 4
        else:
            raise ValueError(f"wire type {wire_type}")
        if size > len(message) - position:
            raise ValueError("cut off")
        yield number, message[position : position + size]
        position += size


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(message[position : position + 10]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, position + index + 1
    raise ValueError("cut off" if len(message) - position < 10 else "number too long")


def _message(value: int | bytes | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where a message belongs")
    return memoryview(value)


def _text(value: int | bytes | memoryview) -> str:
    return bytes(_message(value)).decode("utf-8")
