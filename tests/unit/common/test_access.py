"""A service's dealings with security: tokens that outlast an outage, keys, and the audit log."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import pytest
from google.protobuf.message import Message

from libs.common import access as access_module
from libs.common.access import AccessWatch, ServiceTokens, audit_writer, verify_by
from libs.common.auditing import Auditing
from libs.common.clock import SystemClock
from libs.common.errors import DependencyError, UnauthenticatedError
from libs.common.identity import Caller, TokenVerifier, acting_for
from libs.common.pb.basalt.v1 import gateway_pb2, ingest_pb2, monitoring_pb2, security_pb2_grpc
from libs.common.pb.basalt.v1 import security_pb2 as pb
from libs.common.redaction import REQUEST_CHARACTERS_MAX, resource_of, without_secrets
from libs.common.rpc import Peers
from tests.support.eventually import eventually
from tests.support.tokens import KeyRing

RING = KeyRing("one")
ROOT = Caller("platform", "root", frozenset({"administrator"}), "token-2", 0.0)
ADA = Caller("acme", "ada", frozenset({"administrator"}), "token-1", 0.0)


class Security(security_pb2_grpc.IdentityServiceServicer, security_pb2_grpc.AuditServiceServicer):
    """What a service asks of security, with outages on demand."""

    def __init__(self) -> None:
        self.away = False
        self.lasts_s = 900
        self.now = time.time()
        self.issued: list[str] = []
        self.audited: list[pb.AppendAuditRequest] = []
        self.changes: asyncio.Queue[pb.FollowAccessResponse | None] = asyncio.Queue()
        self.followers: list[str] = []
        self.confirmed: list[int] = []

    async def IssueServiceToken(self, request: Any, context: Any) -> Any:  # noqa: N802
        if self.away:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "away")
        await asyncio.sleep(0)
        self.issued.append(request.tenant)
        answer = pb.IssueServiceTokenResponse(token=f"{request.tenant}-{len(self.issued)}")
        answer.expires_at.FromSeconds(int(self.now) + self.lasts_s)
        return answer

    async def FollowAccess(self, requests: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        self.followers.append((await anext(aiter(requests))).follower)

        async def hear() -> None:
            async for said in requests:
                self.confirmed.append(said.in_force)

        hearing = asyncio.create_task(hear())
        while (change := await self.changes.get()) is not None:
            yield change
        hearing.cancel()

    async def AppendAudit(self, request: Any, context: Any) -> Any:  # noqa: N802
        if self.away:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "away")
        if request.tenant == "unknown":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such tenant")
        self.audited.append(request)
        return pb.AppendAuditResponse(record=pb.AuditRecord(sequence=len(self.audited)))


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Security, Peers]]:
    security = Security()
    server = grpc.aio.server()
    security_pb2_grpc.add_IdentityServiceServicer_to_server(security, server)
    security_pb2_grpc.add_AuditServiceServicer_to_server(security, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    peers = Peers({"security": f"127.0.0.1:{port}"})
    try:
        yield security, peers
    finally:
        await peers.stop()
        await server.stop(0)


async def test_a_token_is_got_once_for_each_tenant() -> None:
    async with serving() as (security, peers):
        tokens = ServiceTokens("ingest", "hunter2", peers)

        async def token(tenant: str) -> str:
            with acting_for(tenant):
                return await tokens.token()

        got = await asyncio.gather(*(token(tenant) for tenant in ["acme", "beta"] * 20))

        assert sorted(security.issued) == ["acme", "beta"]
        assert len(set(got)) == 2


async def test_while_security_is_away_the_last_token_serves_as_long_as_it_holds() -> None:
    async with serving() as (security, peers):
        tokens = ServiceTokens("ingest", "hunter2", peers)
        security.lasts_s = 30  # Already time to renew it, not yet expired.
        first = await tokens.token()
        security.away = True

        assert await tokens.token() == first
        security.away = False
        assert await tokens.token() != first


async def test_a_token_that_no_longer_holds_is_not_offered() -> None:
    async with serving() as (security, peers):
        tokens = ServiceTokens("ingest", "hunter2", peers)
        security.lasts_s = 1
        await tokens.token()
        security.away = True

        with pytest.raises(DependencyError) as refusal:
            await tokens.token()

        assert refusal.value.which == "security"


@pytest.mark.parametrize("ahead_s", [3_600, 86_400 * 365])
async def test_a_token_of_a_clock_that_ran_ahead_is_not_offered_once_it_is_right(
    ahead_s: float,
) -> None:
    async with serving() as (security, peers):
        tokens = ServiceTokens("ingest", "hunter2", peers, lambda: security.now)
        right = security.now
        first = await tokens.token()
        security.now = right + ahead_s
        ahead = await tokens.token()
        assert ahead != first
        security.now = right
        after = await tokens.token()

        assert after not in (first, ahead)
        assert await tokens.token() == after


def change(sequence: int, jwks: str = "", *revoked: str) -> pb.FollowAccessResponse:
    until = time.time() + 60
    rows = [pb.Revocation(token_id=each, until_s=until) for each in revoked]
    return pb.FollowAccessResponse(sequence=sequence, jwks_json=jwks, revocations=rows)


async def test_keys_and_revocations_are_followed_whatever_happens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(access_module, "RETRY_S", 0.01)
    verifier, tenants = TokenVerifier(), list[str]()
    async with serving() as (security, peers):
        watch = AccessWatch(
            peers, "ingest", verify_by(verifier, lambda change: tenants.extend(change.tenants))
        )
        await watch.start()
        assert "not arrived" in watch.problem
        keys = change(1, json.dumps(RING.jwks()))
        keys.tenants.append("acme")
        security.changes.put_nowait(keys)
        await eventually(lambda: security.confirmed == [1])
        assert verifier.verify(RING.token()).subject == "ada"
        assert (watch.problem, tenants, watch.asked.is_set()) == ("", ["acme"], True)

        # The stream ends; what comes next cannot be used; then all is well again.
        security.changes.put_nowait(None)
        await eventually(lambda: security.followers == ["ingest"] * 2)
        security.changes.put_nowait(change(2, "not JSON"))
        await eventually(lambda: security.followers == ["ingest"] * 3)
        assert "not being followed" in watch.problem
        assert verifier.verify(RING.token()).subject == "ada", "The last keys stay."
        # A part of what there is: more follows, so there is nothing to confirm yet.
        security.changes.put_nowait(change(0, "", "token-1"))
        security.changes.put_nowait(change(3, json.dumps(RING.jwks())))

        await eventually(lambda: security.confirmed == [1, 3])
        assert watch.problem == ""
        with pytest.raises(UnauthenticatedError, match="revoked"):
            verifier.verify(RING.token())

        # What comes on top leaves what was there.
        verifier.verify(RING.token(jti="token-2"))
        security.changes.put_nowait(change(4, "", "token-2"))
        await eventually(lambda: security.confirmed == [1, 3, 4])
        for each in ("token-1", "token-2"):
            with pytest.raises(UnauthenticatedError, match="revoked"):
                verifier.verify(RING.token(jti=each))
        await watch.stop()


async def test_without_security_a_start_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = AccessWatch(Peers({"security": "127.0.0.1:1"}), "dispatcher", lambda _: None)
    await watch.start()
    async with asyncio.timeout(10):
        await watch.asked.wait()
    assert "not being followed" in watch.problem
    await watch.stop()


async def test_what_is_audited_says_who_what_and_about_which() -> None:
    async with serving() as (security, peers):
        audit = Auditing(audit_writer(peers), SystemClock())
        request = pb.LoginRequest(tenant="acme", password="hunter2")

        asked = await audit.asked(ADA, "basalt.v1.IdentityService/Login", request, "permitted")

        (entry,) = security.audited
        assert (entry.tenant, entry.actor, entry.decision) == ("acme", "ada", "permitted")
        assert entry.resource == "tenant/acme"
        assert json.loads(entry.request_json) == {"tenant": "acme"}

        audit.ended(asked, "NOT_FOUND")
        await audit.tell_all()

        assert (security.audited[1].decision, security.audited[1].outcome_of) == ("failed", 1)


@pytest.mark.parametrize(
    "request_of",
    [
        lambda tenant: pb.CreateTenantRequest(tenant=tenant),
        lambda tenant: gateway_pb2.PutLimitsRequest(limits=gateway_pb2.Limits(tenant=tenant)),
        lambda tenant: monitoring_pb2.ReplayDeadLetterRequest(id=f"{tenant}/a-0-1"),
    ],
    ids=["tenant", "limits", "id"],
)
async def test_what_is_done_to_another_tenant_is_in_its_log_too(
    request_of: Callable[[str], Message],
) -> None:
    async with serving() as (security, peers):
        audit = Auditing(audit_writer(peers), SystemClock())

        asked = await audit.asked(ROOT, "Method", request_of("umbrella"), "permitted")
        audit.ended(asked, "OK")
        await audit.tell_all()

        logs = [(each.tenant, each.actor, each.decision) for each in security.audited]
        assert logs == [
            *(("platform", "root", "permitted"), ("umbrella", "platform/root", "permitted")),
            *(("platform", "root", "done"), ("umbrella", "platform/root", "done")),
        ]
        assert [each.outcome_of for each in security.audited[2:]] == [1, 2]

        # Nobody but the platform's administrator writes there, and not what is refused.
        for who, tenant, decision in (
            (ROOT, "unknown", "permitted"),
            (ROOT, "platform", "permitted"),
            (ROOT, "umbrella", "refused"),
            (ADA, "umbrella", "permitted"),
            (ADA, "umbrella", "refused"),
            (ADA, "", "permitted"),
        ):
            security.audited.clear()
            await audit.asked(who, "Method", request_of(tenant), decision)
            assert [each.tenant for each in security.audited] == [who.tenant]


async def test_an_id_of_anything_else_names_no_tenant() -> None:
    async with serving() as (security, peers):
        audit = Auditing(audit_writer(peers), SystemClock())
        request = ingest_pb2.MendQuarantinedRequest(id="umbrella/1")
        await audit.asked(ROOT, "Method", request, "permitted")
        assert [each.tenant for each in security.audited] == ["platform"]


async def test_without_the_audit_log_the_call_is_refused() -> None:
    async with serving() as (security, peers):
        security.away = True

        audit = Auditing(audit_writer(peers), SystemClock())
        with pytest.raises(DependencyError, match="Login is refused") as refusal:
            await audit.asked(ADA, "Login", None, "permitted")

        assert refusal.value.which == "audit"


def test_secrets_are_left_out_and_bytes_are_digests() -> None:
    request = pb.LoginRequest(tenant="acme", password="hunter2")
    records = ingest_pb2.UploadRecordsRequest(records=[b"hunter2", b"row"])

    assert without_secrets(None) == "{}"
    assert without_secrets(request) == '{"tenant":"acme"}'
    shown = json.loads(without_secrets(records))
    assert len(shown["records"]) == 2
    assert all(each.startswith("sha256:") for each in shown["records"])


def test_bytes_are_digests_at_whatever_depth() -> None:
    mended = ingest_pb2.MendedRecord(id="scans.0.1.0", body=b"hunter2")
    request = ingest_pb2.BatchMendQuarantinedRequest(records=[mended])
    shown = json.loads(without_secrets(request))
    assert shown["records"][0]["id"] == "scans.0.1.0"
    assert shown["records"][0]["body"].startswith("sha256:")
    answer = ingest_pb2.GetQuarantinedResponse(record=ingest_pb2.QuarantinedRecord(body=b"hunter2"))
    assert json.loads(without_secrets(answer))["record"]["body"].startswith("sha256:")


def test_a_long_request_is_told_by_its_digest() -> None:
    request = pb.LoginRequest(tenant="x" * (REQUEST_CHARACTERS_MAX + 1))

    shown = json.loads(without_secrets(request))

    assert shown["characters"] > REQUEST_CHARACTERS_MAX
    assert len(shown["sha256"]) == 64


def test_what_a_request_is_about_is_its_first_name() -> None:
    assert resource_of(pb.LoginRequest(tenant="acme")) == "tenant/acme"
    assert resource_of(pb.LoginRequest()) == ""
    assert resource_of(None) == ""
    of = ingest_pb2.QuarantineFilter(source="scans")
    assert resource_of(ingest_pb2.BatchDiscardQuarantinedRequest(filter=of)) == "source/scans"
