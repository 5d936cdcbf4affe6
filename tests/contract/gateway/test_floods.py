"""Whoever shows no token, by thousands of connections or calls: those who do get through."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from services.gateway.core.envoy import listener, rates, routes
from services.gateway.core.envoy.inputs import DoorTls
from services.gateway.dispatcher import frames
from services.gateway.dispatcher.headers import literal
from tests.support.bare_envoy import ANSWER, BareEnvoy, bare_envoy, may_open
from tests.support.certificates import write_certificates
from tests.support.eventually import eventually
from tools.servers.ports import LOOPBACK

pytestmark = pytest.mark.asyncio(loop_scope="module")

LOGIN = "/basalt.v1.IdentityService/Login"
KEYS = "/basalt.v1.IdentityService/GetJwks"
CREATE_USER = "/basalt.v1.IdentityService/CreateUser"
HELLO = frames.PREFACE + frames.settings({})
ANOTHER = "127.0.0.2"
# What Envoy takes beyond its timers on a machine that does much else.
CLOSED_S_MAX = 20.0


def block(path: str, *more: tuple[bytes, bytes]) -> bytes:
    fields = (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":authority", b"door"),
        (b":path", path.encode()),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        *more,
    )
    return b"".join(literal(name, value) for name, value in fields)


def called(path: str, stream: int = 1) -> bytes:
    """A whole call: its headers, and an empty message."""
    return frames.headers(stream, block(path), end_stream=False) + frames.frame(
        frames.DATA, frames.END_STREAM, stream, bytes(5)
    )


@pytest.fixture(scope="module")
def quick() -> Iterator[None]:
    """The door's own limits, but for those of time: the same timers, told to be quicker."""
    with pytest.MonkeyPatch.context() as brief:
        brief.setattr(listener, "FIRST_BYTES_S_MAX", 1.0)
        brief.setattr(listener, "HANDSHAKE_S_MAX", 1.0)
        brief.setattr(listener, "REQUEST_HEADERS_S_MAX", 1.0)
        brief.setattr(listener, "IDLE_S_MAX", 1.0)
        brief.setattr(listener, "DRAIN_S_MAX", 0.5)
        brief.setattr(listener, "UNREAD_S_MAX", 1.0)
        brief.setattr(routes, "OPEN_S_MAX", 1.0)
        yield


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def envoy(quick: None) -> AsyncIterator[BareEnvoy]:
    with tempfile.TemporaryDirectory(prefix="door-") as folder:
        async with bare_envoy(Path(folder)) as envoy:
            yield envoy


SILENT = {
    "nothing": b"",
    "a byte": b"P",
    "half a line": b"GET /v2",
    "half of the headers": b"GET /v2 HTTP/1.1\r\nhost: door\r\nx-",
    "half a preface": frames.PREFACE[:20],
    "a preface": HELLO,
    "a preface and pings": HELLO + frames.frame(frames.PING, 0, 0, b"12345678") * 100,
    "windows of nothing": frames.PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: 0}),
    "an answer that nobody takes": frames.PREFACE
    + frames.settings({frames.INITIAL_WINDOW_SIZE: 0})
    + called("/ready"),
    "half of a block": HELLO + frames.frame(frames.HEADERS, 0, 1, block(LOGIN)),
    "half a login": HELLO + frames.headers(1, block(LOGIN), end_stream=False),
    "a login of a body that does not come": b"POST "
    + LOGIN.encode()
    + b" HTTP/1.1\r\nhost: door\r\ncontent-type: application/grpc\r\ncontent-length: 100\r\n\r\nab",
    "a watch of the health": HELLO + called("/grpc.health.v1.Health/Watch"),
}


async def test_what_shows_no_token_is_closed_in_seconds(envoy: BareEnvoy) -> None:
    assert await left_open(envoy, SILENT) == []


async def test_what_does_not_shake_hands_is_closed_in_seconds(tmp_path: Path, quick: None) -> None:
    certificates = write_certificates(tmp_path, ["door"])
    tls = DoorTls(str(certificates / "door.pem"), str(certificates / "door.key"))
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
    kinds = {"nothing": b"", "half a hello": hello, "no TLS": SILENT["a preface"]}
    with tempfile.TemporaryDirectory(prefix="door-") as folder:
        async with bare_envoy(Path(folder), tls) as envoy:
            assert await left_open(envoy, kinds) == []


async def left_open(envoy: BareEnvoy, kinds: dict[str, bytes]) -> list[str]:
    """The names of those that are not closed in time, of one connection of each kind."""

    async def stays(name: str) -> str:
        with contextlib.suppress(TimeoutError):
            async with envoy.connection(kinds[name]) as (reader, _):
                await closed(reader)
            return ""
        return name

    return [name for name in await asyncio.gather(*map(stays, kinds)) if name]


async def closed(reader: asyncio.StreamReader) -> None:
    async with asyncio.timeout(CLOSED_S_MAX):
        with contextlib.suppress(ConnectionError):
            while await reader.read(65_536):
                pass


async def test_a_call_that_is_too_slow_is_told_so(envoy: BareEnvoy) -> None:
    async with envoy.connection(SILENT["a login of a body that does not come"]) as (reader, _):
        assert b"took longer than the door gives it. Send all of it" in await reader.read()


@pytest.mark.parametrize("path", ["/ready", "/v2/models/m", LOGIN])
async def test_an_answer_without_a_token_is_the_last_of_its_connection(
    envoy: BareEnvoy, path: str
) -> None:
    async with envoy.connection(envoy.get(path)) as (reader, _):
        assert b"connection: close" in await reader.readuntil(b"\r\n\r\n")
    async with envoy.connection(HELLO + called(path)) as (reader, _):
        await goaway(reader)


async def test_a_token_keeps_its_connection(envoy: BareEnvoy) -> None:
    async with envoy.connection() as (reader, writer):
        for _ in range(3):
            writer.write(envoy.get("/v2", envoy.token))
            assert b"connection: close" not in await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(2) == ANSWER[-2:]


async def test_a_token_that_does_not_hold_keeps_none(envoy: BareEnvoy) -> None:
    for token in (envoy.ring.token(exp=1), envoy.token[:-8] + "AAAAAAAA"):
        async with envoy.connection(envoy.get("/v2", token)) as (reader, _):
            assert b"connection: close" in await reader.readuntil(b"\r\n\r\n")
        authorized = (b"authorization", b"Bearer " + token.encode())
        infer = block("/inference.GRPCInferenceService/ModelInfer", authorized)
        async with envoy.connection(HELLO + frames.headers(1, infer, end_stream=True)) as (
            reader,
            _,
        ):
            await goaway(reader)


async def goaway(reader: asyncio.StreamReader) -> None:
    async with asyncio.timeout(CLOSED_S_MAX):
        while True:
            head = await reader.readexactly(9)
            await reader.readexactly(int.from_bytes(head[:3], "big"))
            if head[3] == frames.GOAWAY:
                return


# The first is turned away before anything of HTTP is made for it, the second only after that.
@pytest.mark.parametrize("sent", ["nothing", "a preface"])
async def test_a_caller_gets_through_thousands_of_connections_that_come_back(
    envoy: BareEnvoy, sent: str
) -> None:
    flood = Flood(envoy.port, SILENT[sent], may_open(6_000))
    flooding = asyncio.create_task(flood.run())
    try:
        await eventually(lambda: flood.closed > 200, within_s=60, what="the first are closed")
        for _ in range(5):
            async with asyncio.timeout(CLOSED_S_MAX):
                assert await envoy.status(envoy.get("/v2", envoy.token)) == 200
        assert flood.opened > flood.most
    finally:
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)
        flood.end()


class Flood:
    """As many open connections as it may have; whichever is closed comes back at once."""

    def __init__(self, port: int, sent: bytes, most: int) -> None:
        self.most = most
        self.opened = self.closed = 0
        self._at = (LOOPBACK, port)
        self._sent = sent
        self._open: list[socket.socket] = []

    async def run(self) -> None:
        while True:
            while len(self._open) < self.most:
                self._one()
                if self.opened % 100 == 0:
                    await asyncio.sleep(0)
            await asyncio.sleep(0)
            self._open = [each for each in self._open if self._stands(each)]

    def _one(self) -> None:
        made = socket.socket()
        made.setblocking(False)
        with contextlib.suppress(OSError):
            made.connect_ex(self._at)
            made.send(self._sent)
        self._open.append(made)
        self.opened += 1

    def _stands(self, each: socket.socket) -> bool:
        try:
            if each.recv(4_096):
                return True
        except BlockingIOError:
            return True
        except OSError:
            pass
        each.close()
        self.closed += 1
        return False

    def end(self) -> None:
        for each in self._open:
            each.close()


OPEN = {
    rates.LOGIN: (LOGIN, rates.LOGINS_PER_SECOND_MAX),
    rates.KEYS: (KEYS, rates.KEYS_PER_SECOND_MAX),
    rates.READY: ("/ready", rates.READY_PER_SECOND_MAX),
    rates.HEALTH: ("/grpc.health.v1.Health/Check", rates.HEALTH_PER_SECOND_MAX),
}


@pytest.mark.parametrize("kind", OPEN)
async def test_a_flood_of_one_kind_from_one_address_refuses_no_other(
    envoy: BareEnvoy, kind: str
) -> None:
    path, per_second_max = OPEN[kind]

    async def refused() -> bool:
        flood = await asyncio.gather(
            *(envoy.status(envoy.get(path)) for _ in range(2 * per_second_max))
        )
        # Right after it was full: nothing refills in between what the others ask now.
        others = [other for name, (other, _) in OPEN.items() if name != kind]
        answers = await asyncio.gather(
            *(envoy.status(envoy.get(other)) for other in others),
            envoy.status(envoy.get(path), ANOTHER),
            envoy.status(envoy.get("/v2", envoy.token)),
        )
        assert 429 not in answers
        return 429 in flood

    await eventually(refused, within_s=30)


async def test_a_query_makes_no_call_of_another_kind(envoy: BareEnvoy) -> None:
    async def refused() -> bool:
        paths = (f"{LOGIN}?{number}" for number in range(2 * rates.LOGINS_PER_SECOND_MAX))
        return 429 in await asyncio.gather(*(envoy.status(envoy.get(path)) for path in paths))

    await eventually(refused, within_s=30)


async def test_a_refusal_says_which_address_calls_too_often(envoy: BareEnvoy) -> None:
    async def told() -> bool:
        async with envoy.connection(envoy.get(LOGIN), "127.0.0.3") as (reader, _):
            return b"without a token come from 127.0.0.3. Wait" in await reader.read()

    async def flooded() -> bool:
        many = 2 * rates.LOGINS_PER_SECOND_MAX
        return any(await asyncio.gather(*(told() for _ in range(many))))

    await eventually(flooded, within_s=30)


RESETS = b"".join(
    frames.headers(stream, block(CREATE_USER), end_stream=False)
    + frames.reset(stream, frames.ErrorCode.CANCEL)
    for stream in range(1, 2 * 4_000, 2)
)
CONTROL = {
    "resets": RESETS,
    "pings whose answers nobody reads": frames.frame(frames.PING, 0, 0, b"12345678") * 200_000,
    "settings": frames.settings({}) * 200_000,
    "empty messages": frames.headers(1, block(LOGIN), end_stream=False)
    + frames.frame(frames.DATA, 0, 1) * 100,
    "blocks that never end": frames.frame(frames.HEADERS, 0, 1, block(LOGIN))
    + frames.frame(frames.CONTINUATION, 0, 1, literal(b"x", b"y" * 1_000)) * 1_000,
}


@pytest.mark.parametrize("flood", CONTROL.values(), ids=CONTROL)
async def test_a_flood_of_frames_ends_its_connection_alone(envoy: BareEnvoy, flood: bytes) -> None:
    async with envoy.connection(HELLO + flood) as (reader, _):
        # Until now nothing was read: whoever floods does not wait for answers.
        assert await envoy.status(envoy.get("/v2", envoy.token)) == 200
        await closed(reader)
    assert await envoy.status(envoy.get("/v2", envoy.token)) == 200
