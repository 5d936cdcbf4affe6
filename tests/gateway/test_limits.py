import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest

from services.gateway.dispatcher import Limits, Route, RoutingTable, frames
from tests.gateway.conftest import Door, request, route, values
from tests.gateway.test_hostile_peers import BLOCK, HELLO
from tests.support.eventually import eventually


def waiting(door: Door) -> int:
    return door.dispatcher.snapshot().calls_waiting


async def hold_one(door: Door) -> grpc.aio.UnaryUnaryCall:
    door.peer.open.clear()
    call = door.call(request([[1]]))
    await eventually(lambda: door.peer.requests)
    return call


async def test_a_tenant_cannot_have_more_calls_than_its_limit(door: Door) -> None:
    door.dispatcher.use(RoutingTable.of([route("double")], {"acme": 2}))
    calls = [await hold_one(door), door.call(request([[2]]))]
    await eventually(lambda: waiting(door) == 1)

    code, message = await door.refused(request([[3]]))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "2 calls in flight, its limit" in message

    door.peer.open.set()
    await asyncio.gather(*calls)
    assert values(await door.call(request([[3]]))) == [[6]]


@asynccontextmanager
async def slow_bodies(door: Door, number: int, part: bytes = b"\0") -> AsyncIterator[None]:
    """So many calls of acme whose bodies have begun to come, on one connection of Envoy's."""
    _, writer = await asyncio.open_unix_connection(str(door.socket))
    writer.write(HELLO)
    for stream in range(1, 2 * number, 2):
        writer.write(frames.headers(stream, BLOCK, end_stream=False))
        writer.write(frames.frame(frames.DATA, 0, stream, part))
    await eventually(lambda: door.dispatcher.snapshot().buffered_bytes == number * len(part))
    yield
    writer.close()
    await eventually(lambda: door.dispatcher.snapshot().buffered_bytes == 0)


async def test_slow_bodies_are_calls_of_their_tenant_and_of_nobody_else(door: Door) -> None:
    door.dispatcher.use(
        RoutingTable.of(
            [route("double"), Route("globex", "double", route("double").variants)], {"acme": 2}
        )
    )
    async with slow_bodies(door, 2):
        code, message = await door.refused(request([[3]]))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "2 calls in flight, its limit" in message
        other = ("x-basalt-tenant", "globex")
        assert values(await door.call(request([[3]]), other)) == [[6]]
    assert values(await door.call(request([[3]]))) == [[6]]


async def test_a_deadline_passes_in_the_queue_and_in_triton_and_triton_is_not_told(
    door: Door,
) -> None:
    door.peer.open.clear()
    began = time.monotonic()
    first = door.call(request([[1]]), timeout=0.2)
    await eventually(lambda: door.peer.requests)
    second = door.call(request([[2]]), timeout=0.2)
    for call in (first, second):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert refused.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began < 5.0

    await eventually(lambda: waiting(door) == 0)
    door.peer.open.set()
    assert values(await door.call(request([[3]]))) == [[6]]
    assert door.peer.cancelled == 0
    assert [made.inputs[0].shape[0] for made in door.peer.requests] == [1, 1]
    await eventually(lambda: door.dispatcher.snapshot().calls_in_flight == 0)
    assert sum(door.dispatcher.snapshot().series["acme", "double", "3"].errors.values()) == 2


async def test_a_cancelled_call_leaves_the_queue_and_triton_is_not_told(door: Door) -> None:
    sent = await hold_one(door)
    unsent, kept = door.call(request([[2]])), door.call(request([[3]]))
    await eventually(lambda: waiting(door) == 2)
    sent.cancel()
    unsent.cancel()
    await eventually(lambda: waiting(door) == 1)
    assert door.dispatcher.snapshot().calls_in_flight == 2

    door.peer.open.set()
    assert values(await kept) == [[6]]
    assert door.peer.cancelled == 0
    assert [list(made.inputs[0].shape) for made in door.peer.requests] == [[1, 1], [1, 1]]
    await eventually(lambda: door.dispatcher.snapshot().calls_in_flight == 0)
    assert door.dispatcher.snapshot().buffered_bytes == 0


async def test_callers_that_vanish_are_forgotten(door: Door) -> None:
    await hold_one(door)
    door.call(request([[2]]))
    await eventually(lambda: waiting(door) == 1)
    await door.channel.close()

    await eventually(lambda: waiting(door) == 0)
    door.peer.open.set()
    await eventually(lambda: door.dispatcher.snapshot().calls_in_flight == 0)
    assert door.peer.cancelled == 0


class TestWithSmallLimits:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(
            message_bytes_max=10_000,
            answer_bytes_max=6_000,
            buffered_bytes_max=30_000,
            model_waiting_max=5,
        )

    @pytest.mark.parametrize("columns", [3_000, 300_000])
    async def test_a_message_beyond_the_limit_is_refused(self, door: Door, columns: int) -> None:
        code, message = await door.refused(request([[0.0] * columns]))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "the limit of 10000 bytes" in message

    async def test_a_compressed_message_is_judged_by_its_true_size(self, door: Door) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await door.call(request([[0.0] * 300_000]), compression=grpc.Compression.Gzip)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    async def test_an_answer_beyond_the_limit_is_refused_and_the_next_is_not(
        self, door: Door
    ) -> None:
        code, message = await door.refused(request([[0.0] * 2_000], "echo"))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "the limit of 6000 bytes" in message
        assert values(await door.call(request([[1]], "echo"))) == [[1]]

    async def test_the_queue_of_a_model_is_bounded(self, door: Door) -> None:
        calls = [await hold_one(door), *(door.call(request([[2]])) for _ in range(5))]
        await eventually(lambda: waiting(door) == 5)
        code, message = await door.refused(request([[3]]))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "5 calls wait for model 'double', the limit" in message
        door.peer.open.set()
        await asyncio.gather(*calls)

    async def test_all_bodies_together_are_bounded(self, door: Door) -> None:
        door.peer.open.clear()
        calls = [door.call(request([[0.0] * 1_400], "echo")) for _ in range(5)]
        await eventually(lambda: len(door.peer.requests) == 5)
        code, message = await door.refused(request([[0.0] * 1_400], "echo"))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "30000 bytes" in message
        door.peer.open.set()
        await asyncio.gather(*calls)
        assert door.dispatcher.snapshot().buffered_bytes == 0


class TestWithASmallShare:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(message_bytes_max=10_000, tenant_buffered_bytes_max=25_000)

    async def test_the_bodies_of_a_tenant_are_bounded_and_nobody_elses(self, door: Door) -> None:
        door.dispatcher.use(
            RoutingTable.of([route("double"), Route("globex", "double", route("double").variants)])
        )
        async with slow_bodies(door, 3, bytes(8_000)):
            code, message = await door.refused(request([[0.0] * 500]))
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "25000 bytes of this tenant's requests" in message
            other = ("x-basalt-tenant", "globex")
            assert values(await door.call(request([[0.0] * 500]), other)) == [[0.0] * 500]
        assert values(await door.call(request([[0.0] * 500]))) == [[0.0] * 500]
