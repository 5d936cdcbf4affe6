"""Envoy alone with the door's own configuration: for what happens before anything behind it."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from libs.common.policy import Policy
from services.gateway.core.envoy.configuration import render
from services.gateway.core.envoy.inputs import Access, DoorTls, Inputs
from services.gateway.core.site import SERVICES, site
from services.gateway.dispatcher import frames
from tests.support.tokens import KeyRing
from tools.servers import Envoy
from tools.servers.ports import LOOPBACK, free_ports

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
END_OF_HEADERS = b"\r\n\r\n"


@dataclass
class BareEnvoy:
    """`port` is the door's. Its REST is answered with "ok"; the services are silent."""

    port: int
    ring: KeyRing = field(default_factory=KeyRing)

    def get(self, path: str, token: str = "", more: str = "") -> bytes:
        bearer = f"authorization: Bearer {token}\r\n" if token else ""
        return f"GET {path} HTTP/1.1\r\nhost: door\r\n{bearer}{more}\r\n".encode()

    @property
    def token(self) -> str:
        return self.ring.token(sub="app", roles=["application"])

    @asynccontextmanager
    async def connection(
        self, sent: bytes = b"", source: str = LOOPBACK
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection(LOOPBACK, self.port, local_addr=(source, 0))
        try:
            writer.write(sent)
            yield reader, writer
        finally:
            writer.close()

    async def status(self, sent: bytes, source: str = LOOPBACK) -> int:
        """Of the answer to one HTTP/1.1 request on a connection of its own."""
        async with self.connection(sent, source) as (reader, _):
            line = await reader.readline()
        return int(line.split()[1])


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            await reader.readuntil(END_OF_HEADERS)
            writer.write(ANSWER)
    writer.close()


async def _take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Speaks HTTP/2 as far as Envoy has to hear it, and answers no call."""
    writer.write(frames.settings({}))
    with contextlib.suppress(ConnectionError):
        while await reader.read(65_536):
            pass
    writer.close()


@asynccontextmanager
async def bare_envoy(folder: Path, tls: DoorTls | None = None) -> AsyncIterator[BareEnvoy]:
    names = sorted({*SERVICES.values()})
    [port] = free_ports(1)
    silent = await asyncio.start_server(_take, LOOPBACK, 0)
    behind = f"{LOOPBACK}:{silent.sockets[0].getsockname()[1]}"
    server = await asyncio.start_server(_answer, LOOPBACK, 0)
    rest = server.sockets[0].getsockname()[1]
    bare = BareEnvoy(port)
    where = site(
        listen=f"{LOOPBACK}:{port}",
        folder=str(folder),
        slow_grpc=behind,
        slow_rest=f"{LOOPBACK}:{rest}",
        peers=dict.fromkeys(names, behind),
        policy=Policy.load(),
        tls=tls,
        mutual_tls="",
    )
    access = Access(version=1, keys=tuple(bare.ring.jwks()["keys"]), tenants=("acme",))
    config = folder / "whole.json"
    config.write_text(render(Inputs(where, access)).whole)
    envoy = Envoy(config, folder / "envoy")
    await asyncio.to_thread(envoy.start)
    try:
        yield bare
    finally:
        await asyncio.to_thread(envoy.stop)
        server.close()
        silent.close()


def may_open(connections: int) -> int:
    """How many of them this process may have; it allows itself as many as it can."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return min(connections, most - 200)
