"""A small gRPC service with all four kinds of call, behind the real server and guard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from google.protobuf.wrappers_pb2 import StringValue

from libs.common.auditing import Auditing, Happening, Written
from libs.common.clock import SystemClock
from libs.common.errors import DependencyError
from libs.common.identity import TokenVerifier, caller, caller_address
from libs.common.policy import Policy
from libs.common.rpc import Guard, Peers, Server, ServerTls
from tests.support.tokens import KeyRing

NAME = "basalt.test.v1.EchoService"
POLICY = """
permit (principal in Role::"engineer", action in Action::"read", resource);
permit (principal in Role::"administrator", action in Action::"administer", resource);
"""
SCHEMA = f"""
entity Tenant;
entity Role;
entity User in [Role] {{ tenant: Tenant }};
entity Service {{ tenant: Tenant }};
action "open", "privileged", "observed", "read", "administer", "across-tenants";
action "{NAME}/Open" in ["open"] appliesTo {{ principal: [User, Service], resource: [Tenant] }};
action "{NAME}/One", "{NAME}/Sum", "{NAME}/Chat" in ["read"]
  appliesTo {{ principal: [User, Service], resource: [Tenant] }};
action "{NAME}/Many" in ["read", "observed"]
  appliesTo {{ principal: [User, Service], resource: [Tenant] }};
action "{NAME}/Upload" in ["read", "privileged"]
  appliesTo {{ principal: [User, Service], resource: [Tenant] }};
action "{NAME}/Administer" in ["administer", "privileged"]
  appliesTo {{ principal: [User, Service], resource: [Tenant] }};
"""
RING = KeyRing("one")


@dataclass
class MemoryAudit:
    """Keeps what is recorded, unless it is down."""

    down: bool = False
    log: list[Happening] = field(default_factory=list)

    @property
    def records(self) -> list[tuple[str, str, str]]:
        return [(each.actor, each.action.rpartition("/")[2], each.decision) for each in self.log]

    async def write(self, happening: Happening, _named: str, _key: str) -> list[Written]:
        await asyncio.sleep(0)
        if self.down:
            raise DependencyError("The audit log cannot be written.", which="audit")
        self.log.append(happening)
        return [Written(happening, len(self.log))]


@dataclass
class Echo:
    """Answers what it is told to; counts what it was asked and what ended."""

    error: BaseException | None = None
    error_at_the_end: BaseException | None = None
    hangs: bool = False
    # While it is not set, calls of One wait.
    go_on: asyncio.Event | None = None
    handled: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    callers: list[str] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)

    def _begin(self, method: str, open_: bool = False) -> None:
        self.handled.append(method)
        self.addresses.append(caller_address())
        if not open_:
            self.callers.append(caller().tenant)
        if self.error is not None:
            raise self.error

    async def open(self, request: StringValue, _context: Any) -> StringValue:
        self._begin("Open", open_=True)
        return request

    async def one(self, request: StringValue, _context: Any) -> StringValue:
        self._begin("One")
        if self.hangs:
            await asyncio.Event().wait()
        if self.go_on is not None:
            await self.go_on.wait()
        return request

    async def administer(self, request: StringValue, _context: Any) -> StringValue:
        try:
            self._begin("Administer")
            if self.hangs:
                await asyncio.Event().wait()
            return request
        finally:
            self.ended.append("Administer")

    async def many(self, request: StringValue, _context: Any) -> AsyncIterator[StringValue]:
        try:
            self._begin("Many")
            for character in request.value:
                yield StringValue(value=character)
            if self.hangs:
                await asyncio.Event().wait()
            if self.error_at_the_end is not None:
                raise self.error_at_the_end
        finally:
            self.ended.append("Many")

    async def sum(self, requests: AsyncIterator[StringValue], _context: Any) -> StringValue:
        self._begin("Sum")
        return StringValue(value="".join([request.value async for request in requests]))

    async def upload(self, requests: AsyncIterator[StringValue], _context: Any) -> StringValue:
        self._begin("Upload")
        return StringValue(value="".join([request.value async for request in requests]))

    async def chat(
        self, requests: AsyncIterator[StringValue], _context: Any
    ) -> AsyncIterator[StringValue]:
        self._begin("Chat")
        async for request in requests:
            yield StringValue(value=request.value.upper())

    def register(self, server: grpc.aio.Server) -> None:
        code: dict[str, Any] = {
            "request_deserializer": StringValue.FromString,
            "response_serializer": StringValue.SerializeToString,
        }
        handlers = {
            "Open": grpc.unary_unary_rpc_method_handler(self.open, **code),  # pyright: ignore[reportArgumentType]
            "One": grpc.unary_unary_rpc_method_handler(self.one, **code),  # pyright: ignore[reportArgumentType]
            "Administer": grpc.unary_unary_rpc_method_handler(self.administer, **code),  # pyright: ignore[reportArgumentType]
            "Many": grpc.unary_stream_rpc_method_handler(self.many, **code),  # pyright: ignore[reportArgumentType]
            "Sum": grpc.stream_unary_rpc_method_handler(self.sum, **code),  # pyright: ignore[reportArgumentType]
            "Upload": grpc.stream_unary_rpc_method_handler(self.upload, **code),  # pyright: ignore[reportArgumentType]
            "Chat": grpc.stream_stream_rpc_method_handler(self.chat, **code),  # pyright: ignore[reportArgumentType]
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, handlers),))


class EchoStub:
    """As generated stubs look."""

    def __init__(self, channel: Any) -> None:
        code: dict[str, Any] = {
            "request_serializer": StringValue.SerializeToString,
            "response_deserializer": StringValue.FromString,
        }
        self.Open = channel.unary_unary(f"/{NAME}/Open", **code)
        self.One = channel.unary_unary(f"/{NAME}/One", **code)
        self.Administer = channel.unary_unary(f"/{NAME}/Administer", **code)
        self.Many = channel.unary_stream(f"/{NAME}/Many", **code)
        self.Sum = channel.stream_unary(f"/{NAME}/Sum", **code)
        self.Upload = channel.stream_unary(f"/{NAME}/Upload", **code)
        self.Chat = channel.stream_stream(f"/{NAME}/Chat", **code)
        self.Unknown = channel.unary_unary(f"/{NAME}/Unknown", **code)


@dataclass
class Token:
    """A token source; None carries no token."""

    token_: str

    async def token(self) -> str:
        return self.token_


@dataclass
class Running:
    echo: Echo
    audit: MemoryAudit
    auditing: Auditing
    server: Server
    address: str
    verifier: TokenVerifier
    tls: ServerTls | None = None
    _peers: list[Peers] = field(default_factory=list)

    def stub(self, token: str | None = None) -> EchoStub:
        return self.peers(token).stub(EchoStub, "echo")

    def peers(self, token: str | None = None) -> Peers:
        tokens = Token(RING.token() if token is None else token) if token != "" else None
        peers = Peers({"echo": self.address}, tokens, self.tls)
        self._peers.append(peers)
        return peers

    async def close(self) -> None:
        for peers in self._peers:
            await peers.stop()


@asynccontextmanager
async def running_echo(
    tls: Callable[[str], ServerTls] | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[Running]:
    echo, audit, verifier = Echo(), MemoryAudit(), RING.verifier()
    auditing = Auditing(audit.write, SystemClock())
    guard = Guard(verifier, Policy(POLICY, SCHEMA), auditing)
    server = Server("127.0.0.1:0", guard, [echo.register], [NAME], tls("echo") if tls else None)
    await server.start()
    running = Running(
        echo,
        audit,
        auditing,
        server,
        f"{host}:{server.port}",
        verifier,
        tls("caller") if tls else None,
    )
    try:
        yield running
    finally:
        await running.close()
        await server.stop()
