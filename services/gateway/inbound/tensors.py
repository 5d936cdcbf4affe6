"""Requests and answers of the Open Inference Protocol's REST form, to and from its gRPC messages.

Both forms of tensors are taken: JSON numbers, and the binary-data extension, where the body is the
JSON header followed by the tensors' bytes and `Inference-Header-Content-Length` says where it ends.
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import orjson
from numpy.typing import NDArray

from libs.common.errors import InternalError, InvalidInputError
from libs.common.pb.inference import grpc_inference_service_pb2 as pb
from services.gateway.core.datatypes import DTYPES

BINARY_SIZE = "binary_data_size"
BINARY = "binary_data"
BINARY_ALL = "binary_data_output"
TENSORS_MAX = 256
LENGTH_BYTES = 4
# Some write it before their JSON; RFC 8259 lets whoever reads it pass over it.
BOM = b"\xef\xbb\xbf"
_SEND = "Send the Open Inference Protocol's JSON, version 2: an object with `inputs`."
_STYLE = orjson.OPT_SERIALIZE_NUMPY

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Wanted:
    """How the answer's tensors are to be written; `names` differ from the common choice."""

    binary: bool
    names: dict[str, bool]

    def is_binary(self, name: str) -> bool:
        return self.names.get(name, self.binary)


def request_of(
    model: str, version: str, body: bytes, header_bytes: int | None
) -> tuple[pb.ModelInferRequest, Wanted]:
    """Raises InvalidInputError, saying which part of the request is malformed."""
    if not body:
        raise InvalidInputError("The body is empty.", which="body", next_step=_SEND)
    split = len(body) if header_bytes is None else header_bytes
    if not 0 < split <= len(body):
        raise InvalidInputError(
            f"Inference-Header-Content-Length is {split}, and the body has {len(body)} bytes.",
            which="Inference-Header-Content-Length",
            next_step="Give the length of the JSON part.",
        )
    header = _header(body[:split].removeprefix(BOM))
    request = pb.ModelInferRequest(model_name=model, model_version=version, id=_id(header))
    blobs = _Blobs(memoryview(body)[split:])
    for given in _objects(header.get("inputs"), "inputs"):
        _add_input(request, given, blobs)
    blobs.check_used()
    names: dict[str, bool] = {}
    for asked in _objects(header.get("outputs") or [], "outputs"):
        parameters = _parameters(asked)
        if BINARY in parameters:
            names[_name(asked)] = bool(parameters.pop(BINARY))
        output = request.outputs.add(name=_name(asked))
        _set_parameters(output.parameters, parameters)
    parameters = _parameters(header)
    binary = bool(parameters.pop(BINARY_ALL, False))
    _set_parameters(request.parameters, parameters)
    return request, Wanted(binary, names)


def answer_of(answer: pb.ModelInferResponse, wanted: Wanted) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON part where tensors follow it."""
    outputs: list[Json] = []
    blobs: list[bytes] = []
    if len(answer.raw_output_contents) != len(answer.outputs):
        raise InternalError("Triton's answer does not hold the tensors that it names.")
    for tensor, raw in zip(answer.outputs, answer.raw_output_contents, strict=True):
        shown: Json = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
        }
        parameters = _shown_parameters(tensor.parameters)
        if wanted.is_binary(tensor.name):
            parameters[BINARY_SIZE] = len(raw)
            blobs.append(raw)
        else:
            shown["data"] = _elements(tensor.name, tensor.datatype, raw)
        if parameters:
            shown["parameters"] = parameters
        outputs.append(shown)
    header: Json = {"model_name": answer.model_name, "model_version": answer.model_version}
    if answer.id:
        header["id"] = answer.id
    header["parameters"] = _shown_parameters(answer.parameters)
    header["outputs"] = outputs
    content = orjson.dumps(header, option=_STYLE)
    return b"".join((content, *blobs)), len(content) if blobs else None


class _Blobs:
    """The tensors' bytes behind the JSON part, taken one after the other."""

    def __init__(self, left: memoryview) -> None:
        self._left = left

    def take(self, name: str, size: Any) -> bytes:
        if not isinstance(size, int) or not 0 <= size <= len(self._left):
            raise InvalidInputError(
                f"The input {name} says {BINARY_SIZE} {size}, and {len(self._left)} bytes are left"
                " of the body.",
                which=name,
                next_step="Append each input's bytes to the JSON part, in the inputs' order.",
            )
        taken, self._left = bytes(self._left[:size]), self._left[size:]
        return taken

    def check_used(self) -> None:
        if len(self._left):
            raise InvalidInputError(
                f"{len(self._left)} bytes of the body belong to no input.",
                which="inputs",
                next_step=f"Say each input's {BINARY_SIZE}.",
            )


def _header(text: bytes) -> Json:
    try:
        header = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidInputError(
            f"The request is not JSON: {error}.",
            which="body",
            next_step=_SEND,
        ) from error
    if not isinstance(header, dict):
        raise InvalidInputError("The request is not a JSON object.", which="body")
    return cast("Json", header)


def _objects(value: Any, what: str) -> list[Json]:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise InvalidInputError(
            f"`{what}` is not a list of tensors.",
            which=what,
            next_step='Each is {"name", "shape", "datatype", "data"}.',
        )
    if len(value) > TENSORS_MAX:
        raise InvalidInputError(f"More than {TENSORS_MAX} {what}.", which=what)
    return value


def _id(header: Json) -> str:
    """The caller's name for the request; null is none."""
    given = header.get("id")
    if given is not None and not isinstance(given, str):
        raise InvalidInputError(
            "The request's `id` is no text.", which="id", next_step='Write "7" instead of 7.'
        )
    return given or ""


def _name(given: Json) -> str:
    name = given.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidInputError("A tensor has no name.", which="name")
    return name


def _parameters(given: Json) -> Json:
    parameters = given.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise InvalidInputError("`parameters` is not an object.", which="parameters")
    return dict(parameters)


def _add_input(request: pb.ModelInferRequest, given: Json, blobs: _Blobs) -> None:
    name, datatype, shape = _name(given), given.get("datatype"), given.get("shape")
    if not isinstance(datatype, str) or (
        datatype not in DTYPES and datatype not in ("BYTES", "BF16")
    ):
        raise InvalidInputError(
            f"The input {name} has the datatype {datatype}.",
            which=name,
            next_step=f"Use BYTES, BF16, {', '.join(DTYPES)}.",
        )
    if not isinstance(shape, list) or not all(
        type(each) is int and 0 <= each < 2**63 for each in shape
    ):
        raise InvalidInputError(
            f"The input {name} has no shape of whole numbers.",
            which=name,
            next_step='Give one, as "shape": [1, 3].',
        )
    parameters = _parameters(given)
    if BINARY_SIZE in parameters:
        raw = blobs.take(name, parameters.pop(BINARY_SIZE))
    elif "data" in given:
        raw = _raw(name, datatype, shape, given["data"])
    else:
        raise InvalidInputError(f"The input {name} has neither data nor {BINARY_SIZE}.", which=name)
    tensor = request.inputs.add(name=name, datatype=datatype, shape=shape)
    _set_parameters(tensor.parameters, parameters)
    request.raw_input_contents.append(raw)


def _raw(name: str, datatype: str, shape: list[int], data: Any) -> bytes:
    """The elements, row-major and little-endian. Lists are flat, or nested as the shape says."""
    dtype = DTYPES.get(datatype)
    if dtype is None and datatype != "BYTES":
        raise InvalidInputError(
            f"The input {name} of {datatype} cannot be written in JSON.",
            which=name,
            next_step="Send it as binary data.",
        )
    elements = _flat(name, shape, data)
    if dtype is None:
        return b"".join(_prefixed(name, each) for each in elements)
    try:
        return _held(elements, dtype).tobytes()
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidInputError(
            f"The data of the input {name} are no {datatype}: {error}.",
            which=name,
            next_step="Give one number that the datatype can hold for each element of its shape.",
        ) from error


def _flat(name: str, shape: list[int], data: Any) -> list[Any]:
    """The elements of a list, which is flat or nested as the shape says."""
    level: list[Any] = data if isinstance(data, list) else [data]
    nested = [len(level)]
    while level and isinstance(level[0], list):
        lengths = {len(each) if isinstance(each, list) else -1 for each in level}
        if len(lengths) > 1 or len(nested) > len(shape):
            raise _misshapen(name, shape, "is nested unevenly, or more deeply")
        nested.append(lengths.pop())
        level = list(itertools.chain.from_iterable(level))
    if len(nested) > 1 and nested != shape:
        raise _misshapen(name, shape, f"is nested as {nested}")
    if len(level) != math.prod(shape):
        raise _misshapen(name, shape, f"has {len(level)} elements")
    return level


def _misshapen(name: str, shape: list[int], what: str) -> InvalidInputError:
    return InvalidInputError(
        f"The data of the input {name} {what}, and its shape is {shape}.",
        which=name,
        next_step="Give a flat list of all elements, or lists in lists as the shape says.",
    )


def _held(given: list[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The values as that type. Raises ValueError or OverflowError for one that it cannot hold."""
    kinds = set(map(type, given))
    if odd := kinds - _TYPES[dtype.kind]:
        raise ValueError(f"{' and '.join(sorted(_NAMES[each] for each in odd))} was given")
    if dtype.kind not in "iu":
        with np.errstate(over="ignore"):
            made = np.array(given, dtype=np.float64 if dtype.kind == "f" else dtype).astype(dtype)
        # JSON has no infinity, so one that is there now was a number too large.
        if dtype.kind == "f" and np.isinf(made).any():
            raise ValueError(f"{given[int(np.isinf(made).argmax())]} cannot be represented")
        return made
    whole: list[int] = [_whole(each) for each in given] if float in kinds else given
    if whole:
        bounds = np.iinfo(dtype)
        for extreme in (min(whole), max(whole)):
            if not bounds.min <= extreme <= bounds.max:
                raise ValueError(f"{extreme} is outside {bounds.min} to {bounds.max}")
    return np.array(whole, dtype=dtype)


def _whole(number: float) -> int:
    """A whole number that was written with a point; beyond 2**53 nobody knows which it was."""
    if isinstance(number, float) and not (number.is_integer() and abs(number) < 2.0**53):
        raise ValueError(f"{number} cannot be represented")
    return int(number)


# What JSON's values are in Python, by the kind that is asked for.
_TYPES: dict[str, frozenset[type]] = {
    "b": frozenset({bool}),
    "i": frozenset({int, float}),
    "u": frozenset({int, float}),
    "f": frozenset({int, float}),
}
_NAMES = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "text",
    dict: "an object",
    list: "a list",
    type(None): "null",
}


def _prefixed(name: str, element: Any) -> bytes:
    if not isinstance(element, str):
        raise InvalidInputError(f"The input {name} of BYTES holds what is no text.", which=name)
    encoded = element.encode()
    return len(encoded).to_bytes(LENGTH_BYTES, "little") + encoded


def _elements(name: str, datatype: str, raw: bytes) -> Any:
    if datatype == "BYTES":
        return _texts(name, raw)
    dtype = DTYPES.get(datatype)
    if dtype is None:
        raise InvalidInputError(
            f"The output {name} of {datatype} cannot be written in JSON.",
            which=name,
            next_step="Ask for it as binary data.",
        )
    elements = np.frombuffer(raw, dtype)
    if dtype.kind == "f" and not np.isfinite(elements).all():
        # JSON knows no such number; null says that there is none.
        return [each if np.isfinite(each) else None for each in elements.tolist()]
    return elements.astype(np.float32) if datatype == "FP16" else elements


def _texts(name: str, raw: bytes) -> list[str]:
    texts: list[str] = []
    position = 0
    try:
        while position < len(raw):
            start = position + LENGTH_BYTES
            position = start + int.from_bytes(raw[position:start], "little")
            texts.append(raw[start:position].decode())
    except UnicodeDecodeError as error:
        raise InvalidInputError(
            f"The output {name} holds bytes that are no text.",
            which=name,
            next_step="Ask for it as binary data.",
        ) from error
    return texts


def _set_parameters(target: Any, parameters: Json) -> None:
    for name, value in parameters.items():
        if value is None:
            continue
        if isinstance(value, bool):
            target[name].bool_param = value
        elif isinstance(value, int):
            if not -(2**63) <= value < 2**63:
                raise InvalidInputError(f"The parameter {name} is too large.", which=name)
            target[name].int64_param = value
        elif isinstance(value, float):
            target[name].double_param = value
        elif isinstance(value, str):
            target[name].string_param = value
        else:
            raise InvalidInputError(
                f"The parameter {name} is neither number, text nor true or false.", which=name
            )


def _shown_parameters(parameters: Any) -> Json:
    return {
        name: getattr(value, value.WhichOneof("parameter_choice"))
        for name, value in parameters.items()
        if value.WhichOneof("parameter_choice")
    }
