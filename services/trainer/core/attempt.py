"""One worker's attempt at one job: fetch, train in a process, keep what came of it.

While the process trains, a heart beats beside it: it appends progress, which keeps the claim, and
stores checkpoints, from which another worker can go on. When the claim is lost everything stops.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TypeVar

import structlog

from libs.common import telemetry
from libs.common.clock import Clock
from libs.common.errors import BasaltError, DependencyError, IntegrityError
from libs.common.stores.ports import ObjectStore
from services.trainer.core import jobs
from services.trainer.core.candidates import Candidates
from services.trainer.core.claims import Claim, ClaimLostError
from services.trainer.core.joblog import JobLog
from services.trainer.core.jobs import Job
from services.trainer.core.order import DATA_FILE, ORDER_FILE, Order
from services.trainer.core.pipeline import Definition, with_parameters
from services.trainer.core.pipelines import Pipelines
from services.trainer.core.waiting import set_within
from services.trainer.ports import (
    Checkpointed,
    Datasets,
    DatasetVersion,
    Exited,
    Finished,
    Logged,
    Measured,
    Message,
    Place,
    ProcessLimits,
    Progressed,
    Refused,
    Training,
    Workplace,
)

CHECKPOINTS_KIND = "checkpoints"
# A process that was killed from outside goes on from its checkpoint this often in one attempt.
RESTARTS_MAX = 8
# A dependency that is out of reach (ingest, the object store) is waited for until it is back, which
# costs the job nothing; what else may pass (a limit) is tried again for this long.
LIMIT_WAIT_S_MAX = 600.0
TRY_AGAIN_S = 0.2
TRY_AGAIN_S_MAX = 5.0

T = TypeVar("T")
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """How a worker paces itself, in seconds."""

    # A running job whose journal entry does not change for this long is taken over.
    lease_s: float = 15.0
    beat_s: float = 2.0
    # How often a look is taken at jobs that other processes queued.
    poll_s: float = 2.0
    checkpoint_every_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Tools:
    """What attempts work with; the same for all of them."""

    clock: Clock
    pipelines: Pipelines
    datasets: Datasets
    objects: ObjectStore
    workplace: Workplace
    training: Training
    pace: Pace


@dataclass(frozen=True, slots=True)
class Outcome:
    """`failure` is empty when there is a candidate."""

    manifest_sha256: str = ""
    failure: str = ""


@dataclass(slots=True)
class Attempt:
    tools: Tools
    claim: Claim
    _log: JobLog = field(default_factory=JobLog)
    _progress: Progressed = field(default_factory=lambda: Progressed("preparing", 0.0))
    _metrics: dict[str, float] = field(default_factory=dict)
    _new_checkpoints: set[str] = field(default_factory=set)
    _training_since: float | None = None
    _elapsed_s: float = 0.0
    _finished: bool = False
    _refused: Refused | None = None
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def _tenant(self) -> str:
        return self.claim.entry.tenant

    def wake(self) -> None:
        """Beats now: somebody else may have written to the job."""
        self._wake.set()

    async def run(self) -> None:
        """Ends with the job's last entry, or raises ClaimLostError having killed the process."""
        job = self.claim.job
        self._elapsed_s = job.elapsed_s
        self._progress = Progressed("preparing", job.progress)
        place = await self.tools.workplace.prepare(self._tenant, job.id, job.attempt)
        try:
            outcome = await self._with_heart(place)
            if outcome.failure:
                self._say(outcome.failure)
            await self._save_log()
            await self._settle(outcome)
        except asyncio.CancelledError:
            await self._release(place)
            raise
        finally:
            await place.remove()

    async def _with_heart(self, place: Place) -> Outcome:
        work = asyncio.create_task(self._work(place), name="attempt-work")
        heart = asyncio.create_task(self._beat(place), name="attempt-heart")
        try:
            await asyncio.wait({work, heart}, return_when=asyncio.FIRST_COMPLETED)
            if heart.done():
                heart.result()  # A heart ends only by an error: the claim is lost.
            return await work
        finally:
            for task in (work, heart):
                task.cancel()
            await asyncio.gather(work, heart, return_exceptions=True)

    # The work.

    async def _work(self, place: Place) -> Outcome:
        try:
            definition = await self._prepare(place)
            exited = Exited(code=1)
            for restart in range(RESTARTS_MAX + 1):
                if restart:
                    self._say(f"The process was killed; going on from its checkpoint ({restart}).")
                exited = await self._train_patiently(place, definition)
                if exited.over or exited.code >= 0 or self._finished:
                    break
            if self._finished:
                candidates = Candidates(self.tools.objects)
                job = self.claim.job
                manifest = await self._patiently(lambda: candidates.keep(self._tenant, job, place))
                return Outcome(manifest_sha256=manifest)
            return Outcome(failure=_failure(exited, self._refused, definition))
        except BasaltError as error:
            return Outcome(failure=str(error))

    async def _prepare(self, place: Place) -> Definition:
        job, tools = self.claim.job, self.tools
        definition = with_parameters(
            await self._patiently(
                lambda: tools.pipelines.definition(
                    self._tenant, job.pipeline, job.pipeline_revision
                )
            ),
            job.parameters,
        )
        columns = await self._patiently(lambda: tools.datasets.columns(job.dataset))
        version = DatasetVersion(job.dataset, job.dataset_version, job.dataset_manifest_sha256)
        self._say(f"Fetching version {job.dataset_version} of {job.dataset}.")
        await self._patiently(lambda: place.write(DATA_FILE, tools.datasets.read(version)))
        for file, sha256 in job.checkpoints.items():
            await self._patiently(lambda f=file, s=sha256: self._restore(place, f, s))
        order = Order.of(job, definition, columns, tools.pace.checkpoint_every_s)
        await place.write(ORDER_FILE, _whole(order.model_dump_json().encode()))
        return definition

    async def _restore(self, place: Place, file: str, sha256: str) -> None:
        found = await place.write(file, self.tools.objects.read(self._checkpoint_key(sha256)))
        if found != sha256:
            raise IntegrityError(
                f"The checkpoint {file} is not what was stored: its SHA-256 is {found[:12]}….",
                which=file,
                next_step="Run the pipeline again: it begins anew.",
            )

    async def _train_patiently(self, place: Place, definition: Definition) -> Exited:
        """Trains again, from its checkpoint, while what it is refused for passes."""
        pause_s = TRY_AGAIN_S
        while True:
            exited = await self._train(place, definition)
            refused = self._refused
            if refused is None or not refused.passes or exited.over:
                return exited
            self._refused = None
            self._wait_for(refused.which, f"{refused.what} {refused.next_step}")
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, TRY_AGAIN_S_MAX)

    async def _train(self, place: Place, definition: Definition) -> Exited:
        limits = ProcessLimits(
            time_s=max(definition.limits.time_s - self._elapsed(), 0.0),
            memory_bytes=definition.limits.memory_bytes,
            threads=definition.limits.threads,
        )
        traceparent = telemetry.traceparent()
        self._training_since = self.tools.clock.monotonic()
        exited = Exited(code=1)
        try:
            async with aclosing(self.tools.training.run(place, limits, traceparent)) as messages:
                async for message in messages:
                    self._take(message)
                    if isinstance(message, Exited):
                        exited = message
        finally:
            self._elapsed_s, self._training_since = self._elapsed(), None
        return exited

    def _take(self, message: Message) -> None:
        match message:
            case Progressed():
                self._progress = message
            case Measured(metrics):
                self._metrics |= metrics
            case Logged(line):
                self._say(line)
            case Checkpointed(file):
                self._new_checkpoints.add(file)
            case Finished(metrics):
                self._metrics, self._finished = dict(metrics), True
            case Refused():
                self._refused = message
            case Exited(code, over, resident):
                limit = f", over its limit of {over}" if over else ""
                self._say(f"The process ended: code {code}, {resident >> 20} MiB{limit}.")

    def _say(self, line: str) -> None:
        self._log.add(self.tools.clock.now(), line)

    def _elapsed(self) -> float:
        since = self._training_since
        running_s = 0.0 if since is None else self.tools.clock.monotonic() - since
        return self._elapsed_s + running_s

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Asks again while what is asked cannot be reached; the job says what it waits for."""
        give_up_at = self.tools.clock.monotonic() + LIMIT_WAIT_S_MAX
        pause_s = TRY_AGAIN_S
        while True:
            try:
                return await ask()
            except BasaltError as error:
                late = self.tools.clock.monotonic() > give_up_at
                if not error.retryable or (late and not isinstance(error, DependencyError)):
                    raise
                self._wait_for(error.which, str(error))
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, TRY_AGAIN_S_MAX)

    def _wait_for(self, which: str, why: str) -> None:
        self._say(f"Waiting: {why}")
        self._progress = Progressed(f"{jobs.WAITING}{which}", self._progress.fraction)

    # The heart.

    async def _beat(self, place: Place) -> None:
        while True:
            await set_within(self._wake, self.tools.pace.beat_s)
            self._wake.clear()
            try:
                await self._report(place)
            except BasaltError as error:
                # The claim holds until somebody takes it; that shows when the journal is back.
                log.warning("beat_failed", job=self.claim.job.id, error=str(error))

    async def _report(self, place: Place) -> None:
        await self._save_log()
        earlier = set(self.claim.job.checkpoints.values())
        progressed = await self._progressed(place)
        await self.claim.write("JobProgressed", progressed)
        # Only now does nobody need the older ones: a refused write has deleted nothing.
        await self._forget(earlier - set(progressed.checkpoints.values()))

    async def _progressed(self, place: Place) -> Job:
        job = self.claim.job
        return job.model_copy(
            update={
                "progress": round(self._progress.fraction, 4),
                "step": self._progress.step,
                "metrics": dict(self._metrics),
                "elapsed_s": round(self._elapsed(), 3),
                "checkpoints": {**job.checkpoints, **await self._store_checkpoints(place)},
            }
        )

    async def _save_log(self) -> None:
        job = self.claim.job
        try:
            await self._log.save(self.tools.objects, self._tenant, job.id, job.attempt)
        except BasaltError as error:
            # The lines are kept for the next time; the claim must not wait for them.
            log.warning("job_log_not_saved", job=job.id, error=str(error))

    async def _store_checkpoints(self, place: Place) -> dict[str, str]:
        stored: dict[str, str] = {}
        for file in sorted(self._new_checkpoints):
            self._new_checkpoints.discard(file)
            try:
                # The process may write the next one meanwhile, so a snapshot is what is stored.
                snapshot = await place.snapshot(file)
                sha256 = await place.sha256(snapshot)
                await self.tools.objects.put_stream(
                    self._checkpoint_key(sha256), place.read(snapshot)
                )
            except BasaltError as error:
                self._new_checkpoints.add(file)
                log.warning("checkpoint_not_stored", job=self.claim.job.id, error=str(error))
                break
            stored[file] = sha256
        return stored

    async def _forget(self, digests: set[str]) -> None:
        for sha256 in digests:
            await self.tools.objects.delete(self._checkpoint_key(sha256))

    def _checkpoint_key(self, sha256: str) -> str:
        return f"{self._tenant}/{CHECKPOINTS_KIND}/{self.claim.job.id}/{sha256}"

    # The end.

    async def give_up(self, failure: str) -> None:
        """Ends the job as failed without another try."""
        await self._settle(Outcome(failure=failure))

    async def release(self) -> None:
        """Puts the job back into the queue as it is."""
        await self.claim.write("JobReleased", self.claim.job.released())

    async def _settle(self, outcome: Outcome) -> None:
        """Writes how it ended, with its event, until the journal has it or the claim is lost."""
        now, job = self.tools.clock.now(), self.claim.job
        checkpoints = set(job.checkpoints.values())
        event_id = f"{self.claim.entry.aggregate}/ended"
        measured = job.model_copy(update={"elapsed_s": round(self._elapsed(), 3)})
        if outcome.failure:
            ended = measured.failed(outcome.failure, now)
            kind, event = "JobFailed", jobs.training_failed(ended, event_id, self._tenant, now)
        else:
            ended = measured.completed(outcome.manifest_sha256, self._metrics, now)
            kind = "JobCompleted"
            event = jobs.training_completed(ended, event_id, self._tenant, now)
        await self._patiently(lambda: self.claim.write(kind, ended, event))
        with contextlib.suppress(BasaltError):
            await self._forget(checkpoints)

    async def _release(self, place: Place) -> None:
        """On shutdown: the job goes back into the queue, with its latest checkpoints."""
        with contextlib.suppress(BasaltError, ClaimLostError):
            progressed = await self._progressed(place)
            await self.claim.write("JobReleased", progressed.released())


def _failure(exited: Exited, refused: Refused | None, definition: Definition) -> str:
    limits = definition.limits
    if exited.over == "time":
        return (
            f"Training passed its time limit of {limits.time_s:g} s."
            " Raise limits.time_s in the pipeline, or let it do less."
        )
    if exited.over == "memory":
        return (
            f"Training passed its memory limit: {exited.resident_bytes_max >> 20} MiB of"
            f" {limits.memory_bytes >> 20} MiB."
            " Raise limits.memory_bytes in the pipeline, or use a smaller model or batch."
        )
    if refused is not None:
        about = f" ({refused.which})" if refused.which and refused.which not in refused.what else ""
        return f"{refused.what}{about} {refused.next_step}".strip()
    if exited.code < 0:
        return (
            f"The training process was killed {RESTARTS_MAX + 1} times, by signal"
            f" {-exited.code} at last. Look at the machine: it may lack memory."
        )
    return (
        f"The training process ended with code {exited.code}."
        " Read the job's log: `basalt train log`."
    )


async def _whole(content: bytes) -> AsyncIterator[bytes]:
    yield content
