"""A second administrator, and keys for another tenant, over the wire and in the log."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from libs.common.pb.basalt.v1 import security_pb2 as pb
from libs.common.pb.basalt.v1.security_pb2_grpc import AuditServiceStub, SigningServiceStub
from tests.support.platform import Security, bearer, running_security
from tools.servers import Kafka


@pytest_asyncio.fixture
async def security(tmp_path: Path, kafka: Kafka) -> AsyncIterator[Security]:
    async with running_security(tmp_path, kafka.bootstrap) as started:
        yield started


async def told(security: Security, auditor: str) -> list[tuple[str, str, str]]:
    stub = security.stub(AuditServiceStub)
    log = await stub.ListAudit(pb.ListAuditRequest(), **bearer(auditor))
    return [(r.actor, r.action.rpartition("/")[2], r.decision) for r in log.records]


async def test_roles_for_oneself_wait_for_a_second_administrator(security: Security) -> None:
    root = bearer(await security.administrator())
    amy = bearer(await security.user("acme", "amy", ["administrator"]))
    auditor = await security.user("acme", "otto", ["auditor"])
    wanted = pb.SetUserRequest(name="amy", roles=["administrator", "reviewer"])

    asked = (await security.identity.SetUser(wanted, **amy)).user

    assert list(asked.roles) == ["administrator"]
    assert list(asked.roles_asked.roles) == ["administrator", "reviewer"]
    assert asked.roles_asked.by == "acme/amy"
    listed = (await security.identity.ListUsers(pb.ListUsersRequest(), **amy)).users
    assert listed[0].roles_asked == asked.roles_asked
    yes = pb.ConfirmRolesRequest(tenant="acme", name="amy", roles=wanted.roles)
    with pytest.raises(grpc.aio.AioRpcError, match="they asked for it"):
        await security.identity.ConfirmRoles(yes, **amy)

    confirmed = (await security.identity.ConfirmRoles(yes, **root)).user

    assert list(confirmed.roles) == ["administrator", "reviewer"]
    assert confirmed.changed.by == "platform/admin"
    with pytest.raises(grpc.aio.AioRpcError, match="revoked"):
        await security.identity.ListUsers(pb.ListUsersRequest(), **amy)
    log = await told(security, auditor)
    assert ("amy", "SetUser", "permitted") in log
    assert ("platform/admin", "ConfirmRoles", "permitted") in log


async def test_keys_for_another_tenant_name_it(security: Security) -> None:
    root = bearer(await security.administrator())
    amy = bearer(await security.user("acme", "amy", ["administrator"]))
    auditor = await security.user("acme", "otto", ["auditor"])
    stub = security.identity
    wanted = pb.CreateApiKeyRequest(name="ci", roles=["engineer", "auditor"])
    with pytest.raises(grpc.aio.AioRpcError, match=r"names the tenant.*--tenant TENANT"):
        await stub.CreateApiKey(wanted, **root)
    wanted.tenant = "nobody"
    with pytest.raises(grpc.aio.AioRpcError, match="no tenant 'nobody'"):
        await stub.CreateApiKey(wanted, **root)
    wanted.tenant = "acme"

    made = await stub.CreateApiKey(wanted, **root)

    assert (made.key.tenant, made.key.created.by) == ("acme", "platform/admin")
    # It is a key of that tenant in all it does, and both see it and end it.
    users = await stub.ListUsers(pb.ListUsersRequest(), **bearer(made.secret))
    assert {user.tenant for user in users.users} == {"acme"}
    for request, who in (
        (pb.ListApiKeysRequest(tenant="acme"), root),
        (pb.ListApiKeysRequest(), amy),
    ):
        assert [key.id for key in (await stub.ListApiKeys(request, **who)).keys] == [made.key.id]
    assert not (await stub.ListApiKeys(pb.ListApiKeysRequest(), **root)).keys
    await stub.RevokeApiKey(pb.RevokeApiKeyRequest(tenant="acme", id=made.key.id), **root)
    with pytest.raises(grpc.aio.AioRpcError, match="revoked"):
        await stub.ListUsers(pb.ListUsersRequest(), **bearer(made.secret))
    log = await told(security, auditor)
    assert ("platform/admin", "CreateApiKey", "permitted") in log
    assert ("platform/admin", "RevokeApiKey", "permitted") in log
    own = pb.CreateApiKeyRequest(name="ops", roles=["operator"], tenant="platform")
    assert (await stub.CreateApiKey(own, **root)).key.tenant == "platform"
    other = pb.CreateApiKeyRequest(name="ci", roles=["engineer"], tenant="platform")
    with pytest.raises(grpc.aio.AioRpcError, match="names the tenant platform"):
        await stub.CreateApiKey(other, **amy)


async def test_security_judges_again_whoever_asks_it_to_sign(security: Security) -> None:
    """A reviewer whom the maker of the key made one; over the wire, as inference asks."""
    amy = bearer(await security.user("acme", "amy", ["administrator"]))
    await security.user("acme", "rob", ["reviewer"])
    stub = security.identity
    await stub.CreateUser(pb.CreateUserRequest(name="own", roles=["reviewer"]), **amy)
    key = (
        await stub.CreateApiKey(pb.CreateApiKeyRequest(name="ci", roles=["engineer"]), **amy)
    ).key
    manifest = {"model": "fraud", "author": "key:ci", "responsible": [f"key:ci/{key.id}"]}
    request = pb.SignManifestRequest(
        model="fraud", version=1, manifest=json.dumps(manifest).encode(), approved_by="own"
    )
    inference = bearer(await security.service_token("inference", "acme"))
    signing = security.stub(SigningServiceStub)

    with pytest.raises(grpc.aio.AioRpcError, match="less than 24 hours ago") as refusal:
        await signing.SignManifest(request, **inference)
    assert refusal.value.code() is grpc.StatusCode.PERMISSION_DENIED

    request.approved_by = "rob"
    assert (await signing.SignManifest(request, **inference)).signature
