"""A service's standing with `security`: its own tokens, everyone's keys, and the audit log."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakValueDictionary

import structlog

from libs.common.auditing import Happening, Write, Written
from libs.common.errors import BasaltError, DependencyError, NotFoundError
from libs.common.identity import TokenVerifier, acting_for, acting_tenant
from libs.common.pb.basalt.v1 import security_pb2 as pb
from libs.common.pb.basalt.v1.security_pb2_grpc import AuditServiceStub, IdentityServiceStub
from libs.common.revocations import CLOCK_SKEW_S, Revocation
from libs.common.rpc import Peers, translated
from libs.common.runtime import ended, lasting

REFRESH_S_BEFORE = 60.0
# A token this close to its end is not offered any more, even when security is away.
USABLE_S_MIN = 5.0
RETRY_S = 0.5
RETRY_S_MAX = 5.0
AUDIT_TIMEOUT_S = 3.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Issued:
    """A token, and from when to when it holds: seconds since 1970."""

    token: str
    at: float
    expires_at: float

    def left_s(self, now: float) -> float:
        """Nothing of one that holds from later on: the clock ran ahead, and was set right."""
        return self.expires_at - now if self.at <= now + CLOCK_SKEW_S else 0.0


_NEVER = _Issued("", 0.0, 0.0)


class ServiceTokens:
    """Tokens of this service, one a tenant, renewed before they expire."""

    def __init__(
        self,
        service: str,
        credential: str,
        open_peers: Peers,
        now: Callable[[], float] | None = None,
    ) -> None:
        """`now`: seconds since 1970; the machine's clock unless said otherwise."""
        self._service = service
        self._credential = credential
        self._peers = open_peers
        self._now = now or (lambda: time.time())
        self._tokens: dict[str, _Issued] = {}
        self._renewing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def token(self) -> str:
        """For the tenant we act for. While security is away, the last one as long as it holds."""
        tenant = acting_tenant()
        lock = self._renewing.setdefault(tenant, asyncio.Lock())
        async with lock:
            last = self._tokens.get(tenant, _NEVER)
            left_s = last.left_s(self._now())
            if left_s > REFRESH_S_BEFORE:
                return last.token
            try:
                return await self._renew(tenant)
            except DependencyError:
                if left_s > USABLE_S_MIN:
                    return last.token
                raise

    async def _renew(self, tenant: str) -> str:
        request = pb.IssueServiceTokenRequest(
            service=self._service, credential=self._credential, tenant=tenant
        )
        with translated("security"):
            stub = self._peers.stub(IdentityServiceStub, "security")
            answer = await stub.IssueServiceToken(request)
        expires_at = float(answer.expires_at.seconds)
        self._tokens[tenant] = _Issued(answer.token, self._now(), expires_at)
        return answer.token


class AccessWatch:
    """Follows the keys and revocations that security publishes, and tells it what is in force here.

    Without security what was in force stays so.
    """

    name = "access"

    def __init__(
        self, peers: Peers, follower: str, take: Callable[[pb.FollowAccessResponse], None]
    ) -> None:
        """`take` puts a change in force: when it returns, security is told that it is."""
        self._peers = peers
        self._follower = follower
        self._take = take
        self._task: asyncio.Task[None] | None = None
        # Set once what was published before is in force, or cannot be asked for.
        self.asked = asyncio.Event()
        self.problem = "Keys have not arrived yet."

    async def start(self) -> None:
        self._task = lasting(self._follow(), "access-watch")

    async def stop(self) -> None:
        await ended(self._task)

    async def _follow(self) -> None:
        pause_s = RETRY_S
        while True:
            try:
                with translated("security"):
                    async for _ in self._changes():
                        pause_s = RETRY_S
                self.problem = "Keys are not being followed: security ended the stream."
            except Exception as error:
                # Also when what came cannot be used: the last keys stay, and we ask again.
                self.problem = f"Keys are not being followed: {error}"
                log.warning(
                    "access_watch_failed",
                    error=str(error),
                    again_in_s=pause_s,
                    exc_info=not isinstance(error, BasaltError),
                )
            self.asked.set()
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RETRY_S_MAX)

    async def _changes(self) -> AsyncIterator[None]:
        stub = self._peers.stub(IdentityServiceStub, "security")
        following = cast("Any", stub.FollowAccess())
        try:
            await following.write(pb.FollowAccessRequest(follower=self._follower))
            async for change in following:
                self._take(change)
                if change.sequence:
                    await following.write(pb.FollowAccessRequest(in_force=change.sequence))
                    self.problem = ""
                    self.asked.set()
                yield
        finally:
            following.cancel()


def revocations_of(change: pb.FollowAccessResponse) -> list[Revocation]:
    return [
        Revocation(
            until=row.until_s,
            token_id=row.token_id,
            login_id=row.login_id,
            subject=row.subject,
            generation=row.generation,
        )
        for row in change.revocations
    ]


def verify_by(
    verifier: TokenVerifier, on_keys: Callable[[pb.FollowAccessResponse], None] | None = None
) -> Callable[[pb.FollowAccessResponse], None]:
    """What an `AccessWatch` takes, for a service; `on_keys` hears of new keys and tenants."""

    def take(change: pb.FollowAccessResponse) -> None:
        # Before the keys: what verifies a token must know of its revocation.
        verifier.revocations.add(*revocations_of(change))
        if change.jwks_json:
            verifier.update(json.loads(change.jwks_json))
            if on_keys is not None:
                on_keys(change)

    return take


def audit_writer(peers: Peers) -> Write:
    """Writes to security's audit log, and to the one of another tenant that a call names."""

    async def append(happening: Happening, key: str) -> Written:
        entry = pb.AppendAuditRequest(
            tenant=happening.tenant,
            actor=happening.actor,
            action=happening.action,
            resource=happening.resource,
            decision=happening.decision,
            request_json=happening.request_json,
            trace_id=happening.trace_id,
            idempotency_key=key,
            address=happening.address,
            outcome_of=happening.outcome_of,
        )
        with translated("security"):
            stub = peers.stub(AuditServiceStub, "security")
            answer = await stub.AppendAudit(entry, timeout=AUDIT_TIMEOUT_S)
        return Written(happening, answer.record.sequence)

    async def write(happening: Happening, named: str, key: str) -> list[Written]:
        own, *others = happening.seen_by(named, (named,) if named else ())
        written = [await append(own, key)]
        for other in others:
            # Security alone knows which tenants there are.
            with acting_for(other.tenant), suppress(NotFoundError):
                written.append(await append(other, key))
        return written

    return write
