"""The real `security` in this process, and services beside it, for the suites of every service.

async with running_security(tmp_path, kafka.bootstrap) as security:
    ann = await security.user("acme", "ann", ["engineer"])       # a token
    settings = Settings(**security.settings("ingest"), ...)      # a service that it knows
    async with running(build(settings)): ...
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc.aio
from pydantic import SecretStr

from libs.common.pb.basalt.v1 import security_pb2 as pb
from libs.common.pb.basalt.v1.security_pb2_grpc import IdentityServiceStub
from libs.common.runtime import Part, Service
from libs.common.settings import SERVICES
from services.security.app import build
from services.security.settings import Settings
from tools.servers.ports import free_ports

PASSWORD = "four random words here"

T = TypeVar("T")


@asynccontextmanager
async def running(service: Service) -> AsyncIterator[Service]:
    """The parts of a service, started in order and stopped in the opposite one."""
    started: list[Part] = []
    try:
        for part in service.parts:
            started.append(part)
            await part.start()
        yield service
    finally:
        for part in reversed(started):
            await part.stop()


def bearer(token: str) -> dict[str, Any]:
    """What a call carries to be somebody's: `stub.ListUsers(request, **bearer(token))`."""
    return {"metadata": (("authorization", f"Bearer {token}"),)}


@dataclass
class Security:
    """A running security with a new administrator, and what others need to call it."""

    folder: Path
    kafka: str
    address: str
    credentials: Mapping[str, str]
    master_key: str
    channel: grpc.aio.Channel
    peers: dict[str, str]
    service: Service | None = None
    tokens: dict[tuple[str, str], str] = field(default_factory=dict)

    def stub(self, kind: Callable[[Any], T]) -> T:
        return kind(self.channel)

    @property
    def identity(self) -> IdentityServiceStub:
        return self.stub(IdentityServiceStub)

    def settings(self, service: str) -> dict[str, Any]:
        """Of a service that this security knows; all of them share the folder and Kafka."""
        return {
            "kafka": self.kafka,
            "journal": f"sqlite:{self.folder / 'journal'}",
            "objects": f"directory:{self.folder / 'objects'}",
            "rpc_listen": self.peers[service],
            "peers": self.peers,
            "service_credential": self.credentials[service],
        }

    async def log_in(self, tenant: str, name: str, one_time: str) -> str:
        """Changes a one-time password and answers a token."""
        await self.identity.ChangePassword(
            pb.ChangePasswordRequest(
                tenant=tenant, name=name, password=one_time, new_password=PASSWORD
            )
        )
        return await self.log_in_again(tenant, name)

    async def log_in_again(self, tenant: str, name: str) -> str:
        answer = await self.identity.Login(
            pb.LoginRequest(tenant=tenant, name=name, password=PASSWORD)
        )
        self.tokens[(tenant, name)] = answer.token
        return answer.token

    async def administrator(self) -> str:
        """A token of the platform's administrator, with the password that the first start noted."""
        if known := self.tokens.get(("platform", "admin")):
            return known
        return await self.log_in("platform", "admin", self.first_password())

    def first_password(self) -> str:
        note = (self.folder / "first-login.txt").read_text()
        return note.split("one-time password: ")[1].split("\n")[0]

    async def user(self, tenant: str, name: str, roles: Sequence[str]) -> str:
        """A token of a user, made with the tenant they are in unless they are there."""
        if known := self.tokens.get((tenant, name)):
            return known
        admin = bearer(await self.administrator())
        try:
            await self.identity.CreateTenant(pb.CreateTenantRequest(tenant=tenant), **admin)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
                raise
        made = await self.identity.CreateUser(
            pb.CreateUserRequest(tenant=tenant, name=name, roles=roles), **admin
        )
        return await self.log_in(tenant, name, made.one_time_password)

    async def service_token(self, service: str, tenant: str = "") -> str:
        answer = await self.identity.IssueServiceToken(
            pb.IssueServiceTokenRequest(
                service=service, credential=self.credentials[service], tenant=tenant
            )
        )
        return answer.token


async def stop_part(service: Service | None, name: str) -> None:
    """Takes one part away from a running service, such as its journal."""
    assert service is not None
    await next(part for part in service.parts if part.name == name).stop()


def security_settings(security: Security) -> Settings:
    return Settings(
        **security.settings("security"),
        master_key=SecretStr(security.master_key),
        service_credentials={
            service: SecretStr(secret) for service, secret in security.credentials.items()
        },
        first_login_file=security.folder / "first-login.txt",
        checkpoints=f"directory:{security.folder / 'checkpoints'}",
    )


@asynccontextmanager
async def running_security(folder: Path, kafka: str) -> AsyncIterator[Security]:
    ports = free_ports(len(SERVICES))
    peers = {service: f"127.0.0.1:{port}" for service, port in zip(SERVICES, ports, strict=True)}
    security = Security(
        folder=folder,
        kafka=kafka,
        address=peers["security"],
        credentials={service: secrets.token_urlsafe(32) for service in SERVICES},
        master_key=base64.b64encode(secrets.token_bytes(32)).decode(),
        channel=grpc.aio.insecure_channel(peers["security"]),
        peers=peers,
    )
    async with running(build(security_settings(security))) as security.service:
        yield security
    await security.channel.close(None)
