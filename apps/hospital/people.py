"""Who takes part: people with roles, an application with a key, and a neighbour with none."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from basalt.aio import AsyncClient
from basalt.pb.basalt.v1 import security_pb2 as pb

TENANT = "hospital"
NEIGHBOUR = "clinic"
PASSWORD_BYTES = 18


@dataclass(frozen=True)
class People:
    """Clients, each with an identity of its own."""

    administrator: AsyncClient
    engineer: AsyncClient
    reviewer: AsyncClient
    operator: AsyncClient
    auditor: AsyncClient
    application: AsyncClient
    neighbour: AsyncClient
    application_key: str

    async def close(self) -> None:
        for client in vars(self).values():
            if isinstance(client, AsyncClient):
                await client.close()


def one_time_password(first_login: Path) -> str:
    """The administrator's, from the file that the first start wrote."""
    lines = first_login.read_text().splitlines()
    return next(
        line.split(":", 1)[1].strip() for line in lines if line.startswith("one-time password:")
    )


@asynccontextmanager
async def introduced(door: str, first_login: Path) -> AsyncIterator[People]:
    """Logs the administrator in, creates both tenants and everyone in them."""
    root = await _log_in(door, "platform", "admin", one_time_password(first_login))
    people: People | None = None
    try:
        for tenant in (TENANT, NEIGHBOUR):
            await root.call(root.identity.CreateTenant, pb.CreateTenantRequest(tenant=tenant))
        administrator = await _hire(root, door, TENANT, "hugo", "administrator")
        neighbour_administrator = await _hire(root, door, NEIGHBOUR, "nora", "administrator")
        key = await _key(administrator, "ward")
        neighbour_key = await _key(neighbour_administrator, "reception")
        await neighbour_administrator.close()
        people = People(
            administrator=administrator,
            engineer=await _hire(administrator, door, TENANT, "ada", "engineer", "reviewer"),
            reviewer=await _hire(administrator, door, TENANT, "grace", "reviewer"),
            operator=await _hire(administrator, door, TENANT, "otto", "operator"),
            auditor=await _hire(administrator, door, TENANT, "audrey", "auditor"),
            application=AsyncClient(door, token=key),
            neighbour=AsyncClient(door, token=neighbour_key),
            application_key=key,
        )
        yield people
    finally:
        await root.close()
        if people is not None:
            await people.close()


async def _hire(by: AsyncClient, door: str, tenant: str, name: str, *roles: str) -> AsyncClient:
    request = pb.CreateUserRequest(tenant=tenant, name=name, roles=roles)
    answer = await by.call(by.identity.CreateUser, request)
    return await _log_in(door, tenant, name, answer.one_time_password)


async def _log_in(door: str, tenant: str, name: str, one_time: str) -> AsyncClient:
    """Chooses a password of their own, as the first login asks for, and logs in with it."""
    chosen = secrets.token_urlsafe(PASSWORD_BYTES)
    async with AsyncClient(door, token="") as stranger:
        await stranger.call(
            stranger.identity.ChangePassword,
            pb.ChangePasswordRequest(
                tenant=tenant, name=name, password=one_time, new_password=chosen
            ),
        )
        answer = await stranger.call(
            stranger.identity.Login, pb.LoginRequest(tenant=tenant, name=name, password=chosen)
        )
    return AsyncClient(door, token=answer.token)


async def _key(by: AsyncClient, name: str) -> str:
    request = pb.CreateApiKeyRequest(name=name, roles=["application"], days=1)
    return (await by.call(by.identity.CreateApiKey, request)).secret
