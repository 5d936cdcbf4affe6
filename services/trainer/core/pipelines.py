"""Pipelines: put, found, listed. Each change is a revision, and old ones stay."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from libs.common.clock import Clock
from libs.common.errors import BasaltError, LimitError, NotFoundError
from libs.common.journal import Change, Journal, aggregate
from libs.common.paging import not_a_token
from libs.common.stores.ports import Entry
from services.trainer.core.pipeline import Data, Definition, PipelineState, Trigger, parse
from services.trainer.ports import Datasets

KIND = "pipeline"
# Whoever puts a pipeline waits no longer for ingest.
CHECK_S_MAX = 3.0
# Of one pipeline; each of them is in the manifest of every model that it trains.
WRITERS_MAX = 200


@dataclass(frozen=True, slots=True)
class Pipelines:
    journal: Journal
    clock: Clock
    datasets: Datasets

    async def put(
        self, tenant: str, definition_yaml: str, by: str, answerable: str = ""
    ) -> tuple[Entry, str]:
        """Whoever puts it owns it: jobs that events cause have them as author.

        `answerable` says who they are where `by` alone does not: a key's id. The same text again
        by the same person makes no new revision. Also answers why the columns could not be
        checked, if so. Raises InvalidInputError.
        """
        definition = parse(definition_yaml)
        warning = await self._unchecked(definition.data)
        state = PipelineState(
            name=definition.name,
            definition_yaml=definition_yaml,
            dataset=definition.data.dataset,
            model=definition.model.name,
            triggers=definition.triggers,
            owner=by,
        )

        async def decide(latest: Entry | None) -> Change | None:
            before = await self.writers(latest) if latest is not None else ()
            writers = _with(before, answerable or by, definition.name)
            written = state.model_copy(update={"writers": writers})
            if latest is not None and pipeline_of(latest) == written:
                return None
            return Change("PipelinePut", written.model_dump(mode="json"))

        entry = await self.journal.decide(
            aggregate(tenant, KIND, definition.name), self.clock.new_id(), by, decide
        )
        return entry, warning

    async def _unchecked(self, data: Data) -> str:
        """Why it cannot be told yet whether the dataset has the columns; "" when it has them.

        A pipeline may be there before its data, and while ingest is away: each run looks again.
        Raises InvalidInputError when a column is lacking or is of a type that cannot be used.
        """
        unchecked = f"The columns of {data.dataset} were not checked."
        try:
            async with asyncio.timeout(CHECK_S_MAX):
                columns = await self.datasets.columns(data.dataset)
        except TimeoutError:
            return f"{unchecked} ingest did not answer within {CHECK_S_MAX:g} s."
        except BasaltError as error:
            if not error.retryable:
                raise
            return f"{unchecked} {error.what}"
        if not columns.types:
            return (
                f"No source feeds the dataset {data.dataset} yet, so its columns were not checked."
                " `basalt source put` makes one; `basalt source list` shows those there are."
            )
        data.require_types(columns.types, data.dataset)
        # Only here: a column that is gone from a later version needs no leaving out.
        data.require_excluded_in(columns.types)
        return ""

    async def get(self, tenant: str, name: str) -> Entry:
        """Raises NotFoundError."""
        entry = await self.journal.latest(f"{tenant}/{KIND}/{name}")
        if entry is None:
            raise unknown(name)
        return entry

    async def writers(self, pipeline: Entry) -> tuple[str, ...]:
        """Everyone who wrote this revision or one before it: what they wrote may still be there."""
        if kept := pipeline_of(pipeline).writers:
            return kept
        earlier = await self.journal.history(pipeline.aggregate)
        owners = [pipeline_of(each).owner for each in earlier if each.version <= pipeline.version]
        return tuple(dict.fromkeys(owners))

    async def definition(self, tenant: str, name: str, revision: int) -> Definition:
        """As it was in that revision."""
        entries = await self.journal.store.history(f"{tenant}/{KIND}/{name}", revision - 1, 1)
        if not entries:
            raise unknown(name)
        return parse(pipeline_of(entries[0]).definition_yaml)

    async def page(self, tenant: str, after: str, size: int) -> list[Entry]:
        """Raises InvalidInputError for a token that is no pipeline's name."""
        last = f"{tenant}/{KIND}/{after}" if after else ""
        if last and await self.journal.latest(last) is None:
            raise not_a_token()
        return await self.journal.store.heads(KIND, tenant, last, size)

    async def triggered(
        self, tenant: str, trigger: Trigger, *, dataset: str = "", model: str = ""
    ) -> list[Entry]:
        """Pipelines of a dataset or for a model that want to run when this happens."""
        return [
            entry
            for entry in await self.journal.heads(KIND, tenant)
            if (state := pipeline_of(entry))
            and trigger in state.triggers
            and dataset in ("", state.dataset)
            and model in ("", state.model)
        ]


def pipeline_of(entry: Entry) -> PipelineState:
    return PipelineState.model_validate(entry.state)


def _with(writers: tuple[str, ...], another: str, pipeline: str) -> tuple[str, ...]:
    if another in writers:
        return writers
    if len(writers) >= WRITERS_MAX:
        raise LimitError(
            f"The pipeline {pipeline} was written by {WRITERS_MAX} people and keys, the most.",
            which="WRITERS_MAX",
            next_step="Put it under another name; keys that are kept longer make fewer writers.",
        )
    return (*writers, another)


def unknown(name: str) -> NotFoundError:
    return NotFoundError(
        f"There is no pipeline {name!r}.",
        which=name,
        next_step="Put it first: `basalt train put FILE.yaml`.",
    )
