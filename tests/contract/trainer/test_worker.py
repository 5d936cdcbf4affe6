"""A worker with real training processes: jobs end once, whatever is killed on the way."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import psutil
import pytest

from libs.common import flow
from libs.common.errors import NotFoundError, PreconditionError
from tests.support.eventually import eventually
from tests.support.training import LONG, TENANT, MemoryDatasets, Trainer, patients

COMPLETED = flow.TRAINING_COMPLETED.name
FAILED = flow.TRAINING_FAILED.name


def training_process() -> psutil.Process | None:
    """The one that a worker in this process has started."""
    children = psutil.Process().children(recursive=True)
    return next((child for child in children if _trains(child)), None)


def _trains(process: psutil.Process) -> bool:
    try:
        return "services.trainer.training" in process.cmdline()
    except psutil.Error:
        return False


async def test_a_job_completes_with_a_candidate_and_one_event(trainer: Trainer) -> None:
    await trainer.worker.start()
    job = await trainer.ended(await trainer.run())
    assert (job.state, job.failure, job.progress, job.attempt) == ("completed", "", 1.0, 1)
    assert job.metrics["accuracy"] > 0.85
    files = await trainer.files(job.id)
    assert next(iter(files)) == "manifest.json"
    assert sha256(files["manifest.json"]).hexdigest() == job.manifest_sha256
    manifest = json.loads(files["manifest.json"])
    for file in manifest["files"]:
        assert sha256(files[file["name"]]).hexdigest() == file["sha256"]
        assert len(files[file["name"]]) == file["size_bytes"]
    assert manifest["lineage"]["job"] == job.id
    assert await trainer.events(job.id) == [COMPLETED]
    (payload,) = [each.payload for each in (await trainer.history(job.id))[-1].outbox]
    event = flow.TRAINING_COMPLETED.event.model_validate_json(payload)
    assert event.model_dump()["author"] == "ann"
    assert event.model_dump()["manifest_sha256"] == job.manifest_sha256
    lines = await trainer.log(job.id)
    assert any("Kept by log_loss" in line for line in lines)
    await eventually(lambda: not (trainer.folder / "work-one" / TENANT / job.id).exists())


async def test_progress_is_watched_while_it_trains(trainer: Trainer) -> None:
    await trainer.worker.start()
    job = await trainer.run({"mlp.epochs": "300"})
    seen = [each async for each in trainer.oversight.watch(TENANT, job)]
    assert seen[0].state == "queued"
    assert "mlp" in {each.step for each in seen}
    assert [each.progress for each in seen] == sorted(each.progress for each in seen)


async def test_the_training_process_killed_twice_ends_as_if_undisturbed(trainer: Trainer) -> None:
    await trainer.worker.start()
    undisturbed = await trainer.ended(await trainer.run({"mlp.epochs": "400"}, "undisturbed"))
    job = await trainer.run({"mlp.epochs": "400"}, "disturbed")
    for _ in range(2):
        steps = trainer.oversight.watch(TENANT, job)
        before = (await trainer.job(job)).checkpoints
        async for seen in steps:
            if seen.step == "mlp" and seen.checkpoints != before:
                break
        await steps.aclose()  # pyright: ignore[reportAttributeAccessIssue]
        # What was seen may be of the process that was killed before.
        process = await eventually(training_process)
        process.kill()
    ended = await trainer.ended(job)
    assert (ended.state, ended.attempt) == ("completed", 1)
    models = [(await trainer.files(each))["model.onnx"] for each in (undisturbed.id, job)]
    assert models[0] == models[1]
    assert len([line for line in await trainer.log(job) if "was killed" in line]) == 2


async def test_cancelling_kills_the_process_and_is_final(trainer: Trainer) -> None:
    await trainer.worker.start()
    job = await trainer.run(LONG)
    process = await eventually(training_process, 20.0)
    assert process is not None
    await trainer.oversight.cancel(TENANT, job, "a mistake", "ann")
    await eventually(lambda: not process.is_running(), 5.0)
    await eventually(lambda: not trainer.worker.busy, 5.0)
    again = await trainer.oversight.cancel(TENANT, job, "again", "ann")
    assert again.state["failure"] == "Cancelled by ann: a mistake."
    types = [entry.type for entry in await trainer.history(job)]
    assert types.count("JobCancelled") == 1
    assert types[-1] == "JobCancelled"
    assert await trainer.events(job) == []
    with pytest.raises(PreconditionError, match="has no candidate"):
        await trainer.files(job)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"limits.time_s": "1"}, "time limit of 1 s"),
        ({"limits.memory_bytes": str(256 << 20)}, "memory limit"),
    ],
)
async def test_a_limit_ends_the_job_with_what_to_do(
    trainer: Trainer, parameters: dict[str, str], said: str
) -> None:
    await trainer.worker.start()
    job = await trainer.ended(await trainer.run(LONG | parameters))
    assert job.state == "failed"
    assert said in job.failure
    assert "Raise limits." in job.failure
    assert await trainer.events(job.id) == [FAILED]


async def test_bad_rows_end_the_job_with_what_is_wrong(trainer: Trainer) -> None:
    queued = await trainer.run()
    trainer.datasets.tables["patients", 1] = b"no parquet"
    await trainer.worker.start()
    job = await trainer.ended(queued)
    assert job.state == "failed"
    assert "Traceback" not in job.failure
    assert await trainer.events(job.id) == [FAILED]


async def test_a_stopped_worker_gives_its_job_back_at_once(trainer: Trainer) -> None:
    await trainer.worker.start()
    job = await trainer.run({"mlp.epochs": "400"})
    await eventually(lambda: _checkpointed(trainer, job), 60.0)
    await trainer.worker.stop()
    released = await trainer.job(job)
    assert released.state == "queued"
    assert released.checkpoints
    assert training_process() is None
    other = Trainer.at(trainer.folder, name="other", data=trainer.datasets)
    await other.worker.start()
    ended = await other.ended(job)
    assert (ended.state, ended.attempt) == ("completed", 2)
    assert any("going on from epoch" in line for line in await other.log(job))
    await other.close()


async def _checkpointed(trainer: Trainer, job: str) -> bool:
    return bool((await trainer.job(job)).checkpoints)


class Workers:
    """Workers in processes of their own, on the journal of one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.processes: dict[str, subprocess.Popen[str]] = {}

    async def start(self, name: str) -> None:
        arguments = [sys.executable, "-m", "tests.support.training", str(self._folder), name]
        process = await asyncio.to_thread(
            subprocess.Popen, arguments, stdout=subprocess.PIPE, text=True
        )
        self.processes[name] = process
        assert process.stdout is not None
        await asyncio.to_thread(process.stdout.readline)

    def signal(self, name: str, number: signal.Signals) -> None:
        os.kill(self.processes[name].pid, number)

    def child_of(self, name: str) -> psutil.Process | None:
        children = psutil.Process(self.processes[name].pid).children()
        return next(iter(children), None)

    def close(self) -> None:
        for process in self.processes.values():
            with process:
                process.kill()


@pytest.fixture
async def shared(tmp_path: Path) -> AsyncIterator[tuple[Trainer, Workers]]:
    """A journal that workers in other processes share, seen from here."""
    patients().write_parquet(tmp_path / "patients.parquet")
    data = MemoryDatasets()
    data.add("patients", patients())
    trainer, workers = Trainer.at(tmp_path, name="here", data=data), Workers(tmp_path)
    yield trainer, workers
    workers.close()
    await trainer.close()


async def test_a_zombie_worker_writes_nothing_after_another_took_over(
    shared: tuple[Trainer, Workers],
) -> None:
    """SIGSTOP, then SIGCONT after the other has taken the job: one completion, by the other."""
    trainer, workers = shared
    await workers.start("zombie")
    job = await trainer.run({"mlp.epochs": "600"})
    await eventually(lambda: _checkpointed(trainer, job), 60.0)
    workers.signal("zombie", signal.SIGSTOP)
    await workers.start("heir")
    await eventually(lambda: _held_by(trainer, job, "heir"), 30.0)
    child = workers.child_of("zombie")
    assert child is not None
    workers.signal("zombie", signal.SIGCONT)
    await eventually(lambda: not child.is_running(), 15.0, "the zombie kills its process")
    ended = await trainer.ended(job)
    assert (ended.state, ended.attempt) == ("completed", 2)
    history = await trainer.history(job)
    taken_over = next(n for n, entry in enumerate(history) if entry.state["worker"] == "heir")
    assert all("zombie" not in entry.cause for entry in history[taken_over:])
    assert await trainer.events(job) == [COMPLETED]
    files = await trainer.files(job)
    assert json.loads(files["manifest.json"])["lineage"]["job"] == job


async def _held_by(trainer: Trainer, job: str, worker: str) -> bool:
    return (await trainer.job(job)).worker == worker


async def test_a_killed_worker_is_followed_by_another_from_its_checkpoint(
    shared: tuple[Trainer, Workers],
) -> None:
    trainer, workers = shared
    await workers.start("first")
    job = await trainer.run({"mlp.epochs": "600"}, "cut")
    await eventually(lambda: _checkpointed(trainer, job), 60.0)
    child = workers.child_of("first")
    assert child is not None
    workers.signal("first", signal.SIGKILL)
    await workers.start("second")
    cut = await trainer.ended(job)
    assert not child.is_running()
    assert (cut.state, cut.attempt) == ("completed", 2)
    whole = await trainer.ended(await trainer.run({"mlp.epochs": "600"}, "whole"))
    models = [(await trainer.files(each))["model.onnx"] for each in (cut.id, whole.id)]
    assert models[0] == models[1]


async def test_another_tenants_job_is_not_there(trainer: Trainer) -> None:
    job = await trainer.run()
    with pytest.raises(NotFoundError):
        await trainer.oversight.entry("globex", job)
    with pytest.raises(NotFoundError):
        await trainer.oversight.cancel("globex", job, "", "eve")
    with pytest.raises(NotFoundError):
        await trainer.pipelines.get("globex", "tumours")
