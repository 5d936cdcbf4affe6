"""The audit log of a real security, as those read it who may."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from basalt import audit as reader
from basalt.pb.basalt.v1 import security_pb2 as sdk_pb
from libs.common.pb.basalt.v1 import common_pb2
from libs.common.pb.basalt.v1 import security_pb2 as pb
from libs.common.pb.basalt.v1.security_pb2_grpc import AuditServiceStub
from tests.contract.security.test_service import refused
from tests.support.platform import PASSWORD, Security, bearer, running_security, stop_part
from tools.servers import Kafka


@pytest_asyncio.fixture
async def security(tmp_path: Path, kafka: Kafka) -> AsyncIterator[Security]:
    async with running_security(tmp_path, kafka.bootstrap) as started:
        yield started


async def exported(security: Security, token: str) -> list[sdk_pb.AuditRecord]:
    """The whole chain as a client of the SDK reads it."""
    records: list[sdk_pb.AuditRecord] = []
    stream = security.stub(AuditServiceStub).ExportAudit(pb.ExportAuditRequest(), **bearer(token))
    async for part in stream:
        records += [sdk_pb.AuditRecord.FromString(r.SerializeToString()) for r in part.records]
    return records


async def test_privileged_calls_are_in_the_log_that_anybody_can_verify(security: Security) -> None:
    admin = bearer(await security.user("acme", "ann", ["administrator"]))
    auditor = await security.user("acme", "otto", ["auditor"])
    made = await security.identity.CreateApiKey(
        pb.CreateApiKeyRequest(name="crm", roles=["application"]), **admin
    )
    with refused("PERMISSION_DENIED"):
        await security.identity.RevokeApiKey(
            pb.RevokeApiKeyRequest(id=made.key.id), **bearer(auditor)
        )
    records = await exported(security, auditor)
    assert reader.verify(records) == []
    told = [(r.actor, r.action.rpartition("/")[2], r.decision) for r in records]
    assert ("platform/admin", "CreateUser", "permitted") in told
    assert ("ann", "ChangePassword", "permitted") in told
    assert ("ann", "Login", "permitted") in told
    assert ("ann", "CreateApiKey", "permitted") in told
    assert ("otto", "RevokeApiKey", "refused") in told
    everything = "".join(str(record) for record in records)
    assert PASSWORD not in everything
    assert made.secret not in everything

    newest = await security.stub(AuditServiceStub).ListAudit(
        pb.ListAuditRequest(page=common_pb2.PageRequest(size=1)), **bearer(auditor)
    )
    assert newest.records[0].sequence > len(records)
    with refused("PERMISSION_DENIED"):
        await security.stub(AuditServiceStub).ListAudit(pb.ListAuditRequest(), **admin)


async def test_services_append_at_once_without_losing_or_forking(security: Security) -> None:
    auditor = await security.user("acme", "otto", ["auditor"])
    gateway = bearer(await security.service_token("gateway", "acme"))
    stub = security.stub(AuditServiceStub)

    def entry(number: int) -> pb.AppendAuditRequest:
        return pb.AppendAuditRequest(
            tenant="acme",
            actor="ann",
            action="basalt.v1.GatewayService/PutLimits",
            decision="permitted",
            request_json="{}",
            idempotency_key=f"call-{number}",
        )

    twice = [stub.AppendAudit(entry(number), **gateway) for number in range(50) for _ in range(2)]
    answers = await asyncio.gather(*twice)
    assert len({answer.record.sequence for answer in answers}) == 50
    records = await exported(security, auditor)
    assert len([each for each in records if each.action.endswith("/PutLimits")]) == 50
    assert reader.verify(records) == []
    foreign = entry(1)
    foreign.tenant = "nobody"
    with refused("NOT_FOUND", "tenant"):
        await stub.AppendAudit(foreign, **gateway)


async def test_without_the_audit_log_privileged_calls_are_refused(security: Security) -> None:
    admin = bearer(await security.administrator())
    await stop_part(security.service, "journal")
    with refused("UNAVAILABLE", "audit"):
        await security.identity.CreateTenant(pb.CreateTenantRequest(tenant="acme"), **admin)
    # What needs no record goes on with what is in memory.
    await security.identity.GetJwks(pb.GetJwksRequest())
