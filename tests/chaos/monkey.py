"""What is done to the platform: drawn from a seed, so that a run can be told and repeated."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.support.eventually import pause
from tests.support.laptop import Laptop

PAUSE_S = (0.5, 4.0)
# Files that the platform makes again by itself.
FILES = ("door/dispatcher.sock", "door/envoy.json", "door/routes.json", "door/rds.json")


@dataclass
class Monkey:
    """`done` tells each harm and when; the draws are the seed's, their timing the machine's."""

    platform: Laptop
    seed: int
    done: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)  # noqa: S311 - to be repeated, not to be secret.
        self._began = time.monotonic()

    @property
    def names(self) -> list[str]:
        return [process.name for process in self.platform.edition.processes]

    async def harm_for(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.harm()
            await pause(self._random.uniform(*PAUSE_S))

    def harm(self) -> None:
        kinds: dict[str, tuple[int, Callable[[], str]]] = {
            "kill": (5, lambda: self._signal(signal.SIGKILL)),
            "term": (2, lambda: self._signal(signal.SIGTERM)),
            "stop": (3, lambda: self._signal(signal.SIGSTOP)),
            "kill several": (2, self._kill_several),
            "remove": (2, self._remove),
            "damage": (2, self._damage),
        }
        (kind,) = self._random.choices(list(kinds), [weight for weight, _ in kinds.values()])
        at_s = time.monotonic() - self._began
        self.done.append(f"{at_s:5.1f} s  {kind} {kinds[kind][1]()}")

    def _signal(self, number: signal.Signals, name: str = "") -> str:
        name = name or self._random.choice(self.names)
        process = self.platform.process(name)
        if not process.alive:
            return f"{name} (away already)"
        # It may end between the look and the signal; its number is its own until it is collected.
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)
        return name

    def _kill_several(self) -> str:
        victims = self._random.sample(self.names, self._random.randint(2, 5))
        return ", ".join(self._signal(signal.SIGKILL, victim) for victim in victims)

    def _remove(self) -> str:
        name = self._random.choice(FILES)
        (self.platform.home.root / name).unlink(missing_ok=True)
        return name

    def _damage(self) -> str:
        name = self._random.choice(FILES[1:])
        with contextlib.suppress(FileNotFoundError):
            (self.platform.home.root / name).write_text("{")
        return name
