"""Makes Triton equal to the deployments, and lets traffic follow only what is ready there.

    deployments (journal) ──▶ what to hold loaded ──▶ fetch, verify, load ──▶ ready ──▶ routes
                                                   unload, a while after it left the routes
    what Triton holds ──▶ is it ours, does it answer? ──▶ foreign: unload at once, tell people

A round looks at everything again, so whatever got lost (Triton's memory, a message, this process)
is made good by the next one. Several processes may do this at the same time: a load that happens
twice changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Set
from dataclasses import dataclass
from itertools import chain

import structlog

from libs.common import telemetry
from libs.common.clock import Clock
from libs.common.errors import (
    BasaltError,
    DeadlineError,
    DependencyError,
    IntegrityError,
    InternalError,
)
from libs.common.history import Mended
from libs.common.journal import Journal
from libs.common.runtime import Loop
from libs.common.stores.ports import Entry
from services.inference.core import deployments, names, routes
from services.inference.core.alarms import Alarms, Finding
from services.inference.core.artifacts import Artifacts
from services.inference.core.deployments import Revision
from services.inference.core.inspection import Inspection
from services.inference.core.routes import Table
from services.inference.core.verification import Verification
from services.inference.ports import ModelServer

# Another process's deployment and a Triton that came back are seen within this.
ROUND_S = 1.0
# A gateway applies a table at once; requests it sent before have this long to be answered.
UNLOAD_DELAY_S = 10.0
LOADS_AT_ONCE_MAX = 2
RETRY_S = 1.0
RETRY_S_MAX = 60.0
STOP_S_MAX = 5.0
# How long a change of a deployment waits until what it asks for can serve.
PREPARE_S_MAX = 20.0
# What was made ready for a change stays loaded for this long, whether or not the change came.
PREPARED_S = 600.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Failure:
    """A load that failed. `broken`: by what the version is, so only another one will help."""

    error: BasaltError
    broken: bool
    pause_s: float
    again_at: float

    @property
    def problem(self) -> str:
        return str(self.error)


class Reconciler:
    name = "reconciler"

    def __init__(
        self,
        journal: Journal,
        server: ModelServer,
        artifacts: Artifacts,
        clock: Clock,
        alarms: Alarms,
        mended: Mended,
        *,
        keep_versions: int = 2,
        unload_delay_s: float = UNLOAD_DELAY_S,
    ) -> None:
        self._journal = journal
        self._server = server
        self._artifacts = artifacts
        self._clock = clock
        self._alarms = alarms
        self._keep_versions = keep_versions
        self._unload_delay_s = unload_delay_s
        self._loop = Loop("reconciler", self.round, ROUND_S)
        self._loads_at_once = asyncio.Semaphore(LOADS_AT_ONCE_MAX)
        self._inspection = Inspection(server, clock, mended, self._loop.wake)
        self._histories: dict[str, list[Revision]] = {}
        self._verification = Verification(journal, artifacts, clock)
        # What Triton holds at this moment, and the part of it that this code put there, that
        # answers, and whose signature holds.
        self._held: frozenset[str] = frozenset()
        self._ours: frozenset[str] = frozenset()
        self._prepared: dict[str, float] = {}
        self._undecided: frozenset[str] = frozenset()
        self._loads: dict[str, asyncio.Task[None]] = {}
        self._failures: dict[str, Failure] = {}
        self._unwanted_since: dict[str, float] = {}
        self._routed: dict[str, int] = {}
        self._unreachable = "Triton has not been asked yet."
        self._table: Table | None = None
        self._turned = asyncio.Condition()
        journal.listen(self._notice)

    @property
    def problem(self) -> str:
        """For every tenant to see; whose versions do not serve, their own deployments say."""
        down = len(self._failures.keys() | self._inspection.silent.keys())
        versions = f"Deployed versions that do not serve: {down}. `basalt deploy list` says why."
        told = [self._unreachable, self._loop.problem, self._alarms.problem]
        return " ".join(filter(None, [*told, versions if down else ""]))

    async def start(self) -> None:
        await self._loop.start()

    async def stop(self) -> None:
        await self._loop.stop()
        if under_way := [*self._loads.values(), *self._inspection.under_way.values()]:
            # A load is let finish where it can: Triton does not like calls that are taken back.
            _, unfinished = await asyncio.wait(under_way, timeout=STOP_S_MAX)
            for task in unfinished:
                task.cancel()

    def _notice(self, entry: Entry) -> None:
        if entry.kind == "deployment":
            self._loop.wake()

    # What others ask.

    def standing(self, revision: Revision) -> tuple[frozenset[int], str]:
        """Which of its versions are ready, and what keeps the others from it ("" if nothing)."""
        by_name = {
            names.internal_name(revision.tenant, revision.model, number): number
            for number in revision.versions
        }
        missing = sorted(by_name.keys() - self._ours)
        ready = frozenset(by_name[name] for name in by_name.keys() & self._ours)
        if not missing:
            return ready, ""
        if self._unreachable:
            return ready, self._unreachable
        problems = [self._failures[name].problem for name in missing if name in self._failures]
        problems += [self._silence(name) for name in missing if name in self._inspection.silent]
        waiting = f"Version {by_name[missing[0]]} is being loaded."
        return ready, " ".join(problems) or waiting

    def _silence(self, name: str) -> str:
        _, model, number = names.parts_of_internal(name)
        return f"{model} version {number}: {self._inspection.silent[name]}"

    async def prepare(self, tenant: str, model: str, numbers: frozenset[int]) -> None:
        """Returns once all of them can serve: verified at this moment, loaded, answering.

        Raises what keeps one of them from it. Nothing was decided by then.
        """
        wanted = {names.internal_name(tenant, model, number) for number in numbers}
        if wanted <= self._ours:
            return
        for name in wanted:
            self._prepared[name] = self._clock.monotonic() + PREPARED_S
            self._failures.pop(name, None)
        self._loop.wake()

        def decided() -> bool:
            failed = any(name in self._failures for name in wanted)
            return wanted <= self._ours or failed or bool(self._unreachable)

        try:
            async with asyncio.timeout(PREPARE_S_MAX), self._turned:
                await self._turned.wait()
                await self._turned.wait_for(decided)
        except TimeoutError as error:
            raise DeadlineError(
                f"{model} is not loaded after {PREPARE_S_MAX:.0f} s, so nothing was changed.",
                which=model,
                next_step="It is loaded further: try again in a minute.",
            ) from error
        for name in sorted(wanted - self._ours):
            if failure := self._failures.get(name):
                raise failure.error
        if not wanted <= self._ours:
            raise DependencyError(
                f"Whether {model} can serve cannot be told, so nothing was changed:"
                f" {self._unreachable}",
                which="triton",
                next_step="Try again shortly.",
            )

    async def settled(self, revision: Revision, within_s: float) -> None:
        """Returns when traffic follows it, when it turned out broken, or after `within_s`."""

        def done() -> bool:
            broken = (self._failures.get(name) for name in revision.internal_names)
            return self._routed.get(self._aggregate(revision), 0) >= revision.revision or any(
                failure is not None and failure.broken for failure in broken
            )

        try:
            async with asyncio.timeout(within_s), self._turned:
                await self._turned.wait_for(done)
        except TimeoutError:
            return

    async def tables(self) -> AsyncIterator[Table]:
        """The table now and at each change; a slow reader gets the newest, not every one.

        The first comes once everything deployed was loaded or found broken: half a table would
        take models out of service that only wait for their turn.
        """
        seen: Table | None = None
        while True:
            async with self._turned:
                await self._turned.wait_for(lambda: self._table is not seen)  # noqa: B023
                seen = self._table
            if seen is not None:
                yield seen

    # A round.

    async def round(self) -> None:
        await self._read_journal()
        try:
            await self._look()
        except DependencyError as error:
            if not self._unreachable:
                log.warning("triton_unreachable", error=str(error))
            self._unreachable = str(error)
            self._held = self._ours = frozenset()
        else:
            self._route()
            wanted = self._wanted()
            self._load_missing(wanted)
            await self._unload_unwanted(wanted)
            self._publish(wanted)
        await self._alarms.tell()
        async with self._turned:
            self._turned.notify_all()

    async def _read_journal(self) -> None:
        """Histories of the deployments that changed; the heads of all are one read."""
        for head in await self._journal.heads("deployment"):
            known = self._histories.get(head.aggregate)
            if known is not None and known[-1].revision >= head.version:
                continue
            entries = await self._journal.history(head.aggregate)
            history = [deployments.of(entry) for entry in entries]
            self._histories[head.aggregate] = history
            for name in history[-1].internal_names:
                # Whoever deploys it again has mended it, or wants to know anew.
                self._failures.pop(name, None)

    async def _look(self) -> None:
        """Asks Triton what it holds, and has it examined; what was found foreign goes at once."""
        # A load that ends while the answer is on its way may or may not be in it.
        self._undecided = frozenset(self._loads)
        held = await self._server.held()
        self._held = frozenset(held)
        if self._unreachable:
            log.info("triton_reached", held=sorted(held))
        self._unreachable = ""
        self._inspection.look(held, self._undecided | self._loads.keys())
        for name, what in self._inspection.findings():
            await self._expel(name, what)
        wanted = self._wanted()
        self._ours = frozenset({name for name in self._held & wanted if await self._is_ours(name)})

    async def _is_ours(self, name: str) -> bool:
        """It is a load of ours, it answers, and what it is a load of is signed."""
        loaded = self._inspection.proven(name)
        if loaded is None:
            return False
        try:
            signed = await self._verification.signed(name)
        except IntegrityError as error:
            await self._expel(name, f"It may not be served: {error.what}")
            self._failed(name, error, broken=True)
            return False
        except BasaltError as error:
            log.warning("not_verified", name=name, error=str(error))
            return False
        if loaded.manifest_sha256 != signed.manifest_sha256:
            await self._expel(name, "It was loaded by another manifest.")
            return False
        return True

    async def _expel(self, name: str, what: str) -> None:
        """Out of Triton with it, and people are told. Raises DependencyError."""
        revisions = chain.from_iterable(self._histories.values())
        served = any(name in revision.internal_names for revision in revisions)
        self._alarms.raise_for(Finding(name, what, self._clock.now()), served=served)
        self._inspection.forget(name)
        self._held -= {name}
        self._ours -= {name}
        await self._server.unload(name)

    def _route(self) -> None:
        for aggregate, history in self._histories.items():
            since = self._routed.get(aggregate, 0)
            revision = deployments.routed(history, self._ours, since)
            if revision is not None and revision.revision != since:
                self._routed[aggregate] = revision.revision
                log.info("routed", deployment=aggregate, revision=revision.revision)

    def _wanted(self) -> frozenset[str]:
        """What deployments hold loaded, and what traffic follows even if that is older."""
        wanted: set[str] = set()
        for aggregate, history in self._histories.items():
            tenant, model = history[-1].tenant, history[-1].model
            kept = deployments.kept(history, self._keep_versions, self._broken(tenant, model))
            wanted |= {names.internal_name(tenant, model, number) for number in kept}
            if routed := self._routed.get(aggregate):
                wanted |= history[routed - 1].internal_names
        return frozenset(wanted | self._still_prepared())

    def _still_prepared(self) -> Set[str]:
        """Until their change is made, or has not come for too long."""
        now = self._clock.monotonic()
        heads = [history[-1].internal_names for history in self._histories.values()]
        made = frozenset(chain.from_iterable(heads))
        self._prepared = {
            name: until
            for name, until in self._prepared.items()
            if until > now and name not in made
        }
        return self._prepared.keys()

    def _broken(self, tenant: str, model: str) -> frozenset[int]:
        prefix = names.internal_name(tenant, model, 0).removesuffix("0")
        return frozenset(
            int(name.removeprefix(prefix))
            for name, failure in self._failures.items()
            if failure.broken and name.startswith(prefix)
        )

    # Loading and unloading.

    def _load_missing(self, wanted: frozenset[str]) -> None:
        # What is held and was never examined may be ours.
        unknown = {name for name in self._inspection.under_way if name in self._held}
        for name in sorted(wanted - self._ours - self._undecided - self._loads.keys() - unknown):
            failure = self._failures.get(name)
            if failure is None or failure.again_at <= self._clock.monotonic():
                self._loads[name] = asyncio.create_task(self._load(name), name=f"load {name}")

    async def _load(self, name: str) -> None:
        try:
            async with self._loads_at_once:
                version = await self._verification.version(name)
                with telemetry.span(
                    "LoadModelVersion",
                    under=version.traceparent,
                    basalt_tenant=version.tenant,
                    basalt_model=version.model,
                ):
                    signed = await self._artifacts.signed(version)
                    servable = await self._artifacts.servable(signed, version)
                    loaded = await self._server.load(servable)
        except BasaltError as error:
            self._failed(name, error, broken=not isinstance(error, DependencyError))
        except Exception:
            log.exception("load_fault", name=name)
            fault = InternalError(f"{name} could not be loaded by a fault of ours.", which=name)
            self._failed(name, fault, broken=True)
        else:
            log.info("loaded", name=name)
            self._failures.pop(name, None)
            self._verification.take(signed)
            self._inspection.take(name, loaded)
            self._ours |= {name}
        finally:
            del self._loads[name]
            self._loop.wake()

    def _failed(self, name: str, error: BasaltError, *, broken: bool) -> None:
        before = self._failures.get(name)
        pause_s = min(before.pause_s * 2, RETRY_S_MAX) if before else RETRY_S
        log.warning("load_failed", name=name, problem=str(error), again_in_s=pause_s)
        again_at = self._clock.monotonic() + pause_s
        self._failures[name] = Failure(error, broken, pause_s, again_at)

    async def _unload_unwanted(self, wanted: frozenset[str]) -> None:
        now = self._clock.monotonic()
        unwanted = {name for name in self._held if self._inspection.knows(name)} - wanted
        self._unwanted_since = {
            name: self._unwanted_since.get(name, now) for name in unwanted - self._loads.keys()
        }
        for name, since in self._unwanted_since.items():
            if now - since >= self._unload_delay_s:
                await self._server.unload(name)
                self._ours -= {name}
                self._inspection.forget(name)
                log.info("unloaded", name=name)
        for name in self._failures.keys() - wanted:
            del self._failures[name]

    # Routes.

    def _publish(self, wanted: frozenset[str]) -> None:
        broken = {name for name, failure in self._failures.items() if failure.broken}
        if self._table is None and not wanted <= self._ours | broken:
            return
        table: list[routes.Route] = []
        for aggregate, number in sorted(self._routed.items()):
            revision = self._histories[aggregate][number - 1]
            if revision.variants:
                loaded = [self._verification.last(name) for name in revision.internal_names]
                by_number = {signed.version: signed for signed in loaded}
                table.append(routes.route(revision, by_number))
        now_ms = int(self._clock.now().timestamp() * 1_000)
        self._table = routes.next_table(self._table, tuple(table), now_ms)

    def _aggregate(self, revision: Revision) -> str:
        return names.deployment_aggregate(revision.tenant, revision.model)
