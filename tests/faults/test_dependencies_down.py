"""Where a dependency is down, callers hear UNAVAILABLE and which one, within their deadline.

And once it is back, everything goes on as if nothing had been.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio

from apps.hospital.story import HERE, MODEL, SOURCE, Story
from basalt.errors import BasaltError
from basalt.pb.basalt.v1 import (
    common_pb2,
    inference_pb2,
    ingest_pb2,
    security_pb2,
    trainer_pb2,
)
from tests.support.eventually import eventually
from tests.support.laptop import Laptop
from tests.support.telling import served_on

# What a caller here waits for an answer; without one they would hear DEADLINE_EXCEEDED.
DEADLINE_S = 8.0
HASTE_S = 1.5
BACK_S_MAX = 60.0

Call = Callable[[Story], Awaitable[object]]
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def story(own_laptop: Laptop) -> AsyncIterator[Story]:
    """A platform on which a model is in service."""
    async with served_on(own_laptop) as served:
        yield served


async def new_source(story: Story) -> None:
    """Makes a topic."""
    engineer = story.people.engineer
    name = f"patients-{uuid4().hex[:8]}"
    contract = (HERE / "contract.yaml").read_text().replace(f"name: {SOURCE}", f"name: {name}", 1)
    request = ingest_pb2.PutSourceRequest(name=name, contract_yaml=contract)
    await engineer.call(engineer.ingest.PutSource, request, timeout_s=DEADLINE_S)


async def prediction(story: Story) -> None:
    model = story.people.application.load_model(MODEL)
    await model.predict(story.held_out.values[0], timeout_s=DEADLINE_S)


async def prediction_in_haste(story: Story) -> None:
    """Its caller has gone before the door gives up waiting for Triton."""
    model = story.people.application.load_model(MODEL)
    await model.predict(story.held_out.values[0], timeout_s=HASTE_S)


async def login(story: Story) -> None:
    administrator = story.people.administrator
    request = security_pb2.ListUsersRequest(page=common_pb2.PageRequest(size=1))
    await administrator.call(administrator.identity.ListUsers, request, timeout_s=DEADLINE_S)


async def privileged(story: Story) -> None:
    """Deploys, which has to be in the audit log first."""
    operator = story.people.operator
    request = inference_pb2.DeployRequest(model=MODEL, version=1, weight=100, reason="again")
    await operator.call(operator.deployments.Deploy, request, timeout_s=DEADLINE_S)


async def training_run(story: Story) -> None:
    """On the newest rows, which ingest has to seal first."""
    engineer = story.people.engineer
    request = trainer_pb2.RunPipelineRequest(pipeline="tumour", idempotency_key=uuid4().hex)
    job = (await engineer.call(engineer.trainer.RunPipeline, request, timeout_s=DEADLINE_S)).job
    cancel = trainer_pb2.CancelJobRequest(id=job.id)
    await engineer.call(engineer.trainer.CancelJob, cancel, timeout_s=DEADLINE_S)


async def sources(story: Story) -> None:
    engineer = story.people.engineer
    request = ingest_pb2.ListSourcesRequest(page=common_pb2.PageRequest(size=1))
    await engineer.call(engineer.ingest.ListSources, request, timeout_s=DEADLINE_S)


async def put_pipeline(story: Story) -> None:
    """Writes in the trainer's journal."""
    engineer = story.people.engineer
    text = (HERE / "pipeline.yaml").read_text().replace("name: tumour", f"name: t{uuid4().hex}", 1)
    request = trainer_pb2.PutPipelineRequest(definition_yaml=text)
    await engineer.call(engineer.trainer.PutPipeline, request, timeout_s=DEADLINE_S)


async def artifact(story: Story) -> None:
    """Reads an object of ingest."""
    engineer = story.people.engineer
    request = ingest_pb2.ReadDatasetRequest(dataset=SOURCE, version=1)
    async for _ in engineer.stream(engineer.ingest.ReadDataset, request):
        pass


# How a dependency goes away, and comes back.


@contextmanager
def journal_away(platform: Laptop) -> Iterator[None]:
    if "ferretdb" in platform.servers:
        with platform.without("ferretdb"):
            yield
        return
    file = platform.home.root / "journals" / "trainer.db"
    with closing(sqlite3.connect(file, isolation_level=None)) as another:
        # Somebody who does not let go, such as a backup that hangs.
        another.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            another.execute("ROLLBACK")


@contextmanager
def objects_away(platform: Laptop) -> Iterator[None]:
    if "minio" in platform.servers:
        with platform.without("minio"):
            yield
        return
    folder: Path = platform.home.root / "objects" / "ingest"
    away = folder.with_name("away")
    folder.rename(away)
    folder.write_text("Nothing can be read below a file.")
    try:
        yield
    finally:
        folder.unlink()
        away.rename(folder)


@contextmanager
def frozen(platform: Laptop, name: str) -> Iterator[None]:
    """It does not answer, and nobody can tell that it will not."""
    platform.freeze(name)
    try:
        yield
    finally:
        platform.thaw(name)


# What is away, how, what is asked for meanwhile, and what the answer names.
CASES: dict[str, tuple[Callable[[Laptop], object], Call, str]] = {
    "kafka": (lambda p: p.without("kafka"), new_source, "kafka"),
    "kafka, silent": (lambda p: frozen(p, "kafka"), new_source, "kafka"),
    "triton": (lambda p: p.without("triton"), prediction, "triton"),
    "triton, in haste": (lambda p: p.without("triton"), prediction_in_haste, "triton"),
    "security": (lambda p: p.without("security"), login, "security"),
    "the audit sink": (lambda p: p.without("security"), privileged, "audit"),
    "the audit sink, silent": (lambda p: frozen(p, "security"), privileged, "audit"),
    "ingest": (lambda p: p.without("ingest"), sources, "ingest"),
    "ingest, asked by trainer": (lambda p: p.without("ingest"), training_run, "ingest"),
    "ingest, silent": (lambda p: frozen(p, "ingest"), training_run, "ingest"),
    "the journal": (journal_away, put_pipeline, "journal"),
    "objects": (objects_away, artifact, "objects"),
}


@pytest.mark.parametrize("case", CASES)
async def test_who_depends_on_it_says_so_and_goes_on_after_it(
    case: str, own_laptop: Laptop, story: Story
) -> None:
    away, call, named = CASES[case]
    revisions = await _revisions(story)
    with ExitStack() as stack:
        stack.enter_context(away(own_laptop))  # pyright: ignore[reportArgumentType]
        with pytest.raises(BasaltError) as refusal:
            await call(story)
        told = refusal.value
        assert told.code == "UNAVAILABLE", f"{told.code}: {told}"
        assert named in f"{told.which} {told}".lower(), f"{told.which}: {told}"
        assert told.retryable

    if call is privileged:
        # Refused means that it has had no effect.
        assert await _revisions(story) == revisions
    await eventually(lambda: _succeeds(call, story), within_s=BACK_S_MAX)


async def _succeeds(call: Call, story: Story) -> bool:
    try:
        await call(story)
    except BasaltError as error:
        raise AssertionError(f"{error.code}: {error}") from error
    return True


async def _revisions(story: Story) -> int:
    auditor = story.people.auditor
    request = inference_pb2.ListDeploymentHistoryRequest(page=common_pb2.PageRequest(size=100))
    answer = await auditor.call(auditor.deployments.ListDeploymentHistory, request)
    return len(answer.records)
