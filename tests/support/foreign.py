"""Every RPC with every name that it takes, generated from the descriptors: a new one is in it.

A request is filled with names of the caller's own; then one text field after the other, nested and
repeated ones too, gets a name that another tenant has, the like of it that nobody has, and tricks.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from libs.common.pb.basalt import v1
from libs.common.pb.inference import grpc_inference_service_pb2
from libs.common.rpc import from_call_error

# The caller has a source, a dataset, a pipeline and a model of this name.
OWN = "own"
NAMED_DEEP_MAX = 4
ANSWERS_READ_MAX = 20
CALL_S_MAX = 30.0
READING = ("Get", "List", "Read", "Watch", "Follow", "Export", "Verify", "Model", "Server")

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """`said`: what came back, as text, the status with its details or the messages."""

    code: str
    said: str
    content: bytes = b""


def methods() -> list[MethodDescriptor]:
    """Those that read come first: what others make must not be what they find."""
    modules = [
        importlib.import_module(f"{v1.__name__}.{each.name}")
        for each in pkgutil.iter_modules(v1.__path__)
        if each.name.endswith("_pb2")
    ]
    found = [
        method
        for module in (*modules, grpc_inference_service_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    ]
    return sorted(found, key=lambda each: (not each.name.startswith(READING), each.full_name))


def named_fields(method: MethodDescriptor) -> list[Path]:
    return list(_texts(method.input_type, ()))


def _texts(described: Any, above: Path) -> Iterator[Path]:
    if len(above) >= NAMED_DEEP_MAX:
        return
    for field in described.fields:
        path = (*above, field.name)
        if field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
            yield path
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            yield from _texts(field.message_type, path)


def request_of(method: MethodDescriptor, named: Path = (), name: str = "") -> Message:
    """The request with the caller's own names, but for the field at `named`."""
    return _filled(method.input_type, named, name)


def _filled(described: Any, named: Path, name: str) -> Message:
    made = GetMessageClass(described)()
    for field in described.fields:
        here = named[:1] == (field.name,)
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            if field.containing_oneof is not None and not here:
                continue
            if here or not field.is_repeated:
                _put(made, field, _filled(field.message_type, named[1:] if here else (), name))
        elif field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
            text = _written(field.name, name if here else _own(field.name))
            _put(made, field, text if field.type == FieldDescriptor.TYPE_STRING else text.encode())
        elif field.type == FieldDescriptor.TYPE_BOOL:
            _put(made, field, field.name == "last")
        elif field.type == FieldDescriptor.TYPE_ENUM:
            continue
        else:
            _put(made, field, 1)
    return made


def _put(made: Message, field: Any, value: Any) -> None:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        entry = getattr(made, field.name)
        if isinstance(getattr(value, "value", None), Message):
            entry[value.key].CopyFrom(value.value)
        else:
            entry[value.key] = value.value
    elif field.is_repeated:
        getattr(made, field.name).append(value)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        getattr(made, field.name).CopyFrom(value)
    else:
        setattr(made, field.name, value)


def _own(field: str) -> str:
    # A page that is asked for from the beginning, and a call that is not a repeated one.
    return "" if field in ("token", "idempotency_key", "alias", "tenant") else OWN


def _written(field: str, name: str) -> str:
    """A name, where a whole definition is asked for in the place that it has there."""
    quoted = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if field == "contract_yaml":
        return CONTRACT.replace("NAME", quoted)
    if field == "definition_yaml":
        return PIPELINE.replace("NAME", quoted)
    return name


CONTRACT = """\
name: NAME
description: What belongs to nobody else.
key: [id]
label: class
columns:
  - {name: id, type: string, role: key}
  - {name: width, type: float, minimum: 0, role: feature}
  - {name: class, type: string, allowed: ["a", "b"], role: label}
"""
PIPELINE = """\
name: own
data: {dataset: NAME, label: class, features: all, holdout_fraction: 0.5, seed: 7}
steps: [{train: logistic_regression, as: baseline}, {select: accuracy}, {export: onnx}]
model: {name: own, task: classification}
gates: {accuracy_min: 0.9, accuracy_drop_max: 0.03, latency_ms_p99_max: 50}
limits: {time_s: 300, memory_bytes: 3221225472, threads: 1}
"""


async def asked(
    channel: grpc.aio.Channel,
    method: MethodDescriptor,
    request: Message,
    metadata: tuple[tuple[str, str], ...],
) -> Answer:
    path = f"/{method.containing_service.full_name}/{method.name}"
    maker = getattr(
        channel,
        f"{'stream' if method.client_streaming else 'unary'}"
        f"_{'stream' if method.server_streaming else 'unary'}",
    )
    answer_type = GetMessageClass(method.output_type)
    stub = maker(
        path,
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=answer_type.FromString,
    )
    given: Any = _each(request) if method.client_streaming else request
    call = stub(given, metadata=metadata, timeout=CALL_S_MAX)
    try:
        if method.server_streaming:
            answers = await _beginning(call)
        else:
            answers = [await call]
    except grpc.aio.AioRpcError as error:
        told = from_call_error(error, "door")
        return Answer(error.code().name, f"{error.details()}|{told.which}|{told.next_step}")
    content = b"".join(answer.SerializeToString() for answer in answers)
    return Answer("OK", " ".join(map(str, answers)), content)


async def _each(request: Message) -> AsyncIterator[Message]:
    yield request


async def _beginning(call: Any) -> list[Any]:
    answers: list[Any] = []
    async for answer in call:
        answers.append(answer)
        if len(answers) >= ANSWERS_READ_MAX:
            call.cancel()
            break
    return answers
