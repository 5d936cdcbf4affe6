"""What the platform acknowledged under load, and whether all of it holds afterwards."""

from __future__ import annotations

import asyncio
import io
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import polars as pl
import pytest

from apps.hospital import upstream
from apps.hospital.story import HERE, MODEL, Story
from basalt import audit
from basalt.aio import AsyncClient
from basalt.errors import BasaltError
from basalt.pb.basalt.v1 import (
    common_pb2,
    inference_pb2,
    ingest_pb2,
    security_pb2,
    trainer_pb2,
)
from libs.common.kafka import KafkaAccess
from tests.support.eventually import pause

T = TypeVar("T")
CALL_S_MAX = 8.0
TRY_AGAIN_S = 0.3
# What a caller hears of a process that dies while it answers, or whose clock is wrong.
BROKEN_OFF = frozenset(
    {"UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL", "UNKNOWN", "CANCELLED", "UNAUTHENTICATED"}
)


@dataclass
class Ledger:
    """Each kind of work notes what was answered; what was not may or may not have happened."""

    story: Story
    seed: int
    events: list[str] = field(default_factory=list)
    uploaded: list[str] = field(default_factory=list)
    users: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    revoked: dict[str, str] = field(default_factory=dict)
    jobs: list[str] = field(default_factory=list)
    deployed: int = 0
    # What each kind of work that is under way has last been told.
    kept: dict[str, str] = field(default_factory=dict)
    answers: Counter[str] = field(default_factory=Counter)
    topic: str = ""
    # Held by whoever wants no new records for a while.
    publishing: asyncio.Lock = field(default_factory=asyncio.Lock)
    uploading: asyncio.Lock = field(default_factory=asyncio.Lock)
    # What the upstream system logs in to Kafka with: its own key for this source.
    access: KafkaAccess | None = None

    @property
    def source(self) -> str:
        return f"chaos{self.seed}"

    # The load.

    async def begin(self) -> None:
        engineer = self.story.people.engineer
        contract = (HERE / "contract.yaml").read_text()
        contract = contract.replace("name: patients", f"name: {self.source}", 1)
        request = ingest_pb2.PutSourceRequest(name=self.source, contract_yaml=contract)
        self.topic = (await engineer.call(engineer.ingest.PutSource, request)).source.topic
        key = ingest_pb2.CreateSourceKeyRequest(source=self.source)
        answer = await engineer.call(engineer.ingest.CreateSourceKey, key)
        self.access = KafkaAccess(
            self.story.kafka, answer.key.user, answer.password, self.story.kafka_ca
        )

    async def work(self, stop: asyncio.Event) -> None:
        """All kinds side by side until `stop`; each lets what it began be answered."""
        kinds = (self._publish, self._upload, self._user, self._key, self._predict, self._deploy)
        await asyncio.gather(self._once(self._job), *(self._again(kind, stop) for kind in kinds))

    @property
    def under_way(self) -> str:
        """For people: which work has not ended, and what it was last told."""
        return "; ".join(f"{kind}: {told or 'not answered'}" for kind, told in self.kept.items())

    async def _once(self, kind: Callable[[int], Awaitable[None]], number: int = 0) -> None:
        name = kind.__name__.strip("_")
        self.kept[name] = ""
        await kind(number)
        del self.kept[name]

    async def _again(self, kind: Callable[[int], Awaitable[None]], stop: asyncio.Event) -> None:
        number = 0
        while not stop.is_set():
            await self._once(kind, number)
            number += 1
            await pause(TRY_AGAIN_S)

    def _record(self, name: str, index: int) -> dict[str, Any]:
        record = self.story.patients.record(index % len(self.story.patients))
        return record | {"patient_id": name}

    async def _publish(self, number: int) -> None:
        name = f"event-{self.seed}-{number}"
        message = upstream.Message(name, json.dumps(self._record(name, number)).encode())

        async def send() -> None:
            try:
                async with asyncio.timeout(CALL_S_MAX * 2):
                    await upstream.publish(self.access, self.topic, [message], lambda: None)
            except Exception as error:
                raise BasaltError(repr(error), code="UNAVAILABLE", retryable=True) from error

        async with self.publishing:
            await self._insist("publish", send)
            self.events.append(name)

    async def _upload(self, number: int) -> None:
        engineer = self.story.people.engineer
        name, key = f"upload-{self.seed}-{number}", f"chaos-{self.seed}-{number}"
        body = pl.DataFrame([self._record(name, number)]).write_csv().encode()

        async def parts() -> AsyncIterator[ingest_pb2.UploadFileRequest]:
            yield ingest_pb2.UploadFileRequest(
                source=self.source, idempotency_key=key, format=ingest_pb2.FILE_FORMAT_CSV
            )
            yield ingest_pb2.UploadFileRequest(part=body, last=True)

        async def send() -> None:
            async with asyncio.timeout(CALL_S_MAX * 2):
                await engineer.send(engineer.ingest.UploadFile, parts())

        async with self.uploading:
            await self._insist("upload", send)
            self.uploaded.append(name)

    async def _user(self, number: int) -> None:
        by, name = self.story.people.administrator, f"user-{self.seed}-{number}"
        request = security_pb2.CreateUserRequest(name=name, roles=["operator"])
        await self._made(
            "user", lambda: by.call(by.identity.CreateUser, request, timeout_s=CALL_S_MAX)
        )
        self.users.append(name)

    async def _key(self, number: int) -> None:
        by, name = self.story.people.administrator, f"key-{self.seed}-{number}"
        request = security_pb2.CreateApiKeyRequest(name=name, roles=["application"], days=1)
        made = await self._made(
            "key", lambda: by.call(by.identity.CreateApiKey, request, timeout_s=CALL_S_MAX)
        )
        self.keys.append(name)
        if made is not None and number % 2:
            revoke = security_pb2.RevokeApiKeyRequest(id=made.key.id)
            await self._insist(
                "key", lambda: by.call(by.identity.RevokeApiKey, revoke, timeout_s=CALL_S_MAX)
            )
            self.revoked[name] = made.secret

    async def _predict(self, number: int) -> None:
        model = self.story.people.application.load_model(MODEL)
        row = self.story.held_out.values[number % len(self.story.held_out)]
        try:
            answer = await model.predict(row, timeout_s=CALL_S_MAX)
        except BasaltError as error:
            self.answers[error.code] += 1
        else:
            self.answers[f"version {answer.model_version}"] += 1

    async def _deploy(self, number: int) -> None:
        by = self.story.people.operator
        request = inference_pb2.DeployRequest(
            model=MODEL, version=1, weight=100, reason=f"chaos {self.seed} {number}"
        )
        await self._insist("deploy", lambda: by.call(by.deployments.Deploy, request, timeout_s=60))
        self.deployed += 1

    async def _job(self, _number: int) -> None:
        by, key = self.story.people.engineer, f"chaos-job-{self.seed}"
        request = trainer_pb2.RunPipelineRequest(pipeline="tumour", idempotency_key=key)
        answer = await self._insist(
            "job", lambda: by.call(by.trainer.RunPipeline, request, timeout_s=CALL_S_MAX * 4)
        )
        self.jobs.append(answer.job.id)

    async def _insist(self, kind: str, call: Callable[[], Awaitable[T]]) -> T:
        """Until it is answered: what is retryable, and what a dying process breaks off."""
        while True:
            try:
                return await call()
            except TimeoutError as error:
                self.kept[kind] = repr(error)
            except BasaltError as error:
                if not (error.retryable or error.code in BROKEN_OFF):
                    raise
                self.kept[kind] = str(error)
            await pause(TRY_AGAIN_S)

    async def _made(self, kind: str, call: Callable[[], Awaitable[T]]) -> T | None:
        """None when an earlier try, whose answer was lost, has made it already."""
        try:
            return await self._insist(kind, call)
        except BasaltError as error:
            if error.code != "ALREADY_EXISTS":
                raise
        return None

    @asynccontextmanager
    async def silent(self) -> AsyncIterator[None]:
        """Within it no record is on its way: what was acknowledged, `ingest` has."""
        async with self.publishing, self.uploading:
            await self._all_is_taken_in()
            yield

    async def _all_is_taken_in(self) -> None:
        engineer = self.story.people.engineer
        request = ingest_pb2.GetSourceRequest(name=self.source)
        while True:
            source = await self._insist(
                "look", lambda: engineer.call(engineer.ingest.GetSource, request)
            )
            if source.source.records_accepted >= len(self.events) + len(self.uploaded):
                self.kept.pop("look", None)
                return
            await pause(TRY_AGAIN_S)

    # What holds.

    async def rows_are_there_once(self) -> None:
        engineer = self.story.people.engineer

        async def missing() -> set[str]:
            request = ingest_pb2.SealDatasetRequest(
                dataset=self.source, idempotency_key=f"{self.source}-{len(sealed)}"
            )
            version = (await engineer.call(engineer.ingest.SealDataset, request)).version
            sealed.append(version.version)
            read = ingest_pb2.ReadDatasetRequest(dataset=self.source, version=version.version)
            parts = engineer.stream(engineer.ingest.ReadDataset, read)
            content = b"".join([each.part async for each in parts])
            names = Counter(pl.read_parquet(io.BytesIO(content))["patient_id"].to_list())
            twice = [name for name, count in names.items() if count > 1]
            assert not twice, f"there twice: {twice}"
            return {*self.events, *self.uploaded} - set(names)

        sealed: list[int] = []
        for _ in range(60):
            lost = await missing()
            if not lost:
                return
            await pause(TRY_AGAIN_S)
        raise AssertionError(f"lost: {sorted(lost)}")

    async def users_and_keys_are_there_once(self) -> None:
        by = self.story.people.administrator
        listed = _pages(by, by.identity.ListUsers, security_pb2.ListUsersRequest, "users")
        users = Counter([each.name async for each in listed])
        listed = _pages(by, by.identity.ListApiKeys, security_pb2.ListApiKeysRequest, "keys")
        keys = [each async for each in listed]
        wrong = {name: users[name] for name in self.users if users[name] != 1}
        assert not wrong, f"users, and how often each is there: {wrong}"
        # A key's name need not be its own: one whose answer was lost is made again.
        lost = set(self.keys) - {each.name for each in keys}
        assert not lost, f"keys that are lost: {lost}"
        unrevoked = set(self.revoked) - {each.name for each in keys if each.revoked}
        assert not unrevoked, f"keys that are still in force: {unrevoked}"
        for name, secret in self.revoked.items():
            async with AsyncClient(self.story.door, token=secret) as thief:
                with pytest.raises(BasaltError) as refused:
                    await thief.load_model(MODEL).predict(self.story.held_out.values[0])
            assert refused.value.code == "UNAUTHENTICATED", f"{name}: {refused.value}"

    async def jobs_completed(self) -> None:
        for job in self.jobs:
            ended = await self.story.people.engineer.wait_for_job(job)
            assert ended.state == trainer_pb2.JOB_STATE_COMPLETED, ended.failure

    async def answers_were_right(self) -> None:
        wrong = {each for each in self.answers if each.startswith("version ")} - {"version 1"}
        assert not wrong, self.answers
        assert self.answers["version 1"], self.answers

    async def audit_chain_holds(self) -> None:
        by = self.story.people.auditor
        export = by.stream(by.audit.ExportAudit, security_pb2.ExportAuditRequest())
        records = [record async for answer in export for record in answer.records]
        assert audit.verify(records) == []


async def _pages(by: AsyncClient, call: Any, request: Any, field_name: str) -> AsyncIterator[Any]:
    token = ""
    while True:
        answer = await by.call(call, request(page=common_pb2.PageRequest(size=500, token=token)))
        for each in getattr(answer, field_name):
            yield each
        token = answer.next_page_token
        if not token:
            return
