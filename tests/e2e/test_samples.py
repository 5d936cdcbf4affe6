"""Today's platform on what an earlier release left: all of it is there, and all of it stays apart.

One platform for both, since a sample holds one of everything: it is read by its own tenant through
every list and get, and another tenant asks for it by every RPC, by name.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import json
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import quote

import grpc.aio
import pytest
from google.protobuf.descriptor import MethodDescriptor

from basalt.pb.basalt.v1 import (
    common_pb2,
    inference_pb2,
    ingest_pb2,
    monitoring_pb2,
    security_pb2,
    trainer_pb2,
)
from libs.common import flow
from libs.common.settings import SERVICES
from tests.contract.history import samples
from tests.contract.history.driving import log_in
from tests.support import foreign
from tests.support.eventually import eventually
from tests.support.foreign import Answer
from tests.support.laptop import Laptop
from tests.support.sampled import reader, token_of, upgraded

ALL = common_pb2.PageRequest(size=100)
TENANT = "hospital"
# Of the sample: names that are asked for, and words that nobody but their owner is told.
NAMES = (
    "beds",
    "tumour",
    "doomed",
    "ada",
    "hospital",
    "clinic",
    "tumour-v2",
    "beds.upload.1.0",
    "hospital/dataset.versioned.v1-0-000000000000",
    "hospital--tumour--v1",
)
MARKERS = ("audrey", "Benign or malignant", "Beds of a", "nora", "mean_radius", "worst_area")
TRICKS = (
    "",
    ".",
    "/",
    "../hospital",
    "hospital/beds",
    "..%2fhospital%2fbeds",
    "beds\x00",
    "beds\n",
    "ｂｅｄｓ",
    "b\u0435ds",
    "be\u200bds",
    "\u202ebeds",
    "x" * 70_000,
)
TOLD = {
    "OK",
    "NOT_FOUND",
    "PERMISSION_DENIED",
    "INVALID_ARGUMENT",
    "UNAUTHENTICATED",
    "FAILED_PRECONDITION",
    "ALREADY_EXISTS",
    "UNIMPLEMENTED",
    "RESOURCE_EXHAUSTED",
    "ABORTED",
}
# Full for now; the same call is answered a moment later.
BUSY = ("RESOURCE_EXHAUSTED", "ABORTED", "UNAVAILABLE", "DEADLINE_EXCEEDED")
BUSY_S_MAX = 5.0
# The client's own words where a stream was refused before it had sent anything; the same call,
# made again, hears why.
UNSENT = "Internal error from Core"
# Each of these hashes a password, which is to take its time; of wrong ones there are many here, and
# who sends so many is told to wait longer than this test does.
HASHING = ("Login", "ChangePassword")
# These end the caller's own login.
ENDING = ("Logout",)
CALLS_AT_ONCE = 16
REST_PATHS = (
    "GET /v2/models/NAME",
    "GET /v2/models/NAME/ready",
    "GET /v2/models/NAME/versions/1",
    "GET /v2/models/NAME/versions/1/ready",
    "POST /v2/models/NAME/infer",
    "POST /v2/models/NAME/versions/1/infer",
)
REST_BODY = json.dumps(
    {"inputs": [{"name": "features", "shape": [1, 1], "datatype": "FP32", "data": [1.0]}]}
)
REST_NAME_CHARACTERS_MAX = 4_000


@pytest.fixture(scope="module", params=samples.whole(), ids=lambda release: release.name)
def platform(request: pytest.FixtureRequest) -> Iterator[Laptop]:
    with upgraded(request.param) as started:
        yield started


async def test_all_that_was_kept_is_there(platform: Laptop) -> None:
    async with await reader(platform.door, TENANT) as olga:
        sources = (
            await olga.call(olga.ingest.ListSources, ingest_pb2.ListSourcesRequest(page=ALL))
        ).sources
        assert {each.name for each in sources} >= {"beds", "patients"}
        for source in sources:
            versions = await olga.call(
                olga.ingest.ListDatasetVersions,
                ingest_pb2.ListDatasetVersionsRequest(dataset=source.name, page=ALL),
            )
            assert versions.versions
        rows = [
            part
            async for part in olga.stream(
                olga.ingest.ReadDataset, ingest_pb2.ReadDatasetRequest(dataset="beds", version=1)
            )
        ]
        assert rows[0].version.row_count
        held = await olga.call(
            olga.ingest.ListQuarantine, ingest_pb2.ListQuarantineRequest(source="beds", page=ALL)
        )
        assert {each.state for each in held.records} >= {
            ingest_pb2.QUARANTINE_STATE_MENDED,
            ingest_pb2.QUARANTINE_STATE_REPLAYED,
        }
        jobs = (await olga.call(olga.trainer.ListJobs, trainer_pb2.ListJobsRequest(page=ALL))).jobs
        assert {each.state for each in jobs} >= {
            trainer_pb2.JOB_STATE_COMPLETED,
            trainer_pb2.JOB_STATE_FAILED,
            trainer_pb2.JOB_STATE_CANCELLED,
        }
        pipeline = await olga.call(
            olga.trainer.GetPipeline, trainer_pb2.GetPipelineRequest(name="tumour")
        )
        assert pipeline.pipeline.drift_answer
        versions = (
            await olga.call(
                olga.models.ListModelVersions,
                inference_pb2.ListModelVersionsRequest(model="tumour", page=ALL),
            )
        ).versions
        assert {each.stage for each in versions} == {
            inference_pb2.MODEL_STAGE_SIGNED,
            inference_pb2.MODEL_STAGE_REFUSED,
            inference_pb2.MODEL_STAGE_REJECTED,
        }
        for version in versions:
            found = await olga.call(
                olga.models.GetModelVersion,
                inference_pb2.GetModelVersionRequest(model="tumour", version=version.version),
            )
            assert found.version.card.startswith("# ")
        history = await olga.call(
            olga.deployments.ListDeploymentHistory,
            inference_pb2.ListDeploymentHistoryRequest(page=ALL),
        )
        assert {each.deployment.action for each in history.records} == {
            "deploy",
            "canary",
            "promote",
            "rollback",
            "undeploy",
        }
        alerts = await olga.call(
            olga.monitoring.ListAlerts, monitoring_pb2.ListAlertsRequest(page=ALL)
        )
        assert len(alerts.alerts) >= 10
        letters = await olga.call(
            olga.monitoring.ListDeadLetters, monitoring_pb2.ListDeadLettersRequest(page=ALL)
        )
        own = [each for each in letters.letters if each.topic != flow.LETTER_REPLAYED.name]
        assert [each.replayed for each in own].count(True) == 1
        assert all(each.replayed or each.discarded for each in own)
        users = await olga.call(olga.identity.ListUsers, security_pb2.ListUsersRequest(page=ALL))
        assert {"ada", "tom", "tina"} <= {each.name for each in users.users}
        assert [each.name for each in users.users if each.disabled] == ["tom"]
        keys = await olga.call(olga.identity.ListApiKeys, security_pb2.ListApiKeysRequest(page=ALL))
        assert [each.revoked for each in keys.keys] == [True]


async def test_what_was_signed_then_serves_again(platform: Laptop) -> None:
    """Signature, manifest and network of the earlier release, loaded by today's Triton."""
    async with await reader(platform.door, TENANT) as olga:

        async def ready() -> bool:
            answer = await olga.call(
                olga.deployments.GetDeployment, inference_pb2.GetDeploymentRequest(model="tumour")
            )
            assert not answer.deployment.problem, answer.deployment.problem
            assert all(variant.ready for variant in answer.deployment.variants), answer
            return True

        await eventually(ready, within_s=60)


async def test_the_audit_log_is_one_chain(platform: Laptop) -> None:
    async with await reader(platform.door, TENANT) as olga:
        records = [
            record
            async for part in olga.stream(olga.audit.ExportAudit, security_pb2.ExportAuditRequest())
            for record in part.records
        ]
        # It goes on from the one of the sample, or is refused.
        checkpoint = await olga.call(
            olga.audit.GetAuditCheckpoint, security_pb2.GetAuditCheckpointRequest()
        )
    assert checkpoint.size >= len(records)
    assert [each.sequence for each in records] == list(range(1, len(records) + 1))
    for before, after in itertools.pairwise(records):
        assert after.previous_hash == before.hash


async def test_what_waited_to_be_told_is_told_and_taken(platform: Laptop) -> None:
    """The outboxes of the sample go through today's relay, broker and consumers."""

    def waiting() -> int:
        count = 0
        for service in SERVICES:
            journal = platform.home.root / "journals" / f"{service}.db"
            with sqlite3.connect(f"file:{journal}?mode=ro", uri=True) as connection:
                count += connection.execute("SELECT count(*) FROM outbox").fetchone()[0]
        return count

    await eventually(lambda: waiting() == 0, within_s=60, what="every outbox is empty")
    everybodys = await letters_of(platform, "platform")
    # What is wrong with a letter its own tenant alone is told.
    for tenant in {each.id.split("/")[0] for each in everybodys}:
        letters = await letters_of(platform, tenant)
        # Some are the sample's own, replayed or discarded: they lie on the Kafka of that release.
        untold = [
            each.error
            for each in letters
            if not (each.replayed or each.discarded) and tenant in each.id
        ]
        assert all("is not on Kafka any more" in error for error in untold), untold


async def letters_of(platform: Laptop, tenant: str) -> list[monitoring_pb2.DeadLetter]:
    async with await reader(platform.door, tenant) as member:
        answer = await member.call(
            member.monitoring.ListDeadLetters, monitoring_pb2.ListDeadLettersRequest(page=ALL)
        )
    return list(answer.letters)


# Another tenant asks.


@asynccontextmanager
async def intruder(platform: Laptop) -> AsyncIterator[Intruder]:
    """Somebody with every role in a tenant of their own, which has a source and a pipeline."""
    async with await reader(platform.door, "platform") as root:
        await root.call(
            root.identity.CreateTenant, security_pb2.CreateTenantRequest(tenant="thief")
        )
        made = await root.call(
            root.identity.CreateUser,
            security_pb2.CreateUserRequest(
                tenant="thief",
                name="eve",
                roles=["administrator", "engineer", "reviewer", "operator", "auditor"],
            ),
        )
        eve = await log_in(platform.door, "thief", "eve", made.one_time_password)
    async with eve, grpc.aio.insecure_channel(platform.door) as channel:
        contract = foreign.CONTRACT.replace("NAME", foreign.OWN)
        await eve.call(
            eve.ingest.PutSource,
            ingest_pb2.PutSourceRequest(name=foreign.OWN, contract_yaml=contract),
        )
        await eve.call(
            eve.trainer.PutPipeline,
            trainer_pb2.PutPipelineRequest(
                definition_yaml=foreign.PIPELINE.replace("NAME", foreign.OWN)
            ),
        )
        key = await eve.call(
            eve.identity.CreateApiKey,
            security_pb2.CreateApiKeyRequest(name="app", roles=["application"]),
        )
        token = await token_of(platform.door, "thief", "eve")
        yield Intruder(platform.door, channel, token, key.secret)


async def identifiers(door: str) -> tuple[str, ...]:
    """What the sample's tenant is told of its own and others do not know: made anew in each."""
    async with await reader(door, TENANT) as olga:
        keys = await olga.call(olga.identity.ListApiKeys, security_pb2.ListApiKeysRequest(page=ALL))
        versions = await olga.call(
            olga.models.ListModelVersions,
            inference_pb2.ListModelVersionsRequest(model="tumour", page=ALL),
        )
        users = await olga.call(
            olga.identity.ListUsers,
            security_pb2.ListUsersRequest(page=common_pb2.PageRequest(size=1)),
        )
    return keys.keys[0].id, versions.versions[0].manifest_sha256, users.next_page_token


@dataclass
class Intruder:
    door: str
    channel: grpc.aio.Channel
    token: str
    key: str
    calls: int = 0
    problems: list[str] = field(default_factory=list)
    gate: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CALLS_AT_ONCE))
    hashing: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))

    async def ask(
        self, method: MethodDescriptor, named: foreign.Path = (), name: str = "", **claims: str
    ) -> Answer:
        infers = method.containing_service.name == "GRPCInferenceService"
        bearer = self.key if infers else self.token
        metadata = (("authorization", f"Bearer {bearer}"), *claims.items())
        request = foreign.request_of(method, named, name)
        final = ("RESOURCE_EXHAUSTED",) if method.name in HASHING else ()
        latest = Answer("", "")

        async def settled() -> bool:
            nonlocal latest
            self.calls += 1
            latest = await foreign.asked(self.channel, method, request, metadata)
            busy = latest.code in BUSY or latest.said.startswith(UNSENT)
            return latest.code in final or not busy

        async with self.hashing if method.name in HASHING else self.gate:
            with contextlib.suppress(AssertionError):
                await eventually(settled, within_s=BUSY_S_MAX)
        return latest

    def judge(self, method: MethodDescriptor, what: str, name: str, answer: Answer) -> None:
        """Of any answer: it is one of those that say nothing of others."""
        where = f"{method.full_name} {what}"
        if answer.code not in TOLD:
            self.problems.append(f"{where}: {answer.code} {answer.said[:300]}")
        # The log of what one asked for names what one asked for.
        others = () if method.containing_service.name == "AuditService" else (TENANT,)
        said = answer.said.replace(name, "") if name else answer.said
        told = [marker for marker in (*MARKERS, *others) if marker in said]
        if told:
            self.problems.append(f"{where} tells {told}: {answer.said[:300]}")

    async def compare(self, method: MethodDescriptor, path: foreign.Path, name: str) -> None:
        """What another tenant has, and the like of it that nobody has, are answered alike."""
        like = ("q" if name[0] != "q" else "z") + name[1:]
        there, nowhere = await self.ask(method, path, name), await self.ask(method, path, like)
        what = f"{'.'.join(path)}={name!r}"
        self.judge(method, what, name, there)
        same = [
            (each.code, "" if each.code == "OK" else _without(each.said, name, like))
            for each in (there, nowhere)
        ]
        if same[0] != same[1] and "RESOURCE_EXHAUSTED" not in (there.code, nowhere.code):
            self.problems.append(f"{method.full_name} {what} tells them apart: {same}"[:600])

    async def compare_rest(self, path: str, name: str) -> None:
        like = "q" + name[1:]
        answers = [await asyncio.to_thread(self._rest, path, each) for each in (name, like)]
        same = [(code, _without(said, name, like)) for code, said in answers]
        if same[0] != same[1] or not 400 <= answers[0][0] < 500:
            self.problems.append(f"{path} {name!r}: {answers}"[:600])

    async def trick_rest(self, path: str, name: str) -> None:
        code, said = await asyncio.to_thread(self._rest, path, name[:REST_NAME_CHARACTERS_MAX])
        told = [marker for marker in (*MARKERS, TENANT) if marker in _without(said, name)]
        if told or not 400 <= code < 500:
            self.problems.append(f"{path} {name[:40]!r}: {code} tells {told} {said[:300]}")

    def _rest(self, path: str, name: str) -> tuple[int, str]:
        self.calls += 1
        verb, _, place = path.partition(" ")
        connection = http.client.HTTPConnection(self.door, timeout=foreign.CALL_S_MAX)
        with contextlib.closing(connection):
            body = REST_BODY if verb == "POST" else None
            headers = {"authorization": f"Bearer {self.key}"}
            connection.request(verb, place.replace("NAME", quote(name, safe="")), body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    async def trick(self, method: MethodDescriptor, path: foreign.Path, name: str) -> None:
        answer = await self.ask(method, path, name)
        self.judge(method, f"{'.'.join(path)}={name[:40]!r}", name, answer)


def _without(said: str, *names: str) -> str:
    for name in names:
        said = said.replace(name, "*")
    return said


async def test_another_tenants_names_are_nobodys(platform: Laptop) -> None:
    known = (*NAMES, *await identifiers(platform.door))
    async with intruder(platform) as thief:
        for method in foreign.methods():
            few = method.name in HASHING
            names, tricks = (NAMES[:4], TRICKS[::5]) if few else (known, TRICKS)
            asking = [
                work
                for path in foreign.named_fields(method)
                for work in (
                    *(thief.compare(method, path, name) for name in names),
                    *(thief.trick(method, path, name) for name in tricks),
                )
            ]
            await asyncio.gather(*asking)
            if method.name not in ENDING:
                claims: dict[str, str] = {"x-basalt-tenant": TENANT, "x-basalt-subject": "ada"}
                thief.judge(method, "claimed", "", await thief.ask(method, (), "", **claims))
        for path in REST_PATHS:
            for name in NAMES:
                await thief.compare_rest(path, name)
            for name in TRICKS:
                await thief.trick_rest(path, name)
        print(f"{thief.calls} calls")
        assert not thief.problems, "\n".join(thief.problems[:40])
