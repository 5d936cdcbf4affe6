import asyncio
import contextlib
from pathlib import Path

import grpc

from services.gateway.dispatcher import Dispatcher, Limits, RoutingTable
from tests.gateway.conftest import Door, request, route, values
from tests.gateway.peers import OPTIONS, Peer
from tests.support.eventually import eventually


async def test_calls_wait_for_a_triton_that_comes_back(door: Door) -> None:
    assert values(await door.call(request([[1]]))) == [[2]]
    await door.peer.stop()
    await eventually(lambda: not door.dispatcher.snapshot().triton_connected)
    call = door.call(request([[2]]))
    await eventually(lambda: door.dispatcher.snapshot().calls_waiting == 1)

    await door.peer.start(door.peer.port)
    assert values(await call) == [[4]]


class Line:
    """A line between dispatcher and peer that a test can cut."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._writers: list[asyncio.StreamWriter] = []

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._peer.port)
        self._writers += [writer, far_writer]
        await asyncio.gather(self._pass(reader, far_writer), self._pass(far_reader, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while passed := await reader.read(65_536):
                writer.write(passed)
        writer.close()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


async def test_calls_that_triton_had_are_told_that_it_is_lost(peer: Peer, tmp_path: Path) -> None:
    line = Line(peer)
    server = await asyncio.start_server(line.connected, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    dispatcher = Dispatcher(address)
    dispatcher.use(RoutingTable.of([route("double")]))
    await dispatcher.start(tmp_path / "door.sock")
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/door.sock", options=OPTIONS) as channel:
        door = Door(dispatcher, peer, tmp_path / "door.sock", channel)
        peer.open.clear()
        sent = door.call(request([[1]]))
        await eventually(lambda: peer.requests)
        waits = door.call(request([[2]]))
        await eventually(lambda: dispatcher.snapshot().calls_waiting == 1)
        line.cut()

        code, message = await refusal(sent)
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "the connection to Triton broke" in message
        assert address not in message
        peer.open.set()
        assert values(await waits) == [[4]]  # It was not sent, so it waits for the next line.
    server.close()
    await dispatcher.close(grace_s=5.0)
    line.cut()
    await server.wait_closed()


async def refusal(call: grpc.aio.UnaryUnaryCall) -> tuple[grpc.StatusCode, str]:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    raise AssertionError("the call was answered")


async def test_without_triton_calls_are_told_so_after_a_bounded_wait(door: Door) -> None:
    await door.peer.stop()
    await eventually(lambda: not door.dispatcher.snapshot().triton_connected)
    # The first waits for the second that the limits of these tests allow; later ones do not.
    for _ in range(2):
        code, message = await door.refused(request([[1]]))
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "Triton cannot be reached" in message
        assert door.peer.address not in message


async def test_without_triton_a_caller_in_haste_hears_it_within_its_deadline(door: Door) -> None:
    await door.peer.stop()
    await eventually(lambda: not door.dispatcher.snapshot().triton_connected)
    code, message = await door.refused(request([[1]]), timeout=0.7)
    assert code is grpc.StatusCode.UNAVAILABLE
    assert "Triton cannot be reached" in message


async def test_a_triton_that_says_goodbye_finishes_and_is_replaced(door: Door) -> None:
    door.peer.open.clear()
    sent = door.call(request([[1]]))
    await eventually(lambda: door.peer.requests)
    stopping = asyncio.ensure_future(door.peer.stop(grace_s=20.0))
    await eventually(lambda: not door.dispatcher.snapshot().triton_connected)
    heir = await Peer().start(door.peer.port)
    assert values(await door.call(request([[2]], "echo"))) == [[2]]

    door.peer.open.set()
    assert values(await sent) == [[2]]
    await stopping
    await heir.stop()


async def test_closing_lets_calls_end_and_takes_no_new_ones(peer: Peer, tmp_path: Path) -> None:
    dispatcher = Dispatcher(peer.address, limits=Limits())
    dispatcher.use(RoutingTable.of([route("double")]))
    await dispatcher.start(tmp_path / "door.sock")
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/door.sock", options=OPTIONS) as channel:
        door = Door(dispatcher, peer, tmp_path / "door.sock", channel)
        peer.open.clear()
        sent = door.call(request([[1]]))
        await eventually(lambda: peer.requests)
        closing = asyncio.ensure_future(dispatcher.close(grace_s=20.0))
        await asyncio.sleep(0)
        assert not closing.done()
        peer.open.set()
        assert values(await sent) == [[2]]
        await closing
        code, _ = await door.refused(request([[1]]), timeout=5.0)
        assert code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    assert peer.cancelled == 0
