"""Signatures: made by security, verified here with the keys that it publishes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import structlog

from libs.common import signing
from libs.common.access import AUDIT_TIMEOUT_S
from libs.common.clock import Clock
from libs.common.errors import DependencyError, IntegrityError
from libs.common.events import ForeignModelFound
from libs.common.identity import PLATFORM, acting_for
from libs.common.pb.basalt.v1 import security_pb2 as pb
from libs.common.pb.basalt.v1.security_pb2_grpc import AuditServiceStub, SigningServiceStub
from libs.common.rpc import Peers, translated
from services.inference.core import names
from services.inference.ports import Signature

# Keys come and go seldom; a key that was taken back is not taken much longer than this.
KEYS_S_MAX = 60.0
KEYS_TIMEOUT_S = 3.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SecuritySigner:
    peers: Peers

    async def sign(self, model: str, version: int, manifest: bytes, approved_by: str) -> Signature:
        request = pb.SignManifestRequest(
            model=model, version=version, manifest=manifest, approved_by=approved_by
        )
        with translated("security"):
            stub = self.peers.stub(SigningServiceStub, "security")
            answer = await stub.SignManifest(request)
        return Signature(answer.signature, answer.key_id)


@dataclass(frozen=True, slots=True)
class SecurityAudit:
    """The audit log, for what this service finds and undoes by itself."""

    peers: Peers

    async def record(self, found: ForeignModelFound) -> None:
        entry = pb.AppendAuditRequest(
            tenant=found.tenant,
            actor=names.OWN_BY,
            action="inference/ForeignModelFound",
            resource=f"model/{found.name}",
            decision="refused",
            request_json=found.model_dump_json(include={"name", "what", "at"}),
            idempotency_key=found.id,
        )
        with translated("security"), acting_for(found.tenant):
            stub = self.peers.stub(AuditServiceStub, "security")
            await stub.AppendAudit(entry, timeout=AUDIT_TIMEOUT_S)


@dataclass(slots=True)
class PublishedKeys:
    """Verifies locally, so that a Triton that restarts gets its models even without security."""

    peers: Peers
    clock: Clock
    _keys: dict[str, str] = field(default_factory=dict)
    _read_at: float = float("-inf")

    async def verify(self, manifest: bytes, signature: bytes, name: str) -> None:
        if self.clock.monotonic() - self._read_at > KEYS_S_MAX:
            await self._refresh()
        try:
            await self._check(manifest, signature, name)
        except IntegrityError:
            # The key may be newer than what was read; one more look decides.
            await self._refresh()
            await self._check(manifest, signature, name)

    async def _check(self, manifest: bytes, signature: bytes, name: str) -> None:
        await asyncio.to_thread(signing.verify_manifest, manifest, signature, self._keys, name)

    async def _refresh(self) -> None:
        """The keys in force; without security the last ones stay. Raises DependencyError."""
        try:
            with translated("security"), acting_for(PLATFORM):
                stub = self.peers.stub(SigningServiceStub, "security")
                answer = await stub.GetSigningKeys(
                    pb.GetSigningKeysRequest(), timeout=KEYS_TIMEOUT_S
                )
        except DependencyError as error:
            if not self._keys:
                raise DependencyError(
                    "No signature can be verified: security has not given its keys yet.",
                    which="security",
                    next_step="Start security; what waits is loaded by itself then.",
                ) from error
            log.warning("signing_keys_not_refreshed", error=str(error))
            return
        self._keys = {key.key_id: key.public_key_pem for key in answer.keys}
        self._read_at = self.clock.monotonic()
