"""What the log says of calls, and the checkpoints that are handed out, over the wire."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from basalt import audit as reader
from basalt import checkpoint as checkpoints
from basalt.pb.basalt.v1 import security_pb2 as sdk_pb
from libs.common.identity import ADDRESS_HEADER
from libs.common.pb.basalt.v1 import security_pb2 as pb
from libs.common.pb.basalt.v1.security_pb2_grpc import AuditServiceStub, SigningServiceStub
from tests.support.eventually import eventually
from tests.support.platform import Security, bearer, running_security
from tools.servers import Kafka

PATIENCE_S = 20.0


@pytest_asyncio.fixture
async def security(tmp_path: Path, kafka: Kafka) -> AsyncIterator[Security]:
    async with running_security(tmp_path, kafka.bootstrap) as started:
        yield started


async def exported(security: Security, token: str) -> list[sdk_pb.AuditRecord]:
    records: list[sdk_pb.AuditRecord] = []
    stream = security.stub(AuditServiceStub).ExportAudit(pb.ExportAuditRequest(), **bearer(token))
    async for part in stream:
        records += [sdk_pb.AuditRecord.FromString(r.SerializeToString()) for r in part.records]
    return records


async def found(
    security: Security, token: str, action: str, decision: str
) -> list[sdk_pb.AuditRecord]:
    """Those records, once there are some: outcomes are written after their calls."""

    async def look() -> list[sdk_pb.AuditRecord]:
        return [
            each
            for each in await exported(security, token)
            if each.action.endswith(f"/{action}") and each.decision == decision
        ]

    return await eventually(look, PATIENCE_S)


async def test_a_call_is_in_the_log_with_address_and_outcome(security: Security) -> None:
    amy = bearer(await security.user("acme", "amy", ["administrator"]))
    auditor = await security.user("acme", "otto", ["auditor"])
    amy["metadata"] = (*amy["metadata"], (ADDRESS_HEADER, "203.0.113.7"))
    request = pb.RevokeApiKeyRequest(id="01nothing")
    with pytest.raises(grpc.aio.AioRpcError):
        await security.identity.RevokeApiKey(request, **amy)

    (outcome,) = await found(security, auditor, "RevokeApiKey", "failed")
    (asked,) = await found(security, auditor, "RevokeApiKey", "permitted")

    assert outcome.outcome_of == asked.sequence
    assert json.loads(outcome.request_json) == {"code": "NOT_FOUND"}
    assert {asked.address, outcome.address} == {"203.0.113.7"}
    # The platform's administrator's calls end in both logs.
    created = await found(security, auditor, "CreateUser", "done")
    assert {each.actor for each in created} == {"platform/admin"}
    records = await exported(security, auditor)
    assert reader.verify(records) == []
    assert records[0].address == "127.0.0.1"


async def test_refused_logins_are_in_the_log(security: Security) -> None:
    auditor = await security.user("acme", "otto", ["auditor"])
    for name in ("otto", "nobody"):
        with pytest.raises(grpc.aio.AioRpcError):
            await security.identity.Login(
                pb.LoginRequest(tenant="acme", name=name, password="wrong wrong wrong")
            )
    (first,) = await found(security, auditor, "Login", "refused")
    assert (first.actor, first.address) == ("otto", "127.0.0.1")
    assert json.loads(first.request_json) == {"code": "UNAUTHENTICATED"}


async def test_reading_the_log_is_in_the_log(security: Security) -> None:
    auditor = await security.user("acme", "otto", ["auditor"])
    for _ in range(3):
        await exported(security, auditor)
    records = await exported(security, auditor)
    assert [(each.actor, each.decision) for each in records if "ExportAudit" in each.action] == [
        ("otto", "permitted")
    ]


async def test_a_checkpoint_is_handed_out_and_proves_what_came_later(security: Security) -> None:
    auditor = await security.user("acme", "otto", ["auditor"])
    stub, who = security.stub(AuditServiceStub), bearer(auditor)
    answer = await stub.GetAuditCheckpoint(pb.GetAuditCheckpointRequest(), **who)
    kept = checkpoints.read(answer.note)
    keys = await security.stub(SigningServiceStub).GetSigningKeys(pb.GetSigningKeysRequest())
    assert kept.signed_by(keys.checkpoint_keys) == answer.verifier_key
    assert (kept.tenant, kept.size) == ("acme", answer.size)
    files = list((security.folder / "checkpoints" / "acme").iterdir())
    assert answer.note in [file.read_text() for file in files]

    await security.user("acme", "amy", ["administrator"])
    records = await exported(security, auditor)

    assert len(records) > kept.size
    assert reader.verify(records, checkpoints=[kept]) == []
    later = checkpoints.read(
        (await stub.GetAuditCheckpoint(pb.GetAuditCheckpointRequest(), **who)).note
    )
    proof = await stub.ProveAudit(
        pb.ProveAuditRequest(
            first_size=kept.size, second_size=later.size, sequence=records[-1].sequence
        ),
        **who,
    )
    assert checkpoints.consistent(kept, later, proof.consistency)
    assert proof.inclusion
    with pytest.raises(grpc.aio.AioRpcError, match="records, not 1000000"):
        await stub.ProveAudit(pb.ProveAuditRequest(first_size=1, second_size=1_000_000), **who)


async def test_checkpoints_of_another_tenant_are_the_platforms(security: Security) -> None:
    root = bearer(await security.administrator())
    await security.user("acme", "amy", ["administrator"])
    eve = bearer(await security.user("evil", "eve", ["auditor"]))
    stub, request = security.stub(AuditServiceStub), pb.GetAuditCheckpointRequest(tenant="acme")
    answer = await stub.GetAuditCheckpoint(request, **root)
    assert checkpoints.read(answer.note).tenant == "acme"
    with pytest.raises(grpc.aio.AioRpcError, match="names the tenant acme"):
        await stub.GetAuditCheckpoint(request, **eve)
    request.tenant = "nobody"
    with pytest.raises(grpc.aio.AioRpcError, match="no tenant"):
        await stub.GetAuditCheckpoint(request, **root)


async def test_keys_are_rotated_together(security: Security) -> None:
    root = bearer(await security.administrator())
    stub = security.stub(SigningServiceStub)
    before = (await stub.GetSigningKeys(pb.GetSigningKeysRequest())).checkpoint_keys
    await security.identity.RotateKeys(pb.RotateKeysRequest(), **root)
    after = (await stub.GetSigningKeys(pb.GetSigningKeysRequest())).checkpoint_keys
    assert list(after)[:-1] == list(before)
