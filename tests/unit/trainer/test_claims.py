"""Who holds a job: whoever wrote its latest version, whatever a clock says."""

import asyncio
from pathlib import Path

import pytest

from services.trainer.core.attempt import LIMIT_WAIT_S_MAX, Pace
from services.trainer.core.claims import Claim, ClaimLostError
from services.trainer.core.worker import DEATHS_MAX
from tests.support.clock import HeldClock
from tests.support.eventually import eventually
from tests.support.training import (
    PIPELINE,
    TENANT,
    CrampedTraining,
    EndlessTraining,
    MemoryDatasets,
    Trainer,
    patients,
)

# Heartbeats come quickly by real time; suspicion goes by the held clock.
PACE = Pace(lease_s=15.0, beat_s=0.05, poll_s=0.05)
SILENT = Pace(lease_s=15.0, beat_s=3_600.0, poll_s=0.05)


async def state(trainer: Trainer, job: str) -> tuple[str, str, int]:
    found = await trainer.job(job)
    return found.state, found.worker, found.attempt


async def test_a_queued_job_has_one_taker(trainer: Trainer, clock: HeldClock) -> None:
    entry = await trainer.oversight.entry(TENANT, await trainer.run())
    outcomes = await asyncio.gather(
        *(Claim.take(trainer.journal, clock, f"w{n}", entry) for n in range(10)),
        return_exceptions=True,
    )
    assert sum(isinstance(each, Claim) for each in outcomes) == 1
    assert sum(isinstance(each, ClaimLostError) for each in outcomes) == 9


async def test_a_write_whose_answer_was_lost_is_recognised(
    trainer: Trainer, clock: HeldClock
) -> None:
    entry = await trainer.oversight.entry(TENANT, await trainer.run())
    claim = await Claim.take(trainer.journal, clock, "w", entry)
    before = claim.entry
    await claim.write("JobProgressed", claim.job)
    claim.entry = before  # As if the answer had never come.
    await claim.write("JobProgressed", claim.job)
    assert claim.entry.version == before.version + 1
    claim.entry = before
    await claim.write("JobCompleted", claim.job.completed("a" * 64, {}, clock.now()))
    types = [each.type for each in await trainer.history(claim.job.id)]
    assert types == ["JobQueued", "JobClaimed", "JobProgressed", "JobCompleted"]


async def test_a_silent_holder_is_suspected_after_the_lease_and_not_before(
    tmp_path: Path, trainer: Trainer, clock: HeldClock
) -> None:
    job = await trainer.run()
    zombie = await Claim.take(
        trainer.journal, clock, "zombie", await trainer.oversight.entry(TENANT, job)
    )
    heir = Trainer.at(
        tmp_path,
        name="heir",
        clock=clock,
        pace=PACE,
        training=EndlessTraining(),
        data=trainer.datasets,
    )
    await heir.worker.start()
    await eventually(lambda: heir.worker.knows(zombie.entry.aggregate))
    clock.pass_s(14.9)
    await zombie.write("JobProgressed", zombie.job)
    await eventually(lambda: heir.worker.knows(zombie.entry.aggregate, zombie.entry.version))
    clock.pass_s(14.9)
    assert await state(trainer, job) == ("running", "zombie", 1)
    clock.pass_s(0.2)
    await eventually(lambda: _is(trainer, job, ("running", "heir", 2)))
    with pytest.raises(ClaimLostError):
        await zombie.write("JobCompleted", zombie.job.completed("a" * 64, {}, clock.now()))
    assert (await trainer.job(job)).state == "running"
    assert await trainer.events(job) == []
    await heir.close()


async def _is(trainer: Trainer, job: str, wanted: tuple[str, str, int]) -> bool:
    return await state(trainer, job) == wanted


async def test_a_holder_that_lost_its_claim_stops_training(
    tmp_path: Path, clock: HeldClock
) -> None:
    training = EndlessTraining()
    trainer = Trainer.at(tmp_path, clock=clock, pace=SILENT, training=training)
    trainer.datasets.add("patients", patients(30))
    await trainer.worker.start()
    job = await trainer.run()
    await eventually(lambda: bool(training.running))
    # Another process takes it over; this one hears of it by its next append only.
    other = Trainer.at(tmp_path, name="other", clock=clock, data=trainer.datasets)
    await Claim.take(other.journal, clock, "other", await other.oversight.entry(TENANT, job))
    for attempt in trainer.worker.attempts:
        attempt.wake()
    await eventually(lambda: not training.running)
    await eventually(lambda: not trainer.worker.busy)
    assert await state(trainer, job) == ("running", "other", 2)
    await other.close()
    await trainer.close()


async def test_a_job_that_workers_die_of_is_given_up(
    tmp_path: Path, trainer: Trainer, clock: HeldClock
) -> None:
    job = await trainer.run()
    for n in range(DEATHS_MAX + 1):
        await Claim.take(
            trainer.journal, clock, f"w{n}", await trainer.oversight.entry(TENANT, job)
        )
    last = Trainer.at(tmp_path, name="last", clock=clock, pace=PACE, data=trainer.datasets)
    await last.worker.start()
    await eventually(lambda: last.worker.knows(f"{TENANT}/job/{job}"))
    clock.pass_s(16.0)
    ended = await trainer.ended(job, 10.0)
    assert ended.state == "failed"
    assert "workers died" in ended.failure
    await last.close()


async def test_workers_that_die_while_they_wait_or_are_stopped_cost_a_job_nothing(
    trainer: Trainer, clock: HeldClock
) -> None:
    job = await trainer.run()
    for n in range(3 * DEATHS_MAX):
        claim = await Claim.take(
            trainer.journal, clock, f"w{n}", await trainer.oversight.entry(TENANT, job)
        )
        if n % 2:
            await claim.write("JobReleased", claim.job.released())
        else:
            waiting = claim.job.model_copy(update={"step": "waiting for ingest"})
            await claim.write("JobProgressed", waiting)
    found = await trainer.job(job)
    assert (found.attempt, found.deaths) == (3 * DEATHS_MAX, 0)


async def test_a_dependency_is_waited_for_until_it_is_back(
    tmp_path: Path, clock: HeldClock
) -> None:
    data = MemoryDatasets()
    data.add("patients", patients(30))
    training = EndlessTraining()
    trainer = Trainer.at(tmp_path, clock=clock, pace=PACE, training=training, data=data)
    job = await trainer.run(definition=PIPELINE)
    data.reachable = False
    await trainer.worker.start()

    async def waits() -> bool:
        return (await trainer.job(job)).step.startswith("waiting for")

    await eventually(waits)
    clock.pass_s(LIMIT_WAIT_S_MAX * 10)
    await eventually(waits)
    data.reachable = True
    await eventually(lambda: bool(training.running))
    found = await trainer.job(job)
    assert (found.state, found.attempt, found.deaths) == ("running", 1, 0)
    await trainer.close()


async def test_a_full_disk_is_waited_for_however_often_training_finds_it_full(
    tmp_path: Path, clock: HeldClock
) -> None:
    data = MemoryDatasets()
    data.add("patients", patients(30))
    training = CrampedTraining(times=3)
    trainer = Trainer.at(tmp_path, clock=clock, pace=PACE, training=training, data=data)
    job = await trainer.run(definition=PIPELINE)
    await trainer.worker.start()
    await eventually(lambda: bool(training.running))
    found = await trainer.job(job)
    assert (training.times, found.state, found.attempt, found.deaths) == (0, "running", 1, 0)
    await trainer.close()


async def test_no_more_jobs_run_at_once_than_allowed(tmp_path: Path, clock: HeldClock) -> None:
    training = EndlessTraining()
    data = MemoryDatasets()
    data.add("patients", patients(30))
    trainer = Trainer.at(tmp_path, clock=clock, pace=PACE, training=training, data=data)
    await trainer.worker.start()
    jobs = [await trainer.run(key=str(n), definition=PIPELINE) for n in range(3)]
    await eventually(lambda: bool(training.running))
    states = [(await trainer.job(job)).state for job in jobs]
    assert sorted(states) == ["queued", "queued", "running"]
    running = jobs[states.index("running")]
    await trainer.oversight.cancel(TENANT, running, "", "ann")
    await eventually(lambda: bool(training.running) and running not in str(training.running))
    await trainer.close()
