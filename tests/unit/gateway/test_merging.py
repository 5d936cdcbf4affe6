import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.pb.inference.grpc_inference_service_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
)
from services.gateway.dispatcher import Route, RoutingTable, Variant
from services.gateway.dispatcher.calls import Call, CallHeaders
from services.gateway.dispatcher.headers import HeaderReader
from services.gateway.dispatcher.merging import Lane, SplitError
from services.gateway.dispatcher.messages import RequestReader
from services.gateway.dispatcher.server import EnvoyConnection, interpret_call
from services.gateway.dispatcher.wire import GRPC_PREFIX_BYTES, grpc_prefix

HEADERS = CallHeaders(b"", "acme", "", None, None, None, b"")
TARGET = RoutingTable.of(
    [Route("acme", "m", (Variant("acme.m.3", "3", "sha256:aa", 1),), batch_size_max=64)]
).models["acme", "m"].targets[0]  # fmt: skip


class Nobody:
    def opened(self, call: Call) -> None: ...
    def grew(self, call: Call, data: bytes) -> None: ...
    def completed(self, call: Call, data: bytes) -> None: ...
    def abandoned(self, call: Call) -> None: ...


@pytest.fixture(scope="module")
def connection():
    loop = asyncio.new_event_loop()
    yield EnvoyConnection(HeaderReader(interpret_call), loop, Nobody(), set())
    loop.close()


def call_of(connection: EnvoyConnection, request: ModelInferRequest) -> Call:
    message = request.SerializeToString()
    call = Call(connection, 1, HEADERS, 0.0)
    call.body = grpc_prefix(len(message)) + message
    parsed = RequestReader().read(call.body)
    call.form, call.raws, call.request_id = parsed.form, parsed.raws, parsed.request_id
    call.target, call.routed = TARGET, True
    return call


def encode_texts(texts: list[bytes]) -> bytes:
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


TEXTS = st.lists(st.binary(max_size=6), min_size=2, max_size=2)
MEMBERS = st.lists(
    st.tuples(st.lists(TEXTS, min_size=1, max_size=4), st.text(max_size=5)), min_size=1, max_size=12
)


@given(MEMBERS)
def test_members_are_laid_end_to_end_and_answers_cut_at_the_same_rows(
    connection: EnvoyConnection, members: list[tuple[list[list[bytes]], str]]
) -> None:
    calls: list[Call] = []
    for index, (rows, request_id) in enumerate(members):
        numbers = np.full((len(rows), 3), index, np.float32)
        request = ModelInferRequest(model_name="m", id=request_id)
        request.inputs.add(name="n", datatype="FP32", shape=[len(rows), 3])
        request.inputs.add(name="t", datatype="BYTES", shape=[len(rows), 2])
        request.raw_input_contents.append(numbers.tobytes())
        request.raw_input_contents.append(encode_texts([text for row in rows for text in row]))
        calls.append(call_of(connection, request))
    lane = Lane(TARGET.rewriting, calls[0].form)
    lane.waiting = dict.fromkeys(calls)

    batch, rows = lane.take()
    assert batch == calls
    assert not lane.waiting
    merged = ModelInferRequest.FromString(lane.merged(batch, rows)[GRPC_PREFIX_BYTES:])
    assert merged.model_name == "acme.m.3"
    assert merged.id == ""
    assert [list(tensor.shape) for tensor in merged.inputs] == [[rows, 3], [rows, 2]]

    answer = ModelInferResponse(model_name="acme.m.3", model_version="1")
    answer.outputs.add(name="n", datatype="FP32", shape=[rows, 3])
    answer.outputs.add(name="t", datatype="BYTES", shape=[rows, 2])
    answer.raw_output_contents.extend(merged.raw_input_contents)  # As they came.
    split = lane.split(batch, rows, answer.SerializeToString())
    row = 0
    for call, (member_rows, request_id) in zip(batch, members, strict=True):
        part = ModelInferResponse.FromString(
            split.body(call, row, len(member_rows))[GRPC_PREFIX_BYTES:]
        )
        row += len(member_rows)
        sent = ModelInferRequest.FromString(call.body[GRPC_PREFIX_BYTES:])
        assert list(part.raw_output_contents) == list(sent.raw_input_contents)
        assert (part.model_name, part.model_version, part.id) == ("m", "3", request_id)
        assert part.parameters["basalt_digest"].string_param == "sha256:aa"


def plain_call(connection: EnvoyConnection, rows: int) -> Call:
    request = ModelInferRequest(model_name="m", raw_input_contents=[bytes(4 * rows)])
    request.inputs.add(name="x", datatype="FP32", shape=[rows, 1])
    return call_of(connection, request)


@given(st.lists(st.integers(1, 64), min_size=1, max_size=40))
def test_a_batch_never_exceeds_the_models_size_and_keeps_the_order(
    connection: EnvoyConnection, sizes: list[int]
) -> None:
    calls = [plain_call(connection, rows) for rows in sizes]
    lane = Lane(TARGET.rewriting, calls[0].form)
    lane.waiting = dict.fromkeys(calls)
    taken: list[Call] = []
    while lane.waiting:
        batch, rows = lane.take()
        assert batch
        assert rows == sum(call.form.rows for call in batch) <= 64
        taken += batch
    assert taken == calls


@pytest.mark.parametrize(
    ("shape", "raw_bytes"), [([1, 1], 4), ([3, 1], 8), ([2], 4), ([], 4), ([2**62, 1], 8)]
)
def test_an_answer_with_other_rows_is_not_split(
    connection: EnvoyConnection, shape: list[int], raw_bytes: int
) -> None:
    calls = [plain_call(connection, 1), plain_call(connection, 1)]
    lane = Lane(TARGET.rewriting, calls[0].form)
    answer = ModelInferResponse(raw_output_contents=[bytes(raw_bytes)])
    answer.outputs.add(name="y", datatype="FP32", shape=shape)

    with pytest.raises(SplitError):
        lane.split(calls, 2, answer.SerializeToString())


@given(st.binary(max_size=60))
def test_a_damaged_answer_is_never_split_wrongly(
    connection: EnvoyConnection, message: bytes
) -> None:
    calls = [plain_call(connection, 1), plain_call(connection, 1)]
    lane = Lane(TARGET.rewriting, calls[0].form)
    with pytest.raises(SplitError):
        lane.split(calls, 2, message)
