"""The changes of a deployment, each one new revision, and what serves at this moment."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from libs.common.clock import Clock
from libs.common.errors import PreconditionError
from libs.common.events import DeployedVariant, DeploymentChanged
from libs.common.journal import Change, Journal
from libs.common.stores.ports import Entry
from services.inference.core import deployments, names, versions
from services.inference.core.deployments import Action, Revision, Variant
from services.inference.core.versions import ModelVersion


class Readiness(Protocol):
    async def prepare(self, tenant: str, model: str, numbers: frozenset[int]) -> None:
        """Returns when all of these versions can serve; raises what keeps one of them from it."""
        ...


# What a decision makes of the revision in force: an action with its variants, or None to stay.
Decide = Callable[[Revision | None], Awaitable[tuple[Action, tuple[Variant, ...]] | None]]


@dataclass(frozen=True, slots=True)
class Rollout:
    """`by` is who asks, for the history.

    Each change answers the revision in force, and whether another call made it before: what
    changes nothing makes no revision, and its reason is not kept. Nor is a revision made of what
    cannot serve: it is verified and loaded first.
    """

    journal: Journal
    clock: Clock
    readiness: Readiness

    async def deploy(
        self,
        tenant: str,
        model: str,
        number: int,
        *,
        weight: int,
        expected_revision: int,
        reason: str,
        by: str,
    ) -> tuple[Revision, bool]:
        weight = deployments.checked_weight(weight)
        version = await self._version(tenant, model, number)

        async def decide(current: Revision | None) -> tuple[Action, tuple[Variant, ...]]:
            in_force = current.revision if current else 0
            if expected_revision not in (0, in_force):
                raise PreconditionError(
                    f"{model} is at revision {in_force}, not {expected_revision}: somebody "
                    "changed it meanwhile.",
                    which=model,
                    next_step="Look at it again (`basalt deploy list`), then decide anew.",
                )
            stable = None
            if current is not None and current.variants:
                stable = await self._version(tenant, model, current.variants[0].version)
            return deployments.deployed(current, version, stable, weight)

        return await self._change(tenant, model, reason, by, decide)

    async def promote(
        self, tenant: str, model: str, *, reason: str, by: str
    ) -> tuple[Revision, bool]:
        async def decide(current: Revision | None) -> tuple[Action, tuple[Variant, ...]] | None:
            if current is None:
                raise deployments.never_deployed(model)
            variants = deployments.promoted(current)
            return None if variants is None else ("promote", variants)

        return await self._change(tenant, model, reason, by, decide)

    async def roll_back(
        self, tenant: str, model: str, *, to_revision: int, reason: str, by: str
    ) -> tuple[Revision, bool]:
        async def decide(current: Revision | None) -> tuple[Action, tuple[Variant, ...]]:
            if current is None:
                raise deployments.never_deployed(model)
            past = await self.history(tenant, model)
            # Entries may have come since `current` was read; then its append will collide.
            past = [each for each in past if each.revision <= current.revision]
            return "rollback", deployments.rollback_target(past, to_revision).variants

        return await self._change(tenant, model, reason, by, decide)

    async def undeploy(
        self, tenant: str, model: str, *, reason: str, by: str
    ) -> tuple[Revision, bool]:
        async def decide(current: Revision | None) -> tuple[Action, tuple[Variant, ...]]:
            if current is None:
                raise deployments.never_deployed(model)
            return "undeploy", ()

        return await self._change(tenant, model, reason, by, decide)

    async def current(self, tenant: str, model: str) -> Revision:
        """Raises NotFoundError for a model that was never deployed."""
        entry = await self.journal.latest(names.deployment_aggregate(tenant, model))
        if entry is None:
            raise deployments.never_deployed(model)
        return deployments.of(entry)

    async def history(self, tenant: str, model: str) -> list[Revision]:
        """Oldest first."""
        entries = await self.journal.history(names.deployment_aggregate(tenant, model))
        return [deployments.of(entry) for entry in entries]

    async def deployments(self, tenant: str) -> list[Revision]:
        """The revision in force of each model that was ever deployed."""
        return [deployments.of(entry) for entry in await self.journal.heads("deployment", tenant)]

    async def _version(self, tenant: str, model: str, number: int) -> ModelVersion:
        return versions.of(await versions.find(self.journal, tenant, model, number))

    async def _change(
        self, tenant: str, model: str, reason: str, by: str, decide: Decide
    ) -> tuple[Revision, bool]:
        cause = self.journal.this_call()
        aggregate = names.deployment_aggregate(tenant, model)

        async def change(latest: Entry | None) -> Change | None:
            current = deployments.of(latest) if latest else None
            decided = await decide(current)
            if decided is None or (current is not None and decided[1] == current.variants):
                return None
            asked = frozenset(variant.version for variant in decided[1])
            await self.readiness.prepare(tenant, model, asked)
            return self._changed(aggregate, current, *decided, reason, by)

        revision = deployments.of(await self.journal.decide(aggregate, cause, by, change))
        return revision, revision.cause != cause

    def _changed(
        self,
        aggregate: str,
        current: Revision | None,
        action: Action,
        variants: tuple[Variant, ...],
        reason: str,
        by: str,
    ) -> Change:
        tenant, _, model = aggregate.split("/", 2)
        revision = (current.revision if current else 0) + 1
        event = DeploymentChanged(
            id=f"{aggregate}/{revision}",
            tenant=tenant,
            at=self.clock.now(),
            model=model,
            revision=revision,
            action=action,
            variants=tuple(
                DeployedVariant(
                    version=each.version,
                    manifest_sha256=each.manifest_sha256,
                    weight=each.weight,
                )
                for each in variants
            ),
            by=by,
        )
        state = deployments.Deployed(action=action, reason=reason, variants=variants)
        return Change(f"Deployment{action.capitalize()}", state.model_dump(mode="json"), [event])
