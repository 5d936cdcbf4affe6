"""What models and versions there are, and the aliases that name them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from libs.common.errors import InvalidInputError, NotFoundError
from libs.common.journal import Change, Journal
from libs.common.stores.ports import Entry
from services.inference.core import names, versions

ALIASES_MAX = 100


@dataclass(frozen=True, slots=True)
class Model:
    name: str
    latest_version: int
    aliases: dict[str, int]
    changed_at: datetime

    def aliases_of(self, version: int) -> list[str]:
        return sorted(alias for alias, number in self.aliases.items() if number == version)


@dataclass(frozen=True, slots=True)
class Catalogue:
    journal: Journal

    async def models(self, tenant: str) -> list[Model]:
        return [_model(entry) for entry in await self.journal.heads("model", tenant)]

    async def model(self, tenant: str, name: str) -> Model:
        """Raises NotFoundError."""
        entry = await self.journal.latest(names.model_aggregate(tenant, name))
        if entry is None:
            raise _no_model(name)
        return _model(entry)

    async def version(
        self, tenant: str, model: str, number: int = 0, alias: str = ""
    ) -> tuple[Entry, Model]:
        """The latest version, or the one numbered or named. Raises NotFoundError."""
        if number and alias:
            raise InvalidInputError(
                "A version's number and an alias were both given.",
                which=alias,
                next_step="Give one of them.",
            )
        found = await self.model(tenant, model)
        if alias and alias not in found.aliases:
            raise NotFoundError(
                f"The model {model} has no alias {alias}.",
                which=alias,
                next_step=f"It has: {', '.join(sorted(found.aliases)) or 'none'}.",
            )
        wanted = found.aliases[alias] if alias else number
        if wanted:
            return await versions.find(self.journal, tenant, model, wanted), found
        newest = await self.newest(tenant, found)
        if newest is None:
            raise versions.not_found(model, found.latest_version)
        return newest, found

    async def newest(self, tenant: str, model: Model) -> Entry | None:
        """The newest version; its number may be there before it: see registration.py."""
        for number in range(model.latest_version, 0, -1):
            entry = await self.journal.latest(names.version_aggregate(tenant, model.name, number))
            if entry is not None:
                return entry
        return None

    async def versions(self, tenant: str, model: Model, numbers: Sequence[int]) -> list[Entry]:
        """Those of `numbers` that there are."""
        aggregates = [names.version_aggregate(tenant, model.name, number) for number in numbers]
        entries = [await self.journal.latest(aggregate) for aggregate in aggregates]
        return [entry for entry in entries if entry is not None]

    async def set_alias(self, tenant: str, model: str, alias: str, number: int, by: str) -> Model:
        """Moves an alias to a version. Raises NotFoundError and InvalidInputError."""
        names.alias_name(alias)
        await self.model(tenant, model)
        await versions.find(self.journal, tenant, model, number)

        async def moved(latest: Entry | None) -> Change | None:
            if latest is None:
                raise _no_model(model)
            before = versions.numbering(latest)
            aliases = {**before.aliases, alias: number}
            if aliases == before.aliases:
                return None
            if len(aliases) > ALIASES_MAX:
                raise InvalidInputError(
                    f"{model} has {ALIASES_MAX} aliases already.",
                    which=model,
                    next_step="Move one of those it has.",
                )
            return Change("AliasMoved", before.model_copy(update={"aliases": aliases}).model_dump())

        aggregate = names.model_aggregate(tenant, model)
        return _model(await self.journal.decide(aggregate, None, by, moved))


def _model(entry: Entry) -> Model:
    known = versions.numbering(entry)
    return Model(
        name=entry.name,
        latest_version=known.latest_version,
        aliases=dict(known.aliases),
        changed_at=entry.at,
    )


def _no_model(name: str) -> NotFoundError:
    return NotFoundError(
        f"There is no model {name}.", which=name, next_step="`basalt model list` shows them."
    )
