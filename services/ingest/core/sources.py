"""Sources: a data contract each, a topic that upstream systems publish to, and its counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from libs.common import flow
from libs.common.clock import Clock
from libs.common.errors import InvalidInputError, NotFoundError
from libs.common.journal import Change, Journal, aggregate
from libs.common.stores.ports import Entry
from services.ingest.core import contract as contracts
from services.ingest.core.contract import Contract
from services.ingest.core.sealed import Sealed
from services.ingest.core.streams import Streams
from services.ingest.core.validation import Checker
from services.ingest.ports import Stream, UpstreamTopics

KIND = "source"
CONTRACTS_CACHED_MAX = 1_000


class SourceState(BaseModel):
    model_config = ConfigDict(frozen=True)

    contract_yaml: str


@dataclass(frozen=True, slots=True)
class Source:
    tenant: str
    name: str
    contract_yaml: str
    revision: int
    at: datetime
    by: str
    cause: str

    @property
    def topic(self) -> str:
        return flow.upstream_topic(self.tenant, self.name)


@dataclass(frozen=True, slots=True)
class Counts:
    """`waiting` are in quarantine now; the others are counted since the source was created."""

    accepted: int = 0
    waiting: int = 0
    duplicate: int = 0
    discarded: int = 0


@dataclass(frozen=True, slots=True)
class Terms:
    """A contract in force: what a revision of it says, ready to be checked against."""

    revision: int
    contract: Contract
    checker: Checker


@dataclass(frozen=True, slots=True)
class Sources:
    journal: Journal
    clock: Clock
    streams: Streams
    topics: UpstreamTopics
    _terms: dict[str, Terms] = field(default_factory=dict)

    async def put(self, tenant: str, name: str, contract_yaml: str, by: str) -> Source:
        """Creates or changes a source. The same contract again makes no new revision."""
        contract = contracts.parse(contract_yaml)
        if name and contract.name != name:
            raise InvalidInputError(
                f"The contract is of {contract.name!r}, not of {name!r}.",
                which=name,
                next_step="Give both the same name.",
            )
        name = aggregate(tenant, KIND, contract.name)
        # The topic first: a source without one would take records that nobody can send.
        await self._check_change(tenant, contract)
        await self.topics.put(Stream(tenant, contract.name, contract.durable))

        async def decide(latest: Entry | None) -> Change | None:
            state = SourceState(contract_yaml=contract_yaml)
            if latest is not None and _state(latest) == state:
                return None
            await self._check_change(tenant, contract)
            return Change("SourcePut", state.model_dump())

        return _source(await self.journal.decide(name, self.clock.new_id(), by, decide))

    async def get(self, tenant: str, name: str) -> Source:
        entry = await self._find(tenant, name)
        if entry is None:
            raise NotFoundError(
                f"There is no source {name!r}.",
                which=name,
                next_step="`basalt source list` shows those there are.",
            )
        return _source(entry)

    async def page(self, tenant: str, after: str, limit: int) -> list[Source]:
        start = f"{tenant}/{KIND}/{after}" if after else ""
        entries = await self.journal.store.heads(KIND, tenant, start, limit)
        return [_source(entry) for entry in entries]

    async def terms(self, tenant: str, name: str) -> Terms:
        """The contract in force at this moment. Raises NotFoundError."""
        source = await self.get(tenant, name)
        key = f"{tenant}/{name}"
        known = self._terms.get(key)
        if known is None or known.revision != source.revision:
            contract = contracts.parse(source.contract_yaml)
            known = Terms(source.revision, contract, Checker(contract))
            if len(self._terms) >= CONTRACTS_CACHED_MAX:
                self._terms.clear()
            self._terms[key] = known
        return known

    async def counts(self, tenant: str, name: str) -> Counts:
        positions = await self.streams.positions(tenant, name)
        dataset = await self.journal.latest(aggregate(tenant, "dataset", name))
        return Counts(
            accepted=sum(each.state.accepted_total for each in positions),
            waiting=sum(each.state.held_total - each.left_total for each in positions),
            discarded=sum(each.state.discarded_total for each in positions),
            duplicate=Sealed.model_validate(dataset.state).duplicates_dropped if dataset else 0,
        )

    async def ensure_topics(self) -> None:
        """Creates the topics that are missing, such as after Kafka was set up anew."""
        sources = [_source(entry) for entry in await self.journal.heads(KIND)]
        if sources:
            await self.topics.ensure(
                [
                    Stream(each.tenant, each.name, contracts.parse(each.contract_yaml).durable)
                    for each in sources
                ]
            )

    async def _find(self, tenant: str, name: str) -> Entry | None:
        try:
            return await self.journal.latest(aggregate(tenant, KIND, name))
        except InvalidInputError:
            # What cannot be a name is not a source's name either.
            return None

    async def _check_change(self, tenant: str, contract: Contract) -> None:
        latest = await self._find(tenant, contract.name)
        if latest is not None:
            before = contracts.parse(_state(latest).contract_yaml)
            counts = await self.counts(tenant, contract.name)
            contracts.check_change(before, contract, rows_accepted=counts.accepted > 0)


def _state(entry: Entry) -> SourceState:
    return SourceState.model_validate(entry.state)


def _source(entry: Entry) -> Source:
    return Source(
        tenant=entry.tenant,
        name=entry.name,
        contract_yaml=_state(entry).contract_yaml,
        revision=entry.version,
        at=entry.at,
        by=entry.by,
        cause=entry.cause,
    )
