"""A worker's hold on a job: the right to append its next version.

Whoever lost it (stopped, cut off, too slow) finds out by the next append, which collides. Time is
used only to suspect a silent holder, each observer by its own clock; never to decide who is right.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from libs.common.clock import Clock
from libs.common.events import Event
from libs.common.journal import Journal
from libs.common.stores.ports import CauseSeenError, Entry, VersionTakenError
from services.trainer.core.jobs import Job, change, job_of


class ClaimLostError(Exception):
    """Somebody else wrote the job's next version; `entry` is the latest. Stop, touch nothing."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(f"{entry.id} is {entry.type} by {entry.by}")
        self.entry = entry


@dataclass(slots=True)
class Claim:
    """Held by one worker for one attempt. `job` is as this holder last wrote it."""

    journal: Journal
    worker: str
    entry: Entry
    job: Job
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @classmethod
    async def take(cls, journal: Journal, clock: Clock, worker: str, entry: Entry) -> Claim:
        """Claims the job of `entry`, its latest. Raises ClaimLostError when another was first."""
        claim = cls(journal, worker, entry, job_of(entry))
        await claim.write("JobClaimed", claim.job.claimed(worker, clock.now()))
        return claim

    @property
    def next_cause(self) -> str:
        """The cause of this holder's next entry: its own, so a lost answer is recognised."""
        return f"{self.worker}/{self.entry.version + 1}"

    async def write(self, kind: str, job: Job, *events: Event) -> None:
        """Appends the next version. Raises ClaimLostError, or DependencyError when not known."""
        async with self._writing:
            while True:
                try:
                    self.entry = await self.journal.append(
                        self.entry.aggregate,
                        self.entry.version,
                        self.next_cause,
                        change(kind, job, *events),
                        f"service:trainer/{self.worker}",
                    )
                except CauseSeenError as seen:
                    self.entry = seen.entry
                    if seen.entry.type != kind:
                        continue
                except VersionTakenError as taken:
                    latest = await self.journal.latest(self.entry.aggregate)
                    raise ClaimLostError(latest or self.entry) from taken
                self.job = job_of(self.entry)
                return
