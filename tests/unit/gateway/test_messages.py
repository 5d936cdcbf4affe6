import contextlib
import re

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from libs.common.pb.inference.grpc_inference_service_pb2 import ModelInferRequest
from services.gateway.dispatcher.messages import RequestReader
from services.gateway.dispatcher.wire import MessageError, grpc_prefix, read_varint, varint

SIZES = {"FP32": 4, "INT64": 8, "UINT8": 1, "FP16": 2}


def body_of(request: ModelInferRequest) -> bytes:
    message = request.SerializeToString()
    return grpc_prefix(len(message)) + message


@st.composite
def requests(draw: st.DrawFn) -> ModelInferRequest:
    request = ModelInferRequest(
        model_name=draw(st.text(max_size=20)),
        model_version=draw(st.text(max_size=4)),
        id=draw(st.text(max_size=20)),
    )
    rows = draw(st.integers(1, 300))
    for index in range(draw(st.integers(1, 3))):
        datatype = draw(st.sampled_from(sorted(SIZES)))
        columns = draw(st.integers(0, 40))
        request.inputs.add(name=f"x{index}", datatype=datatype, shape=[rows, columns])
        request.raw_input_contents.append(bytes(rows * columns * SIZES[datatype]))
    for name in draw(st.lists(st.text(max_size=5), max_size=2)):
        request.outputs.add(name=name)
    return request


@given(requests())
def test_a_request_is_read_as_protobuf_reads_it(request: ModelInferRequest) -> None:
    body = body_of(request)
    parsed = RequestReader().read(body)

    assert parsed.form.model == request.model_name
    assert parsed.form.version == request.model_version
    assert parsed.request_id.decode() == request.id
    assert parsed.form.rows == request.inputs[0].shape[0]
    assert [body[start:end] for start, end in parsed.raws] == list(request.raw_input_contents)


@given(requests(), st.integers(0, 2**16), st.binary(min_size=1, max_size=4))
def test_a_damaged_request_is_read_or_refused(
    request: ModelInferRequest, place: int, damage: bytes
) -> None:
    body = bytearray(body_of(request))
    place = 5 + place % max(len(body) - 5, 1)
    body[place : place + len(damage)] = damage
    with contextlib.suppress(MessageError):
        RequestReader().read(bytes(body))


@given(st.binary(max_size=100))
@example(b"\x0a")
@example(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")
def test_what_protobuf_reads_is_never_malformed_here(message: bytes) -> None:
    try:
        request = ModelInferRequest.FromString(message)
    except DecodeError:
        return
    # Rules of the protocol above the wire, groups, and limits are stricter than protobuf.
    stricter = "raw_input_contents|wire type|shape|elements|needs|content"
    refused = None
    try:
        parsed = RequestReader().read(grpc_prefix(len(message)) + message)
        assert parsed.form.model == request.model_name
    except MessageError as error:
        refused = str(error)
    assert refused is None or re.search(stricter, refused)


@given(st.integers(0, 2**63))
def test_varints_return(value: int) -> None:
    encoded = varint(value)
    assert read_varint(encoded, 0, len(encoded)) == (value, len(encoded))


def request_of(shape: list[int], raw: bytes, datatype: str = "FP32") -> ModelInferRequest:
    request = ModelInferRequest(model_name="m", raw_input_contents=[raw])
    request.inputs.add(name="x", datatype=datatype, shape=shape)
    return request


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (request_of([1, 3], b"\0" * 8), r"'x' of shape \[1, 3\] and type FP32 needs 12 bytes"),
        (request_of([-1, 3], b"\0" * 12), "impossible shape"),
        (request_of([2**40, 2**40], b""), "too many elements"),
        (request_of([2], b"\1\0\0\0a", "BYTES"), "as many elements"),
        (request_of([1], b"\x09\0\0\0a", "BYTES"), "as many elements"),
        (ModelInferRequest(model_name="m", raw_input_contents=[b""]), "0 inputs, but 1"),
    ],
)
def test_impossible_tensors_are_refused(request_: ModelInferRequest, words: str) -> None:
    with pytest.raises(MessageError, match=words):
        RequestReader().read(body_of(request_))


def test_shared_memory_is_refused() -> None:
    request = request_of([1, 1], b"\0" * 4)
    request.inputs[0].parameters["shared_memory_region"].string_param = "theirs"
    with pytest.raises(MessageError, match="shared memory"):
        RequestReader().read(body_of(request))


def test_what_cannot_be_merged_is_known() -> None:
    typed = ModelInferRequest(model_name="m")
    typed.inputs.add(name="x", datatype="FP32", shape=[1, 1]).contents.fp32_contents.append(1.0)
    with_parameter = request_of([1, 1], b"\0" * 4)
    with_parameter.parameters["priority"].int64_param = 1
    scalar = request_of([], b"\0" * 4)

    for request in (typed, with_parameter, scalar):
        assert RequestReader().read(body_of(request)).form.rows == 0


def test_a_message_of_countless_fields_is_refused() -> None:
    message = b"\x3a\x00" * 5_000
    with pytest.raises(MessageError, match="more than 1024 fields"):
        RequestReader().read(grpc_prefix(len(message)) + message)


def test_the_layout_of_a_request_is_given_only_where_it_is_safe() -> None:
    plain = RequestReader().read(body_of(request_of([1, 1], b"\0" * 4)))
    assert plain.layout is not None
    assert plain.layout.raws == plain.raws

    named = request_of([1, 1], b"\0" * 4)
    named.id = "7"
    assert RequestReader().read(body_of(named)).layout is None
    counted = RequestReader().read(body_of(request_of([1], b"\1\0\0\0a", "BYTES")))
    assert counted.layout is None
