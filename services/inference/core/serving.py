"""A revision as people see it: what was decided, and whether Triton is there yet."""

from __future__ import annotations

from dataclasses import dataclass

from services.inference.core.deployments import Revision
from services.inference.core.reconciler import Reconciler

# How long a change of a deployment is waited for before it is answered with what is missing.
SETTLE_S_MAX = 20.0


@dataclass(frozen=True, slots=True)
class Standing:
    """`ready`: the versions that answer. `problem`: what keeps the others from it."""

    revision: Revision
    ready: frozenset[int]
    problem: str


@dataclass(frozen=True, slots=True)
class Serving:
    reconciler: Reconciler

    def standing(self, revision: Revision) -> Standing:
        return Standing(revision, *self.reconciler.standing(revision))

    async def settled(self, revision: Revision, within_s: float = SETTLE_S_MAX) -> Standing:
        """When traffic follows it, or it turned out broken, or time is over."""
        await self.reconciler.settled(revision, min(within_s, SETTLE_S_MAX))
        return self.standing(revision)
