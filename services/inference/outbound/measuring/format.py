"""What an ONNX file must not hold: data outside of it, operators that are not standard."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx

# The operators that every ONNX runtime has by itself. Others are code from somewhere else.
DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
DATATYPES = {
    onnx.TensorProto.FLOAT: "FP32",
    onnx.TensorProto.DOUBLE: "FP64",
    onnx.TensorProto.FLOAT16: "FP16",
    onnx.TensorProto.INT64: "INT64",
    onnx.TensorProto.INT32: "INT32",
    onnx.TensorProto.INT16: "INT16",
    onnx.TensorProto.INT8: "INT8",
    onnx.TensorProto.UINT8: "UINT8",
    onnx.TensorProto.BOOL: "BOOL",
}


def objections_to(content: bytes, asked: dict[str, Any]) -> list[str]:
    """In sentences; empty when there are none."""
    try:
        model = onnx.load_model_from_string(content)
    except Exception:
        return ["model.onnx is not an ONNX file."]
    outside = sorted({tensor.name for tensor in _tensors(model) if _is_external(tensor)})
    if outside:
        return [f"It keeps data outside of the file: {', '.join(outside)[:200]}."]
    foreign = sorted(set(_domains(model)) - DOMAINS)
    if foreign:
        return [f"It needs operators that are not ONNX's own: {', '.join(foreign)[:200]}."]
    try:
        onnx.checker.check_model(content)
    except Exception as error:
        return [f"It is not valid ONNX: {str(error).partition(chr(10))[0][:200]}"]
    return [
        *_compared("input", model.graph.input, asked["inputs"]),
        *_compared("output", model.graph.output, asked["outputs"]),
    ]


def _graphs(model: onnx.ModelProto) -> Iterator[Any]:
    """Every graph and function, with those inside of nodes (If, Loop, Scan)."""
    waiting: list[Any] = [model.graph, *model.functions]
    while waiting:
        graph = waiting.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    waiting.append(attribute.g)
                waiting.extend(attribute.graphs)


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    for graph in _graphs(model):
        if isinstance(graph, onnx.GraphProto):
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.TENSOR:
                    yield attribute.t
                yield from attribute.tensors
                if attribute.type == onnx.AttributeProto.SPARSE_TENSOR:
                    yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)


def _is_external(tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == onnx.TensorProto.EXTERNAL or len(tensor.external_data) > 0


def _domains(model: onnx.ModelProto) -> Iterator[str]:
    """Of the operators used; a function of the model's own is looked into instead."""
    own = {(function.domain, function.name) for function in model.functions}
    for graph in _graphs(model):
        for node in graph.node:
            if (node.domain, node.op_type) not in own:
                yield node.domain


def _compared(kind: str, found: Any, promised: list[dict[str, Any]]) -> Iterator[str]:
    """Whether the file's tensors are those that the manifest names; -1 goes with any size."""
    by_name = {value.name: value.type.tensor_type for value in found}
    if set(by_name) != {each["name"] for each in promised}:
        names = ", ".join(each["name"] for each in promised)
        yield f"Its {kind}s are {', '.join(by_name) or 'none'}, not {names} as its manifest says."
        return
    for each in promised:
        tensor = by_name[each["name"]]
        datatype = DATATYPES.get(tensor.elem_type, "another type")
        sizes = [
            dimension.dim_value if dimension.HasField("dim_value") else -1
            for dimension in tensor.shape.dim
        ]
        if datatype != each["datatype"] or not _fits(sizes, each["shape"]):
            yield (
                f"Its {kind} {each['name']} is {datatype} {sizes}, not {each['datatype']} "
                f"{each['shape']} as its manifest says."
            )
        elif sizes[0] != -1:
            yield f"Its {kind} {each['name']} takes {sizes[0]} rows only, not any number."


def _fits(sizes: list[int], promised: list[int]) -> bool:
    return len(sizes) == len(promised) and all(
        -1 in (size, wanted) or size == wanted for size, wanted in zip(sizes, promised, strict=True)
    )
