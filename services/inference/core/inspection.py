"""Whether what answers in Triton is what this service loaded: asked for as long as it serves.

Whoever reaches Triton may load something else under a served name, and a configured digest can be
copied. So each load carries a secret that nothing answers again (`ModelServer.examine` says how it
is asked), by a real call, which also shows a model whose process has died.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Set

import structlog

from libs.common.clock import Clock
from libs.common.errors import BasaltError
from libs.common.history import Mended
from services.inference.ports import ForeignModelError, Loaded, ModelServer, SilentModelError

# A model is asked again after this; one that is new, or began to count anew, at once.
EXAMINE_S = 2.0
EXAMINED_AT_ONCE_MAX = 16
ANOTHER = "Something else was loaded with our configuration."

log = structlog.get_logger(__name__)


class Inspection:
    """`look` begins what is due and returns at once; what it found is there when it has ended."""

    def __init__(
        self, server: ModelServer, clock: Clock, mended: Mended, ended: Callable[[], None]
    ) -> None:
        self._server = server
        self._mended = mended
        self._silent_since: dict[str, float] = {}
        self._clock = clock
        self._ended = ended
        self._proven: dict[str, Loaded] = {}
        self._examined_at: dict[str, float] = {}
        self._executions: dict[str, int] = {}
        self._reset: set[str] = set()
        self._findings: list[tuple[str, str]] = []
        self._at_once = asyncio.Semaphore(EXAMINED_AT_ONCE_MAX)
        self.under_way: dict[str, asyncio.Task[None]] = {}
        # What was loaded and does not answer any more, with a sentence for people.
        self.silent: dict[str, str] = {}

    def proven(self, name: str) -> Loaded | None:
        """What is loaded under a name, if it is a load of this service that answers."""
        return self._proven.get(name)

    def knows(self, name: str) -> bool:
        """Whether it is a load of this service, be it that it does not answer any more."""
        return name in self._proven or name in self.silent

    def take(self, name: str, loaded: Loaded) -> None:
        """This service loaded it a moment ago."""
        since = self._silent_since.get(name)
        self.forget(name)
        if since is not None:
            took_s = self._clock.monotonic() - since
            self._mended.mended("triton", "loaded again", f"{name} answers again.", took_s)
        self._proven[name] = loaded
        self._examined_at[name] = self._clock.monotonic()

    def forget(self, name: str) -> None:
        for known in (
            self._proven,
            self._examined_at,
            self._executions,
            self._silent_since,
            self.silent,
        ):
            known.pop(name, None)
        self._reset.discard(name)

    def findings(self) -> list[tuple[str, str]]:
        """The names of what must not be there, and what it is, since the last call."""
        found, self._findings = self._findings, []
        return found

    def look(self, held: Mapping[str, int], busy: Set[str]) -> None:
        """`held` is how often each model was executed since it was loaded; `busy` are left out."""
        known = self._executions.keys() | self._proven.keys() | self.silent.keys()
        for name in known - held.keys() - busy:
            self.forget(name)
        for name in held.keys() - busy:
            # Another load of it begins to count anew, whatever its configuration says.
            if held[name] < self._executions.get(name, 0):
                self._reset.add(name)
            self._executions[name] = held[name]
            if name not in self.under_way and self._is_due(name):
                self.under_way[name] = asyncio.create_task(self._examine(name))

    def _is_due(self, name: str) -> bool:
        if name in self.silent:
            return False
        age_s = self._clock.monotonic() - self._examined_at.get(name, float("-inf"))
        return name not in self._proven or name in self._reset or age_s >= EXAMINE_S

    async def _examine(self, name: str) -> None:
        before = self._proven.get(name)
        try:
            async with self._at_once:
                found = await self._server.examine(name)
        except ForeignModelError as error:
            self._accuse(name, before, error.what)
        except SilentModelError as error:
            if name in self._reset:
                self._accuse(name, before, ANOTHER)
            elif self._proven.get(name) is before:
                self._proven.pop(name, None)
                self.silent[name] = str(error)
                self._silent_since[name] = self._clock.monotonic()
                log.warning("model_silent", name=name, problem=str(error))
                self._mended.fault("triton", "model silent", f"{name}: {error}")
        except BasaltError as error:
            # It was unloaded meanwhile, or Triton is away: the next look decides.
            log.info("not_examined", name=name, error=str(error))
        else:
            if name in self._reset and found == before:
                self._accuse(name, before, ANOTHER)
            elif self._proven.get(name) is before:
                self._proven[name] = found
        finally:
            self._reset.discard(name)
            self._examined_at[name] = self._clock.monotonic()
            del self.under_way[name]
            self._ended()

    def _accuse(self, name: str, before: Loaded | None, what: str) -> None:
        # Unless this service loaded it anew while it was being asked.
        if self._proven.get(name) is before:
            self._proven.pop(name, None)
            self._findings.append((name, what))
