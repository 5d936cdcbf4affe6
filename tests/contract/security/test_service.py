"""security as others meet it: its real server, a real Kafka, real gRPC."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from libs.common.access import verify_by
from libs.common.errors import BasaltError, UnauthenticatedError
from libs.common.identity import TokenVerifier
from libs.common.pb.basalt.v1 import common_pb2
from libs.common.pb.basalt.v1 import security_pb2 as pb
from libs.common.pb.basalt.v1.security_pb2_grpc import AuditServiceStub, SigningServiceStub
from libs.common.rpc import from_call_error
from libs.common.signing import signed_name, verify_manifest
from services.security.app import build
from services.security.core.throttle import WRONG_PASSWORDS_MAX
from tests.support.eventually import eventually
from tests.support.platform import (
    PASSWORD,
    Security,
    bearer,
    running,
    running_security,
    security_settings,
)
from tools.servers import Kafka

MANIFEST = json.dumps({"format": "basalt.model/1", "model": "fraud", "author": "ann"}).encode()


@pytest_asyncio.fixture
async def security(tmp_path: Path, kafka: Kafka) -> AsyncIterator[Security]:
    async with running_security(tmp_path, kafka.bootstrap) as started:
        yield started


@contextmanager
def refused(code: str, which: str = "") -> Iterator[list[BasaltError]]:
    """The call ends with this code, about `which`, and says what to do next."""
    seen: list[BasaltError] = []
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        yield seen
    error = from_call_error(raised.value, "security")
    seen.append(error)
    assert error.code == code, str(error)
    if which:
        assert error.which == which
    assert error.next_step


def login(name: str, password: str, tenant: str = "acme") -> pb.LoginRequest:
    return pb.LoginRequest(tenant=tenant, name=name, password=password)


async def test_first_start_and_first_login(security: Security) -> None:
    note = security.folder / "first-login.txt"
    assert note.stat().st_mode & 0o777 == 0o600
    one_time = security.first_password()
    with refused("FAILED_PRECONDITION"):
        await security.identity.Login(login("admin", one_time, "platform"))
    token = await security.log_in("platform", "admin", one_time)
    assert not note.exists()
    with refused("UNAUTHENTICATED"):
        await security.identity.Login(login("admin", one_time, "platform"))
    users = await security.identity.ListUsers(pb.ListUsersRequest(), **bearer(token))
    assert [(user.name, *user.roles) for user in users.users] == [("admin", "administrator")]


async def test_first_password_is_noted_again_until_it_was_changed(
    tmp_path: Path, kafka: Kafka
) -> None:
    async with running_security(tmp_path, kafka.bootstrap) as security:
        one_time = security.first_password()
        (tmp_path / "first-login.txt").unlink()
    async with running(build(security_settings(security))):
        assert security.first_password() == one_time


async def test_state_outlives_a_restart(tmp_path: Path, kafka: Kafka) -> None:
    async with running_security(tmp_path, kafka.bootstrap) as security:
        token = await security.user("acme", "ann", ["administrator"])
    again = grpc.aio.insecure_channel(security.address)
    security.channel = again
    async with running(build(security_settings(security))):
        await security.identity.ListUsers(pb.ListUsersRequest(), **bearer(token))
        await security.log_in_again("acme", "ann")
    await again.close(None)


async def test_wrong_login_is_answered_alike_and_throttled(security: Security) -> None:
    await security.user("acme", "ann", [])
    messages: set[str] = set()
    for wrong in (login("ann", "wrong"), login("nobody", "wrong"), login("ann", "x", "none")):
        with refused("UNAUTHENTICATED") as seen:
            await security.identity.Login(wrong)
        messages.add(str(seen[0]))
    assert len(messages) == 1
    for _ in range(WRONG_PASSWORDS_MAX - 1):
        with refused("UNAUTHENTICATED"):
            await security.identity.Login(login("ann", "wrong"))
    with refused("RESOURCE_EXHAUSTED", "WRONG_PASSWORDS_MAX"):
        await security.identity.Login(login("ann", PASSWORD))


@pytest.mark.parametrize("new", ["short", "", "x" * 257, PASSWORD])
async def test_password_that_cannot_be_chosen(security: Security, new: str) -> None:
    await security.user("acme", "ann", [])
    with refused("INVALID_ARGUMENT", "new_password"):
        await security.identity.ChangePassword(
            pb.ChangePasswordRequest(tenant="acme", name="ann", password=PASSWORD, new_password=new)
        )


async def test_calls_without_a_token_that_holds(security: Security) -> None:
    with refused("UNAUTHENTICATED"):
        await security.identity.ListUsers(pb.ListUsersRequest())
    with refused("UNAUTHENTICATED"):
        await security.identity.ListUsers(pb.ListUsersRequest(), **bearer("no.such.token"))
    engineer = await security.user("acme", "ann", ["engineer"])
    with refused("PERMISSION_DENIED"):
        await security.identity.ListUsers(pb.ListUsersRequest(), **bearer(engineer))


async def test_disabled_user_is_out_at_once(security: Security) -> None:
    admin = bearer(await security.administrator())
    token = await security.user("acme", "ann", ["administrator"])
    await security.user("acme", "ben", ["administrator"])
    await security.identity.SetUser(
        pb.SetUserRequest(tenant="acme", name="ann", roles=["administrator"], disabled=True),
        **admin,
    )
    with refused("UNAUTHENTICATED"):
        await security.identity.ListUsers(pb.ListUsersRequest(), **bearer(token))
    with refused("UNAUTHENTICATED"):
        await security.identity.Login(login("ann", PASSWORD))
    with refused("FAILED_PRECONDITION", "ben"):
        await security.identity.SetUser(pb.SetUserRequest(tenant="acme", name="ben"), **admin)


async def test_changed_roles_are_in_force_at_once(security: Security) -> None:
    admin = bearer(await security.administrator())
    token = await security.user("acme", "ann", ["auditor"])
    await security.identity.SetUser(
        pb.SetUserRequest(tenant="acme", name="ann", roles=["engineer"]), **admin
    )
    with refused("UNAUTHENTICATED"):
        await security.identity.ListUsers(pb.ListUsersRequest(), **bearer(token))
    again = bearer(await security.log_in_again("acme", "ann"))
    with refused("PERMISSION_DENIED"):
        await security.identity.ListUsers(pb.ListUsersRequest(), **again)


async def test_lost_password_is_replaced_by_a_one_time_password(security: Security) -> None:
    admin = bearer(await security.administrator())
    token = await security.user("acme", "ann", ["administrator"])
    reset = await security.identity.ResetPassword(
        pb.ResetPasswordRequest(tenant="acme", name="ann"), **admin
    )
    assert reset.user.password_must_change
    with refused("UNAUTHENTICATED"):
        await security.identity.ListUsers(pb.ListUsersRequest(), **bearer(token))
    with refused("UNAUTHENTICATED"):
        await security.identity.Login(login("ann", PASSWORD))
    again = await security.log_in("acme", "ann", reset.one_time_password)
    await security.identity.ListUsers(pb.ListUsersRequest(), **bearer(again))
    with refused("NOT_FOUND", "name"):
        await security.identity.ResetPassword(pb.ResetPasswordRequest(name="nobody"), **admin)


async def test_login_is_renewed_and_ended(security: Security) -> None:
    auditor = bearer(await security.user("acme", "otto", ["auditor"]))
    await security.user("acme", "ann", ["administrator"])
    first = await security.identity.Login(login("ann", PASSWORD))
    renewed = await security.identity.RenewToken(pb.RenewTokenRequest(), **bearer(first.token))
    assert renewed.login_ends_at == first.login_ends_at
    assert renewed.expires_at.ToSeconds() >= first.expires_at.ToSeconds()
    for token in (first.token, renewed.token):
        await security.identity.ListUsers(pb.ListUsersRequest(), **bearer(token))
    await security.identity.Logout(pb.LogoutRequest(), **bearer(renewed.token))
    for token in (first.token, renewed.token):
        with refused("UNAUTHENTICATED"):
            await security.identity.ListUsers(pb.ListUsersRequest(), **bearer(token))
        with refused("UNAUTHENTICATED"):
            await security.identity.RenewToken(pb.RenewTokenRequest(), **bearer(token))
    log = await security.stub(AuditServiceStub).ListAudit(pb.ListAuditRequest(), **auditor)
    told = [
        (r.actor, r.action.rpartition("/")[2])
        for r in log.records
        if r.actor == "ann" and r.decision == "permitted"
    ]
    assert told[:2] == [("ann", "Logout"), ("ann", "RenewToken")]


async def test_only_people_renew_tokens(security: Security) -> None:
    admin = bearer(await security.user("acme", "ann", ["administrator"]))
    made = await security.identity.CreateApiKey(
        pb.CreateApiKeyRequest(name="crm", roles=["auditor"]), **admin
    )
    with refused("FAILED_PRECONDITION", "token"):
        await security.identity.RenewToken(pb.RenewTokenRequest(), **bearer(made.secret))
    gateway = bearer(await security.service_token("gateway"))
    with refused("PERMISSION_DENIED"):
        await security.identity.RenewToken(pb.RenewTokenRequest(), **gateway)


async def test_tenants_are_apart(security: Security) -> None:
    ann = bearer(await security.user("acme", "ann", ["administrator"]))
    eve = bearer(await security.user("evil", "eve", ["administrator"]))
    made = await security.identity.CreateApiKey(
        pb.CreateApiKeyRequest(name="crm", roles=["application"]), **ann
    )
    with refused("NOT_FOUND", "id"):
        await security.identity.RevokeApiKey(pb.RevokeApiKeyRequest(id=made.key.id), **eve)
    with refused("PERMISSION_DENIED"):
        await security.identity.CreateUser(
            pb.CreateUserRequest(tenant="acme", name="spy", roles=["administrator"]), **eve
        )
    with refused("NOT_FOUND", "name"):
        await security.identity.SetUser(pb.SetUserRequest(name="ann"), **eve)
    listed = await security.identity.ListUsers(pb.ListUsersRequest(), **eve)
    assert [user.name for user in listed.users] == ["eve"]
    keys = await security.identity.ListApiKeys(pb.ListApiKeysRequest(), **eve)
    assert not keys.keys
    for_nobody = pb.CreateUserRequest(tenant="nobody", name="x")
    with refused("NOT_FOUND", "tenant"):
        await security.identity.CreateUser(for_nobody, **bearer(await security.administrator()))


async def test_users_come_in_pages(security: Security) -> None:
    admin = bearer(await security.user("acme", "ann", ["administrator"]))
    for name in ("ben", "cleo", "dora"):
        await security.identity.CreateUser(pb.CreateUserRequest(name=name), **admin)
    names: list[str] = []
    token = ""
    while True:
        page = await security.identity.ListUsers(
            pb.ListUsersRequest(page=common_pb2.PageRequest(size=3, token=token)), **admin
        )
        names += [user.name for user in page.users]
        token = page.next_page_token
        if not token:
            break
    assert names == ["ann", "ben", "cleo", "dora"]
    with refused("INVALID_ARGUMENT", "page.size"):
        await security.identity.ListUsers(
            pb.ListUsersRequest(page=common_pb2.PageRequest(size=501)), **admin
        )
    with refused("ALREADY_EXISTS", "ben"):
        await security.identity.CreateUser(pb.CreateUserRequest(name="ben"), **admin)


async def test_the_platforms_administrator_sees_the_tenants_and_their_users(
    security: Security,
) -> None:
    ann = bearer(await security.user("acme", "ann", ["administrator"]))
    await security.user("umbrella", "eve", ["engineer"])
    admin = bearer(await security.administrator())
    stub = security.identity
    names: list[str] = []
    request = pb.ListTenantsRequest(page=common_pb2.PageRequest(size=2))
    while len(names) < 2 or request.page.token:
        page = await stub.ListTenants(request, **admin)
        names += [tenant.name for tenant in page.tenants]
        request.page.token = page.next_page_token
    assert names == ["acme", "platform", "umbrella"]
    users = await stub.ListUsers(pb.ListUsersRequest(tenant="umbrella"), **admin)
    assert [(user.tenant, user.name) for user in users.users] == [("umbrella", "eve")]
    with refused("NOT_FOUND", "tenant"):
        await stub.ListUsers(pb.ListUsersRequest(tenant="nobody"), **admin)
    with refused("PERMISSION_DENIED"):
        await stub.ListTenants(pb.ListTenantsRequest(), **ann)
    # Whether there is such a tenant is not told: the answers are alike.
    said: set[str] = set()
    for other in ("umbrella", "nobody"):
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await stub.ListUsers(pb.ListUsersRequest(tenant=other), **ann)
        said.add((refusal.value.details() or "").replace(other, "OTHER"))
    assert len(said) == 1
    assert "names the tenant OTHER, and the token is for acme. Name no tenant" in said.pop()


async def test_api_key_until_it_is_revoked(security: Security) -> None:
    admin = bearer(await security.user("acme", "ann", ["administrator"]))
    made = await security.identity.CreateApiKey(
        pb.CreateApiKeyRequest(name="crm", roles=["auditor"]), **admin
    )
    key = bearer(made.secret)
    await security.identity.ListUsers(pb.ListUsersRequest(), **key)
    revoked = await security.identity.RevokeApiKey(pb.RevokeApiKeyRequest(id=made.key.id), **admin)
    assert revoked.key.revoked
    with refused("UNAUTHENTICATED"):
        await security.identity.ListUsers(pb.ListUsersRequest(), **key)
    listed = await security.identity.ListApiKeys(pb.ListApiKeysRequest(), **admin)
    assert [(each.name, each.revoked) for each in listed.keys] == [("crm", True)]


async def test_rotation_keeps_old_tokens_valid(security: Security) -> None:
    old = await security.administrator()
    before = json.loads((await security.identity.GetJwks(pb.GetJwksRequest())).jwks_json)
    rotated = await security.identity.RotateKeys(pb.RotateKeysRequest(), **bearer(old))
    after = json.loads((await security.identity.GetJwks(pb.GetJwksRequest())).jwks_json)
    assert [key["kid"] for key in after["keys"]] == [before["keys"][0]["kid"], rotated.key_id]
    assert not any("d" in key for key in after["keys"])
    new = await security.log_in_again("platform", "admin")
    for token in (old, new):
        await security.identity.ListUsers(pb.ListUsersRequest(), **bearer(token))


async def test_watch_gives_access_now_and_at_each_change(security: Security) -> None:
    admin = bearer(await security.user("acme", "ann", ["administrator"]))
    gateway = bearer(await security.service_token("gateway"))
    watch = security.identity.WatchAccess(pb.WatchAccessRequest(), **gateway)
    now = await watch.read()
    assert set(now.tenants) == {"platform", "acme"}
    verifier = TokenVerifier()
    verifier.update(json.loads(now.jwks_json))
    made = await security.identity.CreateApiKey(
        pb.CreateApiKeyRequest(name="crm", roles=["application"]), **admin
    )
    assert verifier.verify(made.secret).subject == "key:crm"
    await security.identity.RevokeApiKey(pb.RevokeApiKeyRequest(id=made.key.id), **admin)
    change = now
    while made.key.id not in change.revoked_token_ids:
        change = await watch.read()
    assert change.access_version > now.access_version
    watch.cancel()
    with refused("PERMISSION_DENIED"):
        await security.identity.WatchAccess(pb.WatchAccessRequest(), **admin).read()


class Part:
    """A part of the platform that follows access, and confirms while it is told to."""

    def __init__(self, security: Security, name: str, confirms: bool = True) -> None:
        self.security, self.name, self.confirms = security, name, confirms

    async def follow(self) -> asyncio.Task[None]:
        """Returns when it was told everything; it begins with nothing."""
        self.verifier = TokenVerifier()
        service = "gateway" if self.name == "dispatcher" else self.name
        token = bearer(await self.security.service_token(service))
        call: Any = self.security.identity.FollowAccess(**token)
        await call.write(pb.FollowAccessRequest(follower=self.name))
        take = verify_by(self.verifier)

        async def hear() -> None:
            async for change in call:
                take(change)
                if self.confirms:
                    await call.write(pb.FollowAccessRequest(in_force=change.sequence))

        task = asyncio.create_task(hear())
        await eventually(lambda: self.verifier.ready)
        return task


async def test_a_change_is_acknowledged_as_in_force_once_every_part_says_so(
    security: Security,
) -> None:
    ann = await security.user("acme", "ann", ["administrator"])
    admin = bearer(ann)
    parts = {
        name: Part(security, name)
        for name in ("ingest", "trainer", "inference", "monitoring", "gateway", "dispatcher")
    }
    following = [await part.follow() for part in parts.values()]

    async def revoked() -> tuple[str, pb.InForce]:
        made = await security.identity.CreateApiKey(
            pb.CreateApiKeyRequest(name="crm", roles=["application"]), **admin
        )
        answer = await security.identity.RevokeApiKey(
            pb.RevokeApiKeyRequest(id=made.key.id), **admin
        )
        return made.secret, answer.in_force

    secret, in_force = await revoked()
    assert in_force.confirmed
    for part in parts.values():
        with pytest.raises(UnauthenticatedError, match="revoked"):
            part.verifier.verify(secret)
    # One that stands still, and one that is gone, are named; the others have it in force.
    parts["dispatcher"].confirms = False
    following[0].cancel()
    await asyncio.gather(following[0], return_exceptions=True)
    secret, in_force = await revoked()
    assert not in_force.confirmed
    assert set(in_force.waiting_for) >= {"dispatcher"}
    with pytest.raises(UnauthenticatedError, match="revoked"):
        parts["trainer"].verifier.verify(secret)

    async def only_ingest_is_away() -> bool:
        _, in_force = await revoked()
        return list(in_force.waiting_for) == ["ingest"]

    parts["dispatcher"].confirms = True
    await eventually(only_ingest_is_away)
    # Back again, it is told everything.
    following.append(await parts["ingest"].follow())
    with pytest.raises(UnauthenticatedError, match="revoked"):
        parts["ingest"].verifier.verify(secret)
    ended = await security.identity.Logout(pb.LogoutRequest(), **admin)
    assert ended.in_force.confirmed
    with pytest.raises(UnauthenticatedError, match="revoked"):
        parts["dispatcher"].verifier.verify(ann)
    for task in following:
        task.cancel()
    await asyncio.gather(*following, return_exceptions=True)


async def test_only_services_follow_access(security: Security) -> None:
    admin = bearer(await security.user("acme", "ann", ["administrator"]))
    call: Any = security.identity.FollowAccess(**admin)
    await call.write(pb.FollowAccessRequest(follower="dispatcher"))
    with refused("PERMISSION_DENIED"):
        await call.read()


async def test_a_stranger_keeps_no_owner_out(security: Security) -> None:
    await security.user("acme", "ann", [])

    async def tried(address: str, password: str) -> str:
        said = (("x-basalt-address", address),)
        try:
            await security.identity.Login(login("ann", password), metadata=said)
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return "OK"

    flood = await asyncio.gather(*(tried("203.0.113.9", "wrong") for _ in range(60)))
    assert set(flood) == {"UNAUTHENTICATED", "RESOURCE_EXHAUSTED"}
    assert flood.count("UNAUTHENTICATED") <= WRONG_PASSWORDS_MAX
    assert await tried("203.0.113.9", PASSWORD) == "RESOURCE_EXHAUSTED"
    assert await tried("198.51.100.7", PASSWORD) == "OK"


async def test_service_token_needs_the_credential(security: Security) -> None:
    with refused("UNAUTHENTICATED", "service_credential"):
        await security.identity.IssueServiceToken(
            pb.IssueServiceTokenRequest(service="inference", credential="guessed")
        )
    with refused("NOT_FOUND", "tenant"):
        await security.service_token("inference", "nobody")


async def test_signature_from_request_to_refusal(security: Security) -> None:
    await security.user("acme", "ben", ["reviewer"])
    stub = security.stub(SigningServiceStub)
    inference = bearer(await security.service_token("inference", "acme"))
    request = pb.SignManifestRequest(model="fraud", version=3, manifest=MANIFEST, approved_by="ben")
    signed = await stub.SignManifest(request, **inference)
    keys = await stub.GetSigningKeys(pb.GetSigningKeysRequest())
    pems = {key.key_id: key.public_key_pem for key in keys.keys}
    name = signed_name("acme", "fraud", 3)
    assert verify_manifest(MANIFEST, signed.signature, pems, name) == signed.key_id

    holds = await stub.VerifyManifest(
        pb.VerifyManifestRequest(manifest=MANIFEST, signature=signed.signature), **inference
    )
    assert (holds.valid, holds.key_id) == (True, signed.key_id)
    flipped = bytes([MANIFEST[0] ^ 1, *MANIFEST[1:]])
    broken = await stub.VerifyManifest(
        pb.VerifyManifestRequest(manifest=flipped, signature=signed.signature), **inference
    )
    assert not broken.valid
    assert broken.detail

    request.approved_by = ""
    with refused("FAILED_PRECONDITION", "approved_by"):
        await stub.SignManifest(request, **inference)
    trainer = bearer(await security.service_token("trainer", "acme"))
    with refused("PERMISSION_DENIED"):
        await stub.SignManifest(request, **trainer)
    with refused("PERMISSION_DENIED"):
        await stub.SignManifest(request, **bearer(await security.administrator()))
