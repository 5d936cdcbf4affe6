import asyncio

import grpc
import pytest
import tritonclient.grpc.aio
from tritonclient.grpc import InferInput

from libs.common.pb.inference.grpc_inference_service_pb2 import (
    ModelInferRequest,
    ServerLiveRequest,
)
from libs.common.pb.inference.grpc_inference_service_pb2_grpc import GRPCInferenceServiceStub
from services.gateway.dispatcher import Route, RoutingTable, Variant
from tests.gateway.conftest import DIGEST, TENANT, Door, request, route, values
from tests.support.eventually import eventually

TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = ("traceparent", f"00-{TRACE_ID}-{PARENT_ID}-01")


async def held(door: Door, *made: ModelInferRequest) -> list[grpc.aio.UnaryUnaryCall]:
    """Calls that arrive in this order while the peer holds back its answer to the first."""
    door.peer.open.clear()
    calls: list[grpc.aio.UnaryUnaryCall] = []
    for number, each in enumerate(made):
        calls.append(door.call(each))
        await eventually(lambda: door.peer.requests)
        await eventually(lambda count=number + 1: in_flight(door) == count)
    return calls


def in_flight(door: Door) -> int:
    return door.dispatcher.snapshot().calls_in_flight


@pytest.mark.parametrize("model", ["double", "echo"])
async def test_an_answer_names_the_public_model_its_version_and_digest(
    door: Door, model: str
) -> None:
    call = door.call(request([[1, 2]], model, id="7"))
    answer = await call

    assert values(answer) == ([[2, 4]] if model == "double" else [[1, 2]])
    assert (answer.model_name, answer.model_version, answer.id) == (model, "3", "7")
    assert answer.parameters["basalt_digest"].string_param == DIGEST
    metadata = dict(await call.initial_metadata())
    assert metadata["basalt-model-version"] == "3"
    assert metadata["basalt-model-digest"] == DIGEST
    assert door.peer.requests[0].model_name == f"internal.{model}"


async def test_what_waits_is_merged_and_everybody_gets_their_own_rows(door: Door) -> None:
    wanted = [[[n, n + 1]] * (1 + n % 3) for n in range(40)]
    calls = await held(door, *(request(rows, id=str(n)) for n, rows in enumerate(wanted)))
    door.peer.open.set()
    answers = await asyncio.gather(*calls)

    for n, answer in enumerate(answers):
        assert values(answer) == [[2 * x for x in row] for row in wanted[n]]
        assert answer.id == str(n)
    rows = [made.inputs[0].shape[0] for made in door.peer.requests]
    assert len(rows) <= 4
    assert max(rows) <= 64
    snapshot = door.dispatcher.snapshot()
    assert snapshot.calls_merged == 39
    assert snapshot.buffered_bytes == snapshot.calls_in_flight == snapshot.calls_waiting == 0


async def test_texts_are_split_by_their_lengths(door: Door) -> None:
    calls = await held(door, *(request([[10**n]], "text") for n in range(6)))
    door.peer.open.set()
    raws = [(await call).raw_output_contents[0] for call in calls]

    assert raws == [
        len(text).to_bytes(4, "little") + text for text in (b"%g" % 10**n for n in range(6))
    ]


async def test_no_caller_gets_an_error_that_another_caused(door: Door) -> None:
    calls = await held(door, *(request([[x]]) for x in (1, 2, -3, 4)))
    door.peer.open.set()

    assert values(await calls[1]) == [[4]]
    assert values(await calls[3]) == [[8]]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await calls[2]
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details() == "negative in double"  # And not the internal name.


async def test_a_model_that_mixes_rows_is_found_out_and_served_one_by_one(door: Door) -> None:
    calls = await held(door, *(request([[x]], "sum") for x in (1, 2, 3)))
    door.peer.open.set()

    assert [values(await call) for call in calls] == [[[1]], [[2]], [[3]]]


async def test_shapes_and_outputs_that_differ_are_not_merged(door: Door) -> None:
    with_output = request([[1]])
    with_output.outputs.add(name="y")
    calls = await held(door, request([[1]]), request([[1, 2]]), request([[1]]), with_output)
    door.peer.open.set()
    answers = [values(await call) for call in calls]

    assert answers == [[[2]], [[2, 4]], [[2]], [[2]]]
    assert len(door.peer.requests) == 4


async def test_parameters_and_typed_contents_pass_untouched(door: Door) -> None:
    typed = request([[1]], "echo")
    typed.parameters["priority"].int64_param = 3
    await door.call(typed)

    assert door.peer.requests[0].parameters["priority"].int64_param == 3


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_requests_are_read(door: Door, compression: grpc.Compression) -> None:
    answer = await door.call(request([[1.0] * 500]), compression=compression)
    assert values(answer) == [[2.0] * 500]


@pytest.mark.parametrize("columns", [150_000, 3_000_000])
@pytest.mark.parametrize("model", ["double", "echo"])
async def test_large_messages_pass_in_both_directions(door: Door, columns: int, model: str) -> None:
    rows = [[1.0] * columns]
    answers = await asyncio.gather(*(door.call(request(rows, model)) for _ in range(3)))

    factor = 2.0 if model == "double" else 1.0
    assert all(values(answer) == [[factor] * columns] for answer in answers)


async def test_refusals_say_why(door: Door) -> None:
    code, message = await door.refused(request([[1]], "unknown"))
    assert code is grpc.StatusCode.NOT_FOUND
    assert "model 'unknown' is not deployed for this tenant" in message
    code, _ = await door.refused(request([[1]]), ("x-basalt-tenant", "rival"))
    assert code is grpc.StatusCode.NOT_FOUND
    code, message = await door.refused(request([[1]], model_version="9"))
    assert code is grpc.StatusCode.NOT_FOUND
    assert "deployed: 3" in message
    code, _ = await door.refused(request([[1]]), ("x-other", "1"))
    assert code is grpc.StatusCode.UNAUTHENTICATED
    code, _ = await door.refused(request([[1]]), TENANT, ("x-basalt-tenant", "rival"))
    assert code is grpc.StatusCode.UNAUTHENTICATED
    wrong = request([[1]])
    wrong.inputs[0].shape[1] = 2
    code, message = await door.refused(wrong)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "needs 8 bytes, but 4 came" in message
    code, message = await door.refused(request([[1]], "missing"))
    assert code is grpc.StatusCode.UNAVAILABLE
    assert message == "Triton has not loaded 'missing' yet; try again shortly"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await GRPCInferenceServiceStub(door.channel).ServerLive(ServerLiveRequest())
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED

    errors = door.dispatcher.snapshot().series["acme", "", ""].errors
    assert errors[grpc.StatusCode.NOT_FOUND.value[0]] == 2


async def test_a_new_table_replaces_the_old_one(door: Door) -> None:
    canary = (
        Variant("internal.double", "3", DIGEST, 0),
        Variant("other.double", "4", "sha256:new", 1),
    )
    door.dispatcher.use(RoutingTable.of([Route("acme", "double", canary)]))

    assert (await door.call(request([[1]]))).model_version == "4"
    assert (await door.call(request([[1]], model_version="3"))).model_version == "3"
    code, _ = await door.refused(request([[1]], "echo"))
    assert code is grpc.StatusCode.NOT_FOUND


async def test_a_sampled_trace_reaches_triton_and_the_span_is_its_parent(door: Door) -> None:
    calls = await held(door, request([[1]]), request([[2]]))
    traced = door.call(request([[3]]), TENANT, SAMPLED)
    await eventually(lambda: in_flight(door) == 3)
    door.peer.open.set()
    await asyncio.gather(traced, *calls)

    (span,) = door.spans
    assert (span.trace_id, span.parent_id) == (TRACE_ID, PARENT_ID)
    assert (span.tenant, span.model, span.version, span.code) == ("acme", "double", "3", 0)
    assert span.start_ns < span.end_ns
    assert "traceparent" not in door.peer.metadata[0]
    assert door.peer.metadata[1]["traceparent"] == f"00-{TRACE_ID}-{span.span_id}-01"


async def test_samples_hold_what_was_asked_and_answered(door: Door) -> None:
    door.dispatcher.use(RoutingTable.of([route("double", sample=1.0)]))
    made = request([[1, 2]], id="7")
    answer = await door.call(made, TENANT, ("x-basalt-subject", "joan"))

    (sample,) = door.dispatcher.sampler.drain(10)
    assert ModelInferRequest.FromString(sample.request) == made
    assert answer.FromString(sample.answer) == answer
    assert (sample.tenant, sample.subject, sample.model) == ("acme", "joan", "double")
    assert (sample.version, sample.digest, sample.request_id) == ("3", DIGEST, "7")


async def test_the_unchanged_client_of_triton_works(door: Door) -> None:
    async with tritonclient.grpc.aio.InferenceServerClient(f"unix:{door.socket}") as client:
        x = InferInput("x", [1, 2], "FP32")
        made = request([[1, 2]])
        x._raw_content = made.raw_input_contents[0]
        x._input.shape[:] = [1, 2]
        answer = await client.infer("double", [x], headers=dict([TENANT]), request_id="a")
        assert answer.as_numpy("y").tolist() == [[2, 4]]
