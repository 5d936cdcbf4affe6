"""Whose job is next: tenants take turns, however many jobs one of them has queued."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from libs.common.errors import LimitError
from libs.common.journal import aggregate
from libs.common.stores.ports import Entry
from services.trainer.core import jobs
from services.trainer.core.jobs import Job, job_of
from services.trainer.core.queue import JobQueue, Place
from services.trainer.core.queueing import RunRequest
from tests.support.clock import HeldClock
from tests.support.eventually import eventually
from tests.support.training import PIPELINE, TENANT, EndlessTraining, Trainer, patients

LEASE_S = 15.0


def queued(tenant: str, number: int, clock: HeldClock) -> Entry:
    job = Job(
        id=f"tumours-v{number}",
        pipeline="tumours",
        pipeline_revision=1,
        dataset="patients",
        dataset_version=number,
        dataset_manifest_sha256="a" * 64,
        model="tumour",
        trigger="request",
        author="ann",
        queued_at=clock.now() + timedelta(seconds=number),
    )
    state = job.model_dump(mode="json")
    name = aggregate(tenant, jobs.KIND, job.id)
    return Entry(name, 1, "cause", "JobQueued", state, clock.now(), "ann")


def after(entry: Entry, job: Job) -> Entry:
    state = job.model_dump(mode="json")
    return Entry(entry.aggregate, entry.version + 1, "", "later", state, entry.at, "worker")


def take(queue: JobQueue, clock: HeldClock) -> Entry:
    """Claims what is next, as a worker does."""
    entry = queue.next(LEASE_S)[0].entry
    claimed = after(entry, job_of(entry).claimed("worker", clock.now()))
    queue.see(claimed)
    return claimed


def end(queue: JobQueue, claimed: Entry, clock: HeldClock) -> None:
    queue.see(after(claimed, job_of(claimed).completed("a" * 64, {}, clock.now())))


async def test_after_a_thousand_jobs_of_one_tenant_the_job_of_another_is_next(
    trainer: Trainer, clock: HeldClock
) -> None:
    queue = trainer.queue
    for number in range(1, 1_001):
        queue.see(queued("many", number, clock))
    first = take(queue, clock)
    queue.see(queued("one", 2_000, clock))
    late = job_of(queued("one", 2_000, clock))
    assert queue.place("one", late) == Place(number=1, others=0)
    assert queue.place("many", job_of(queued("many", 2, clock))) == Place(number=2, others=1)
    end(queue, first, clock)
    assert take(queue, clock).tenant == "one"


async def test_every_place_is_told_and_comes_true(trainer: Trainer, clock: HeldClock) -> None:
    queue = trainer.queue
    for number, tenant in enumerate("aaabbac", 1):
        queue.see(queued(tenant, number, clock))
    waiting = {each.entry.aggregate: each for each in queue.next(LEASE_S)}
    told = {name: queue.place(each.entry.tenant, each.job) for name, each in waiting.items()}
    for number in range(1, 8):
        taken = take(queue, clock)
        place = told[taken.aggregate]
        assert place is not None
        assert place.number == number
        assert queue.place(taken.tenant, job_of(taken)) is None
        end(queue, taken, clock)


async def test_tenants_have_turns_by_their_shares(trainer: Trainer, clock: HeldClock) -> None:
    queue = JobQueue(trainer.journal, clock, {"large": 2.0})
    for number in range(1, 31):
        queue.see(queued("large", number, clock))
        queue.see(queued("small", number, clock))
    taken = [take(queue, clock).tenant for _ in range(15)]
    assert taken.count("large") == 10


async def test_a_job_of_a_silent_worker_waits_for_its_turn_too(
    trainer: Trainer, clock: HeldClock
) -> None:
    queue = trainer.queue
    queue.see(queued("one", 1, clock))
    silent = take(queue, clock)
    assert queue.next(LEASE_S) == []
    clock.pass_s(LEASE_S + 1)
    assert [each.entry for each in queue.next(LEASE_S)] == [silent]


async def test_a_tenant_runs_no_more_at_a_time_than_it_may(
    trainer: Trainer, clock: HeldClock
) -> None:
    queue = JobQueue(trainer.journal, clock, running_max=2)
    for number in range(1, 6):
        queue.see(queued("many", number, clock))
    claimed = [take(queue, clock), take(queue, clock)]
    assert queue.next(LEASE_S) == []
    queue.see(queued("one", 6, clock))
    assert take(queue, clock).tenant == "one"
    end(queue, claimed[0], clock)
    assert take(queue, clock).tenant == "many"


async def test_a_tenant_queues_no_more_than_it_may_and_others_do(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.trainer.core.queue.TENANT_QUEUED_MAX", 2)
    first = await trainer.run(key="first")
    await trainer.run(key="second")
    with pytest.raises(LimitError, match="2 is the most") as refused:
        await trainer.run(key="third")
    assert refused.value.which == "TENANT_QUEUED_MAX"
    assert await trainer.run(key="first") == first, "a repeat is no new job"
    await trainer.pipelines.put("globex", PIPELINE, "eve")
    await trainer.queueing.run("globex", RunRequest("tumours"), "eve")
    await trainer.oversight.cancel(TENANT, first, "", "ann")
    await trainer.run(key="third")


@pytest.fixture
async def other(tmp_path: Path, trainer: Trainer, clock: HeldClock) -> AsyncIterator[Trainer]:
    """Another replica; its worker is not started."""
    data = trainer.datasets
    running = Trainer.at(tmp_path, name="other", clock=clock, training=EndlessTraining(), data=data)
    yield running
    await running.close()


async def test_what_another_replica_queued_and_took_counts(
    trainer: Trainer, other: Trainer, clock: HeldClock
) -> None:
    mine = await trainer.run(key="one")
    clock.pass_s(1)
    await trainer.run(key="two")
    await other.queue.look()
    assert other.oversight.place(TENANT, await trainer.job(mine)) == Place(number=1, others=0)
    await trainer.worker.start()
    await eventually(lambda: trainer.worker.busy)
    await other.pipelines.put("globex", PIPELINE, "eve")
    late = job_of(await other.queueing.run("globex", RunRequest("tumours"), "eve"))
    await other.queue.look()
    assert other.oversight.place("globex", late) == Place(number=1, others=0)
    await trainer.queue.look()
    assert trainer.oversight.place("globex", late) == Place(number=1, others=0)


async def test_who_watches_a_job_sees_it_move_up(trainer: Trainer, clock: HeldClock) -> None:
    first = await trainer.run(key="one")
    clock.pass_s(1)
    second = await trainer.run(key="two")
    watched = trainer.oversight.watch(TENANT, second)
    job = await anext(watched)
    assert trainer.oversight.place(TENANT, job) == Place(number=2, others=0)
    await trainer.oversight.cancel(TENANT, first, "", "ann")
    job = await anext(watched)
    assert trainer.oversight.place(TENANT, job) == Place(number=1, others=0)
    await trainer.oversight.cancel(TENANT, second, "", "ann")
    assert [each.state async for each in watched] == ["cancelled"]


async def test_two_at_once_are_of_two_tenants(tmp_path: Path, clock: HeldClock) -> None:
    training = EndlessTraining()
    trainer = Trainer.at(tmp_path / "two", clock=clock, training=training, jobs_at_once=2)
    trainer.datasets.add("patients", patients(30))
    for number in range(3):
        await trainer.run(key=str(number))
    await trainer.pipelines.put("globex", PIPELINE, "eve")
    await trainer.queueing.run("globex", RunRequest("tumours"), "eve")
    await trainer.worker.start()
    await eventually(lambda: len(training.running) == 2)
    running = {each.claim.entry.tenant for each in trainer.worker.attempts}
    assert running == {TENANT, "globex"}
    await trainer.close()
