"""What served which model when, from which data, approved by whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from services.inference.core.deployments import Revision
from services.inference.core.rollout import Rollout


@dataclass(frozen=True, slots=True)
class Record:
    """A revision with the moment when the next one took over; None while it is in force."""

    revision: Revision
    until: datetime | None


@dataclass(frozen=True, slots=True)
class History:
    rollout: Rollout

    async def records(
        self, tenant: str, model: str = "", at: datetime | None = None
    ) -> list[Record]:
        """Of every model, oldest first; with `at`, only what was in force at that moment.

        Raises NotFoundError for a named model that was never deployed.
        """
        if model:
            models = [(await self.rollout.current(tenant, model)).model]
        else:
            models = [each.model for each in await self.rollout.deployments(tenant)]
        found: list[Record] = []
        for each in models:
            past = records_of(await self.rollout.history(tenant, each))
            found += past if at is None else in_force(past, at)
        return sorted(found, key=lambda each: (each.revision.at, each.revision.revision))


def records_of(history: Sequence[Revision]) -> list[Record]:
    ends = [revision.at for revision in history[1:]]
    return [Record(each, until) for each, until in zip(history, [*ends, None], strict=True)]


def in_force(records: Sequence[Record], at: datetime) -> list[Record]:
    """The last record that had begun by `at`; none before the first, nor of what served nothing."""
    begun = [record for record in records if record.revision.at <= at]
    return [record for record in begun[-1:] if record.revision.variants]
