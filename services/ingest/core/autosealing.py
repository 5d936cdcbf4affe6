"""Seals a dataset by itself, where its contract says after how many rows."""

from __future__ import annotations

from dataclasses import dataclass, field

from libs.common.errors import BasaltError
from libs.common.journal import Journal
from services.ingest.core.datasets import Datasets
from services.ingest.core.intake import BY
from services.ingest.core.sources import KIND, Sources

# Every source is looked at this often, should a notice have been lost with a process.
LOOK_S = 30.0


@dataclass(slots=True)
class Autosealing:
    journal: Journal
    sources: Sources
    datasets: Datasets
    _noticed: set[tuple[str, str]] = field(default_factory=set)

    def notice(self, tenant: str, source: str) -> None:
        """Something was taken in: `look` at it next."""
        self._noticed.add((tenant, source))

    async def look(self) -> None:
        """Seals what is due of what was noticed; of everything when nothing was."""
        noticed, self._noticed = self._noticed, set()
        if not noticed:
            heads = await self.journal.heads(KIND)
            noticed = {(entry.tenant, entry.name) for entry in heads}
        failures: list[BasaltError] = []
        for tenant, source in sorted(noticed):
            try:
                await self._seal_if_due(tenant, source)
            except BasaltError as error:
                failures.append(error)
        if failures:
            # The others were looked at; these are again, in the round that looks at everything.
            raise failures[0]

    async def _seal_if_due(self, tenant: str, source: str) -> None:
        every_rows = (await self.sources.terms(tenant, source)).contract.versioning.every_rows
        if every_rows is None:
            return
        if await self.datasets.rows_unsealed(tenant, source) >= every_rows:
            latest = await self.datasets.latest_number(tenant, source)
            # Two replicas that see the same need have the same cause, and so one effect.
            await self.datasets.seal(tenant, source, f"every-rows/{latest + 1}", BY)
