"""Takes queued jobs, and those whose worker fell silent, as many at once as it may."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

import structlog

from libs.common import telemetry
from libs.common.errors import BasaltError
from libs.common.identity import acting_for
from libs.common.journal import Journal
from libs.common.runtime import ended, lasting
from libs.common.stores.ports import Entry
from services.trainer.core import jobs
from services.trainer.core.attempt import Attempt, Tools
from services.trainer.core.claims import Claim, ClaimLostError
from services.trainer.core.queue import JobQueue
from services.trainer.core.waiting import set_within

# A job that so many workers died of is given up: it may be what kills them.
DEATHS_MAX = 10
# Looking through the journal takes at most this share of the worker's time.
LOOKING_SHARE_MAX = 0.05

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Worker:
    """One a process. `worker` is its name in the journal, new with each start of the process."""

    journal: Journal
    queue: JobQueue
    tools: Tools
    worker: str
    jobs_at_once: int
    name: str = "worker"
    problem: str = ""
    _attempts: dict[str, Attempt] = field(default_factory=dict)
    _tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _loop: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:
        return bool(self._tasks)

    @property
    def attempts(self) -> list[Attempt]:
        return list(self._attempts.values())

    def knows(self, aggregate: str, version: int = 0) -> bool:
        """Whether it has seen that job, in that version or a later one."""
        known = self.queue.known(aggregate)
        return known is not None and known.entry.version >= version

    async def start(self) -> None:
        self.journal.listen(self._notice)
        self._loop = lasting(self._run(), "worker")

    async def stop(self) -> None:
        """Kills the training processes; their jobs go back into the queue."""
        tasks = [*self._tasks.values()]
        for task in tasks:
            task.cancel()
        await ended(self._loop)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _notice(self, entry: Entry) -> None:
        """An entry that this process appended: a job to take, or one taken from us."""
        if entry.kind != jobs.KIND:
            return
        attempt = self._attempts.get(entry.aggregate)
        if attempt is not None and entry.cause != attempt.claim.next_cause:
            attempt.wake()
        self._wake.set()

    async def _run(self) -> None:
        look_at_s = 0.0
        while True:
            self._wake.clear()
            try:
                now_s = self.tools.clock.monotonic()
                if now_s >= look_at_s:
                    await self.queue.look()
                    took_s = self.tools.clock.monotonic() - now_s
                    look_at_s = now_s + max(self.tools.pace.poll_s, took_s / LOOKING_SHARE_MAX)
                await self._take()
                self.problem = ""
            except Exception as error:
                # Whatever it is, jobs must be taken again once it has passed.
                self.problem = f"No jobs are taken: {error}"
                known = isinstance(error, BasaltError)
                log.warning("worker_failed", error=str(error), exc_info=not known)
            await set_within(self._wake, self.tools.pace.poll_s)

    async def _take(self) -> None:
        for each in self.queue.next(self.tools.pace.lease_s):
            if len(self._tasks) >= self.jobs_at_once:
                return
            if each.entry.aggregate not in self._tasks:
                await self._claim(each.entry)

    async def _claim(self, entry: Entry) -> None:
        try:
            claim = await Claim.take(self.journal, self.tools.clock, self.worker, entry)
        except ClaimLostError as lost:
            self.queue.see(lost.entry)
            return
        attempt = Attempt(self.tools, claim)
        task = asyncio.create_task(self._attempt(attempt), name=f"job {claim.job.id}")
        self._attempts[entry.aggregate], self._tasks[entry.aggregate] = attempt, task
        task.add_done_callback(lambda _: self._done(entry.aggregate))

    def _done(self, aggregate: str) -> None:
        self._attempts.pop(aggregate, None)
        self._tasks.pop(aggregate, None)
        self._wake.set()

    async def _attempt(self, attempt: Attempt) -> None:
        entry, job = attempt.claim.entry, attempt.claim.job
        log.info("job_claimed", job=job.id, tenant=entry.tenant, attempt=job.attempt)
        with (
            acting_for(entry.tenant),
            telemetry.span(
                "train job",
                under=job.traceparent,
                basalt_tenant=entry.tenant,
                basalt_job=job.id,
                basalt_model=job.model,
            ),
        ):
            try:
                if job.deaths >= DEATHS_MAX:
                    await attempt.give_up(f"{DEATHS_MAX} workers died while they ran this job.")
                else:
                    await attempt.run()
            except ClaimLostError as lost:
                log.info("claim_lost", job=job.id, to=lost.entry.type, version=lost.entry.version)
            except BasaltError as error:
                log.warning("job_not_settled", job=job.id, error=str(error))
                if error.retryable:
                    # What was away may be back: the job is as it was before.
                    with contextlib.suppress(ClaimLostError, BasaltError):
                        await attempt.release()
            except Exception:
                log.exception("attempt_failed", job=job.id)
                with contextlib.suppress(ClaimLostError, BasaltError):
                    await attempt.give_up("The trainer failed on this job; its log has the trace.")
