"""Bytes that no peer should send: the connection is closed, and the next one is served."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import hpack
import pytest
import uvloop
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.gateway.dispatcher import Dispatcher, RoutingTable, frames
from services.gateway.dispatcher.headers import literal
from services.gateway.dispatcher.upstream import MODEL_INFER_PATH
from tests.gateway.conftest import Door, request, route, values

ANSWERED_S_MAX = 5.0
HELLO = frames.PREFACE + frames.settings({})
BLOCK = b"".join(
    literal(name, value)
    for name, value in (
        (b":method", b"POST"),
        (b":path", MODEL_INFER_PATH),
        (b"x-basalt-tenant", b"acme"),
    )
)


def whole_call(stream_id: int = 1) -> bytes:
    message = request([[1, 2]]).SerializeToString()
    body = b"\0" + len(message).to_bytes(4, "big") + message
    return frames.headers(stream_id, BLOCK, end_stream=False) + frames.frame(
        frames.DATA, frames.END_STREAM, stream_id, body
    )


async def conversation(socket: Path, sent: bytes, *, hang_up: bool = True) -> bytes:
    """All that the dispatcher answers, until it or we have closed the connection."""
    reader, writer = await asyncio.open_unix_connection(str(socket))
    with contextlib.suppress(ConnectionError):
        writer.write(sent)
        if hang_up:
            writer.write_eof()
        async with asyncio.timeout(ANSWERED_S_MAX):
            answer = await reader.read()
        writer.close()
        return answer
    return b""


def kinds(answer: bytes) -> list[int]:
    found: list[int] = []
    position = 0
    while position + 9 <= len(answer):
        found.append(answer[position + 3])
        position += 9 + int.from_bytes(answer[position : position + 3], "big")
    return found


@contextlib.asynccontextmanager
async def served(folder: Path) -> AsyncIterator[tuple[Dispatcher, Path]]:
    """A dispatcher without Triton: for all that ends before a call is whole."""
    dispatcher = Dispatcher("127.0.0.1:9")
    dispatcher.use(RoutingTable.of([route("double")]))
    await dispatcher.start(folder / "door.sock")
    yield dispatcher, folder / "door.sock"
    await dispatcher.close(grace_s=0.0)


MUTATIONS = st.lists(
    st.tuples(st.integers(0, 2**16), st.binary(min_size=1, max_size=6)), min_size=1, max_size=4
)


@settings(max_examples=150)
@given(st.one_of(st.binary(max_size=400), st.binary(max_size=400).map(HELLO.__add__)))
@example(HELLO + frames.frame(frames.CONTINUATION, 0, 1))
@example(HELLO + frames.frame(frames.HEADERS, frames.PADDED, 1, b""))
def test_random_bytes_end_in_a_closed_connection(
    tmp_path_factory: pytest.TempPathFactory, sent: bytes
) -> None:
    async def run() -> None:
        async with served(tmp_path_factory.mktemp("fuzz")) as (dispatcher, socket):
            await conversation(socket, sent)
            assert dispatcher.snapshot().calls_in_flight == 0

    uvloop.run(run())


@settings(max_examples=150)
@given(MUTATIONS)
def test_damaged_frames_end_in_a_closed_connection(
    tmp_path_factory: pytest.TempPathFactory, mutations: list[tuple[int, bytes]]
) -> None:
    good = HELLO + whole_call(1) + frames.window_update(1, 10) + whole_call(3)
    good += frames.frame(frames.PING, 0, 0, b"12345678") + frames.reset(1, frames.ErrorCode.CANCEL)
    damaged = bytearray(good)
    for place, damage in mutations:
        place = len(frames.PREFACE) + place % (len(good) - len(frames.PREFACE))
        damaged[place : place + len(damage)] = damage

    async def run() -> None:
        async with served(tmp_path_factory.mktemp("fuzz")) as (dispatcher, socket):
            await conversation(socket, bytes(damaged))
            assert dispatcher.snapshot().calls_in_flight == 0

    uvloop.run(run())


LONG = frames.FRAME_BYTES_MAX


BROKEN = [
    b"GET / HTTP/1.1\r\n\r\n",
    frames.PREFACE + frames.frame(frames.PING, 0, 0, b"12345678"),
    HELLO + frames.header(frames.DATA, 0, 1, LONG + 1),
    HELLO + frames.frame(frames.DATA, 0, 1, b"idle"),
    HELLO + frames.headers(2, BLOCK, end_stream=False),
    HELLO + frames.headers(1, BLOCK, end_stream=False) * 2,
    HELLO + frames.headers(1, b"\xff\xff\xff\xff\xff\xff\xff", end_stream=False),
    HELLO + frames.frame(frames.HEADERS, 0, 1, BLOCK) + frames.settings({}),
    HELLO + frames.frame(frames.HEADERS, 0, 1, BLOCK)
    + frames.frame(frames.CONTINUATION, 0, 1, bytes(LONG)) * 5,
    HELLO + frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1, BLOCK),
    HELLO + frames.frame(frames.PUSH_PROMISE, 0, 1, BLOCK),
    HELLO + frames.window_update(0, 0),
    HELLO + frames.window_update(0, 2**31 - 1),
    HELLO + frames.window_update(7, 1),
    HELLO + frames.settings({frames.INITIAL_WINDOW_SIZE: 2**31}),
    HELLO + frames.settings({frames.MAX_FRAME_SIZE: 1}),
    HELLO + frames.frame(frames.SETTINGS, 0, 0, b"12345"),
    HELLO + frames.frame(frames.SETTINGS, 0, 1),
    HELLO + frames.frame(frames.PING, 0, 0, b"1"),
    HELLO + frames.frame(frames.RST_STREAM, 0, 1, b"\0\0\0\0"),
    HELLO + frames.frame(frames.GOAWAY, 0, 0, b"1"),
    HELLO + frames.headers(1, BLOCK, end_stream=False)
    + frames.frame(frames.DATA, frames.PADDED, 1, b"\x09ab"),
]  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN, ids=range(len(BROKEN)))
async def test_a_broken_rule_is_answered_with_goaway(tmp_path: Path, broken: bytes) -> None:
    async with served(tmp_path) as (dispatcher, socket):
        answer = await conversation(socket, broken, hang_up=False)
        assert frames.GOAWAY in kinds(answer)
        assert dispatcher.snapshot().calls_in_flight == 0


async def test_a_peer_of_other_habits_is_understood(door: Door) -> None:
    """Padding, priority, CONTINUATION, a dynamic table, small windows, PING: all in one talk."""
    encoder = hpack.Encoder()
    fields = [
        (":method", "POST"),
        (":path", MODEL_INFER_PATH.decode()),
        ("x-basalt-tenant", "acme"),
    ]
    reader, writer = await asyncio.open_unix_connection(str(door.socket))
    writer.write(frames.PREFACE + frames.settings({
        frames.INITIAL_WINDOW_SIZE: 20, frames.HEADER_TABLE_SIZE: 0,
    }))  # fmt: skip
    message = request([[1, 2]]).SerializeToString()
    body = b"\0" + len(message).to_bytes(4, "big") + message
    for stream_id in (1, 3):
        block = encoder.encode(fields)  # The second block refers to the first.
        padded = b"\x03" + b"\0\0\0\0\x10" + block[:2] + b"\0\0\0"
        flags = frames.PADDED | frames.HAS_PRIORITY
        writer.write(frames.frame(frames.HEADERS, flags, stream_id, padded))
        writer.write(frames.frame(frames.CONTINUATION, frames.END_HEADERS, stream_id, block[2:]))
        writer.write(
            frames.frame(frames.DATA, frames.PADDED, stream_id, b"\x02" + body[:9] + b"\0\0")
        )
        writer.write(frames.frame(frames.DATA, 0, stream_id, body[9:]))
        trailers = frames.frame(frames.DATA, frames.END_STREAM, stream_id)
        writer.write(trailers)
    writer.write(frames.frame(frames.PING, 0, 0, b"12345678"))
    writer.write(frames.frame(0x55, 0, 0, b"a frame that is not known"))
    bodies = {1: b"", 3: b""}
    ended: set[int] = set()
    pinged = False
    while len(ended) < 2 or not pinged:
        async with asyncio.timeout(ANSWERED_S_MAX):
            head = await reader.readexactly(9)
            payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
        kind, flags, stream_id = head[3], head[4], int.from_bytes(head[5:], "big")
        if kind == frames.DATA:
            assert len(payload) <= 20
            bodies[stream_id] += payload
            writer.write(frames.window_update(stream_id, len(payload)))
        elif kind == frames.HEADERS and flags & frames.END_STREAM:
            ended.add(stream_id)
        elif kind == frames.PING:
            pinged = payload == b"12345678"
    answer = door.peer.requests[0]
    assert answer.model_name == "internal.double"
    for read in bodies.values():
        assert len(read) == 5 + int.from_bytes(read[1:5], "big")
    writer.close()
    assert values(await door.call(request([[5]]))) == [[10]]
