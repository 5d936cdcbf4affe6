"""What people ask of jobs: to find, follow and cancel them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from libs.common.clock import Clock
from libs.common.errors import PreconditionError
from libs.common.journal import Change, Journal
from libs.common.paging import not_a_token
from libs.common.stores.ports import Entry, ObjectStore
from services.trainer.core import joblog, jobs
from services.trainer.core.candidates import Candidates, Part
from services.trainer.core.jobs import Job, State, job_of
from services.trainer.core.queue import JobQueue, Place
from services.trainer.core.waiting import set_within

# Changes that another replica wrote are seen this late at the most.
POLL_S = 0.5
SCAN_ENTRIES = 200
REASON_CHARACTERS_MAX = 500


@dataclass(slots=True)
class Oversight:
    journal: Journal
    objects: ObjectStore
    clock: Clock
    queue: JobQueue
    _followers: dict[str, set[asyncio.Event]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.journal.listen(self._notice)

    def _notice(self, entry: Entry) -> None:
        for follower in self._followers.get(entry.aggregate, ()):
            follower.set()

    async def entry(self, tenant: str, job: str) -> Entry:
        """Raises NotFoundError."""
        entry = await self.journal.latest(f"{tenant}/{jobs.KIND}/{job}")
        if entry is None:
            raise jobs.unknown(job)
        return entry

    async def page(
        self, tenant: str, pipeline: str, state: State | None, after: str, size: int
    ) -> tuple[list[Job], str]:
        """Jobs by name, and the token of the next page ("" when there is none).

        Raises InvalidInputError for a token that no page with this `pipeline` ended with.
        """
        if after:
            shown = await self.journal.latest(f"{tenant}/{jobs.KIND}/{after}")
            if shown is None or pipeline not in ("", job_of(shown).pipeline):
                raise not_a_token()
        prefix = f"{tenant}/{jobs.KIND}/{pipeline}-v" if pipeline else f"{tenant}/{jobs.KIND}/"
        last = f"{tenant}/{jobs.KIND}/{after}" if after else prefix
        found: list[Job] = []
        while entries := await self.journal.store.heads(jobs.KIND, tenant, last, SCAN_ENTRIES):
            for entry in entries:
                last = entry.aggregate
                job = job_of(entry)
                if pipeline and not last.startswith(prefix):
                    return found, ""
                if (not pipeline or job.pipeline == pipeline) and state in (None, job.state):
                    found.append(job)
                if len(found) == size:
                    return found, entry.name
        return found, ""

    async def cancel(self, tenant: str, job: str, reason: str, by: str) -> Entry:
        """Its worker finds out by its next append, at once when it is in this process.

        Raises NotFoundError, or PreconditionError for a job that has ended otherwise.
        """
        now = self.clock.now()

        async def decide(latest: Entry | None) -> Change | None:
            if latest is None:
                raise jobs.unknown(job)
            current = job_of(latest)
            if current.state == "cancelled":
                return None
            if current.ended:
                raise PreconditionError(
                    f"The job {job} cannot be cancelled: it is {current.state}.",
                    which=job,
                    next_step="Nothing is left to do; a new run is a new job.",
                )
            why = reason[:REASON_CHARACTERS_MAX] or "no reason given"
            return jobs.change("JobCancelled", current.cancelled(f"Cancelled by {by}: {why}.", now))

        return await self.journal.decide(
            f"{tenant}/{jobs.KIND}/{job}", self.clock.new_id(), by, decide
        )

    def place(self, tenant: str, job: Job) -> Place | None:
        """Where in the queue a job is that waits; None where that is not known."""
        return self.queue.place(tenant, job)

    async def watch(self, tenant: str, job: str) -> AsyncIterator[Job]:
        """The job now and at each change of it or of its place, until it has ended."""
        async for entry in self._entries(tenant, job):
            yield job_of(entry)

    async def follow_log(self, tenant: str, job: str) -> AsyncIterator[joblog.Line]:
        """The lines of every attempt, then new ones until the job has ended."""
        attempt, number = 1, 0
        async for entry in self._entries(tenant, job):
            current = job_of(entry)
            while attempt <= current.attempt:
                async for line in joblog.read(self.objects, tenant, job, attempt, number):
                    number = line.number
                    yield line
                if attempt == current.attempt:
                    break
                attempt, number = attempt + 1, 0

    async def candidate(self, tenant: str, job: str) -> AsyncIterator[Part]:
        entry = await self.entry(tenant, job)
        async for part in Candidates(self.objects).read(tenant, job_of(entry)):
            yield part

    async def _entries(self, tenant: str, job: str) -> AsyncIterator[Entry]:
        """The latest entry, then each later one that is seen; ends after the job's last.

        One whose place in the queue changed comes once more.
        """
        entry = await self.entry(tenant, job)
        changed = asyncio.Event()
        followers = self._followers.setdefault(entry.aggregate, set())
        followers.add(changed)
        try:
            seen: tuple[int, Place | None] = (0, None)
            while True:
                changed.clear()
                entry = await self.entry(tenant, job)
                current = job_of(entry)
                found = entry.version, self.place(tenant, current)
                if found != seen:
                    seen = found
                    yield entry
                if current.ended:
                    return
                await set_within(changed, POLL_S)
        finally:
            followers.discard(changed)
            if not followers:
                self._followers.pop(entry.aggregate, None)
