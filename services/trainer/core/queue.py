"""What is to be trained, of all tenants, and whose turn is next.

What other processes queue, claim and end is seen when the journal is looked through; so the place
of a job is that of this process' knowledge, and a moment old.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from libs.common.clock import Clock
from libs.common.errors import LimitError
from libs.common.fair import Turns
from libs.common.journal import Journal
from libs.common.stores.ports import Entry
from services.trainer.core import jobs
from services.trainer.core.jobs import Job, job_of

# Of one tenant, by request; what events cause is queued all the same.
TENANT_QUEUED_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Open:
    """A job that has not ended: its latest entry, and when this process first saw that version."""

    entry: Entry
    job: Job
    # By this process' own monotonic clock.
    seen_s: float


@dataclass(frozen=True, slots=True)
class Place:
    """1 is next. `others` of those before it are of other tenants; whose they are is not told."""

    number: int
    others: int


@dataclass(slots=True)
class JobQueue:
    """The jobs that are not over. `running_max` of one tenant run at a time; 0: as many as may."""

    journal: Journal
    clock: Clock
    shares: Mapping[str, float] = field(default_factory=dict[str, float])
    running_max: int = 0
    _open: dict[str, Open] = field(default_factory=dict[str, Open])
    _turns: Turns = field(init=False)
    # Counted when first asked for after a change.
    _places: dict[str, Place] | None = None

    def __post_init__(self) -> None:
        self._turns = Turns(self.shares)
        self.journal.listen(self._notice)

    def _notice(self, entry: Entry) -> None:
        if entry.kind == jobs.KIND:
            self.see(entry)

    async def look(self) -> None:
        """Sees what other processes queued, claimed or ended."""
        for entry in await self.journal.heads(jobs.KIND):
            self.see(entry)

    def see(self, entry: Entry) -> None:
        known = self._open.get(entry.aggregate)
        if known is not None and known.entry.version >= entry.version:
            return
        job = job_of(entry)
        ran = known is not None and known.job.state == "running"
        if job.state == "running" and not ran:
            self._turns.took(entry.tenant)
        if job.ended:
            self._open.pop(entry.aggregate, None)
        else:
            self._open[entry.aggregate] = Open(entry, job, self.clock.monotonic())
        self._places = None

    def known(self, aggregate: str) -> Open | None:
        return self._open.get(aggregate)

    def next(self, lease_s: float) -> list[Open]:
        """What may be taken, in the order of turns: queued, or its worker silent for a lease."""
        now_s = self.clock.monotonic()
        running = Counter(each.entry.tenant for each in self._open.values() if _runs(each))
        return self._in_turns(
            each
            for each in self._open.values()
            if (now_s - each.seen_s > lease_s if _runs(each) else True)
            and (_runs(each) or not 0 < self.running_max <= running[each.entry.tenant])
        )

    def place(self, tenant: str, job: Job) -> Place | None:
        """None for a job that does not wait, or that this process has not seen yet."""
        if job.state != "queued":
            return None
        if self._places is None:
            self._places = self._counted()
        return self._places.get(f"{tenant}/{jobs.KIND}/{job.id}")

    def require_room(self, tenant: str) -> None:
        """Raises LimitError for a tenant that has queued as much as it may."""
        queued = sum(
            each.entry.tenant == tenant and not _runs(each) for each in self._open.values()
        )
        if queued >= TENANT_QUEUED_MAX:
            raise LimitError(
                f"{queued} jobs of your tenant wait, where {TENANT_QUEUED_MAX} is the most.",
                which="TENANT_QUEUED_MAX",
                next_step="Wait until some are over, or cancel some: `basalt train jobs`.",
            )

    def _counted(self) -> dict[str, Place]:
        ordered = self._in_turns(each for each in self._open.values() if not _runs(each))
        before: Counter[str] = Counter()
        places: dict[str, Place] = {}
        for number, each in enumerate(ordered, 1):
            tenant = each.entry.tenant
            places[each.entry.aggregate] = Place(number, number - 1 - before[tenant])
            before[tenant] += 1
        return places

    def _in_turns(self, found: Iterable[Open]) -> list[Open]:
        first_come = sorted(found, key=_came)
        return self._turns.order((each.entry.tenant, each) for each in first_come)


def _came(each: Open) -> tuple[datetime, str]:
    """Alike in every process, also for jobs that one event queued."""
    return each.job.queued_at, each.entry.aggregate


def _runs(each: Open) -> bool:
    return each.job.state == "running"
