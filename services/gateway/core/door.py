"""The control plane: keeps what Envoy and the dispatcher go by equal to what was decided elsewhere.

    security: keys, tenants ─────┐
    inference: routes ───────────┼─▶ Door ─▶ judged ─▶ files moved into place ─▶ Envoy, dispatcher
    own journal: limits ─────────┘

What is refused stays out, and the last good files stay in force; so they do while any of the three
is away. What was in force is remembered in the folder itself, over restarts too.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from libs.common.errors import BasaltError, PreconditionError
from libs.common.history import Mended
from libs.common.runtime import ended, lasting
from services.gateway.core.envoy.configuration import BOOTSTRAP_FILE, Configuration, render
from services.gateway.core.envoy.inputs import Access, Inputs, Site
from services.gateway.core.limits import Effective
from services.gateway.core.table import Table
from services.gateway.ports import ConfigurationJudge, DoorFolder

ROUTES_FILE = "routes.json"
ACCESS_FILE = "access.json"
# What could not be applied is tried again: the disk may have room, the certificate may be there.
RETRY_S = 2.0
# So often the files are compared with what is in force: somebody may have removed or damaged one.
CHECK_S = 1.0

log = structlog.get_logger(__name__)


class _Remembered(BaseModel):
    """The access that is in force, for our next start. Public keys; no secret."""

    model_config = ConfigDict(frozen=True)

    version: int
    keys: tuple[dict[str, str], ...]
    tenants: tuple[str, ...]


class Door:
    """A part of the runtime; `problem` says why the newest decision is not in force."""

    name = "door"

    def __init__(
        self, site: Site, judge: ConfigurationJudge, folder: DoorFolder, mended: Mended
    ) -> None:
        self._mended = mended
        self._site = site
        self._judge = judge
        self._folder = folder
        self._access: Access | None = None
        self._limits: Mapping[str, Effective] = {}
        self._routes: Table | None = None
        self._news = asyncio.Event()
        self._applied = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._in_force: dict[str, str] = {}
        self._judged = ""
        # The newest table that is in force: what the slow edge routes by.
        self.table = Table()
        self.configuration_sha256 = ""
        self.problem = ""

    # What was decided elsewhere.

    def take_access(self, access: Access) -> None:
        self._access = access
        self._news.set()

    def take_table(self, table: Table) -> None:
        self._routes = table
        self._news.set()

    def take_limits(self, limits: Mapping[str, Effective]) -> None:
        if limits != self._limits:
            self._limits = limits
            self._news.set()

    @property
    def tenants(self) -> tuple[str, ...]:
        return () if self._access is None else self._access.tenants

    # The part.

    async def start(self) -> None:
        """Returns when there are files that Envoy can start with; raises when there can be none."""
        self._recall()
        await self._turn()
        if not self._is_whole(BOOTSTRAP_FILE):
            raise PreconditionError(
                f"The door has no configuration to open with: {self.problem}",
                which=BOOTSTRAP_FILE,
                next_step="Correct what is refused, then start again.",
            )
        self._task = lasting(self._run(), "door")

    async def stop(self) -> None:
        await ended(self._task)

    async def settled(self, within_s: float) -> None:
        """Returns when all that was taken so far is in force or refused, or the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self._news.is_set() or not self._applied.is_set():
                    self._applied.clear()
                    await self._applied.wait()

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                # wait_for of Python 3.11 may lose a cancellation.
                async with asyncio.timeout(RETRY_S if self.problem else CHECK_S):
                    await self._news.wait()
            not_restored = self._restore()
            if self._news.is_set() or self.problem or not_restored:
                await self._turn()

    async def _turn(self) -> None:
        self._news.clear()
        self._applied.clear()
        problems = [await self._attempt(self._apply_routes), await self._attempt(self._apply_envoy)]
        self.problem = " ".join(filter(None, problems))
        self._applied.set()

    async def _attempt(self, apply: object) -> str:
        try:
            await apply()  # pyright: ignore[reportCallIssue, reportGeneralTypeIssues]
        except BasaltError as error:
            log.warning("door_refused", error=str(error))
            return str(error)
        except Exception as error:
            log.exception("door_failed")
            return f"The door could not be brought up to date: {error!r}."
        return ""

    def _recall(self) -> None:
        access = self._folder.read(ACCESS_FILE)
        if access is not None:
            with contextlib.suppress(ValidationError):
                known = _Remembered.model_validate_json(access)
                self._access = Access(known.version, known.keys, known.tenants)
        routes = self._folder.read(ROUTES_FILE)
        if routes is not None:
            with contextlib.suppress(BasaltError):
                self.table = self._routes = Table.read(routes)

    # Routes, for the dispatcher and the slow edge.

    async def _apply_routes(self) -> None:
        table = (self._routes or Table()).limited(self._limits)
        table.routing()  # Raises where the dispatcher could not use it.
        self._write(ROUTES_FILE, table.text())
        self.table = table

    # Envoy's files.

    async def _apply_envoy(self) -> None:
        access = self._access or Access()
        configuration = render(Inputs(self._site, access, self._limits))
        if self._access is None and all(self._is_whole(name) for name, _ in configuration.files):
            return  # Nobody has told us the keys yet: what is there stays in force.
        if configuration.sha256 == self.configuration_sha256:
            return
        if configuration.whole != self._judged:
            await self._judge.judge(configuration.whole)
            self._judged = configuration.whole
        self._move(configuration)
        if self._access is not None:
            known = _Remembered(
                version=access.version,
                keys=tuple(dict(key) for key in access.keys),
                tenants=access.tenants,
            )
            self._write(ACCESS_FILE, known.model_dump_json(indent=1) + "\n")

    def _is_whole(self, name: str) -> bool:
        """Whether something can be started with it; without keys the door is closed, not broken."""
        try:
            return isinstance(json.loads(self._folder.read(name) or ""), dict)
        except (ValueError, RecursionError):
            return False

    def _move(self, configuration: Configuration) -> None:
        for name, content in configuration.files:
            self._write(name, content)
        self.configuration_sha256 = configuration.sha256
        log.info("door_configured", sha256=configuration.sha256)

    def _restore(self) -> bool:
        """Puts back what is in force where a file is missing or says something else.

        Each by itself: one that cannot be put back keeps no other from it. Whether one could not.
        """
        failed = False
        for name, content in self._in_force.items():
            if self._folder.read(name) == content:
                continue
            try:
                self._folder.replace(name, content)
            except Exception as error:
                failed = True
                log.warning("door_file_not_restored", file=name, error=repr(error))
            else:
                log.warning("door_file_restored", file=name)
                said = f"{name} was missing or said something else, and is as it should be again."
                self._mended.mended("door", "restored", said)
        return failed

    def _write(self, name: str, content: str) -> None:
        """Only what differs is moved: each move makes somebody read it again."""
        there = self._in_force[name] if name in self._in_force else self._folder.read(name)
        if there != content:
            self._folder.replace(name, content)
        # Only now: what could not be written is not in force.
        self._in_force[name] = content
