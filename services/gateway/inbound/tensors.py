"""Requests and answers of the Open Inference Protocol's REST form, to and from its gRPC messages.

Both forms of tensors are taken: JSON numbers, and the binary-data extension, where the body is the
JSON header followed by the tensors' bytes and `Inference-Header-Content-Length` says where it ends.
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

from collections.abc import Iterable
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
    header = _header(body[:split])
    request = pb.ModelInferRequest(
        model_name=model, model_version=version, id=str(header.get("id", ""))
    )
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
    if not isinstance(shape, list) or not all(type(each) is int and each >= 0 for each in shape):
        raise InvalidInputError(
            f"The input {name} has no shape of whole numbers.",
            which=name,
            next_step='Give one, as "shape": [1, 3].',
        )
    parameters = _parameters(given)
    if BINARY_SIZE in parameters:
        raw = blobs.take(name, parameters.pop(BINARY_SIZE))
    elif "data" in given:
        raw = _raw(name, datatype, given["data"])
    else:
        raise InvalidInputError(f"The input {name} has neither data nor {BINARY_SIZE}.", which=name)
    tensor = request.inputs.add(name=name, datatype=datatype, shape=shape)
    _set_parameters(tensor.parameters, parameters)
    request.raw_input_contents.append(raw)


def _raw(name: str, datatype: str, data: Any) -> bytes:
    """The elements, row-major and little-endian. Lists may be nested or flat."""
    if datatype == "BYTES":
        return b"".join(_prefixed(name, each) for each in _flat(data))
    dtype = DTYPES.get(datatype)
    if dtype is None:
        raise InvalidInputError(
            f"The input {name} of {datatype} cannot be written in JSON.",
            which=name,
            next_step="Send it as binary data.",
        )
    try:
        given = np.asarray(data)
        if given.dtype == np.object_ or given.dtype.kind not in _KINDS[dtype.kind]:
            raise ValueError(f"{_HELD.get(given.dtype.kind, 'a mixture')} was given")
        return _held(given, dtype).tobytes()
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidInputError(
            f"The data of the input {name} are no {datatype}: {error}.",
            which=name,
            next_step="Give one number that the datatype can hold for each element of its shape.",
        ) from error


def _held(given: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The numbers as that type. Raises ValueError or OverflowError for one that it cannot hold."""
    whole = dtype.kind in "iu"
    if whole and given.size:
        bounds = np.iinfo(dtype)
        for extreme in (given.min(), given.max()):
            # Compared as Python's own: a float would take 2**63 for the largest INT64.
            if not bounds.min <= int(extreme) <= bounds.max:
                raise ValueError(f"{extreme} is outside {bounds.min} to {bounds.max}")
    with np.errstate(over="ignore"):
        made = given.astype(dtype)
    # JSON has no infinity, so one that is there now was a number too large.
    lost = made != given if whole else np.isinf(made)
    if lost.any():
        raise ValueError(f"{given[lost][0]} cannot be represented")
    return made


# What JSON's values become in numpy, by what is asked for. An empty list becomes a float.
_KINDS = {"b": "b", "i": "iuf", "u": "iuf", "f": "iuf"}
_HELD = {"b": "true or false", "i": "a number", "u": "a number", "f": "a number", "U": "text"}


def _flat(data: Any) -> Iterable[Any]:
    if isinstance(data, list):
        for each in cast("list[Any]", data):
            yield from _flat(each)
    else:
        yield data


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
