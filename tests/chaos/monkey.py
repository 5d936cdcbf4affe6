"""What is done to the platform: drawn from a seed, so that a run can be told and repeated."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from libs.common import flow
from tests.chaos.ledger import Ledger
from tests.support import logs
from tests.support.eventually import pause
from tests.support.laptop import Laptop
from tools.servers import Kafka

PAUSE_S = (0.5, 4.0)
# What the platform makes again by itself.
SOCKETS = ("door/dispatcher.sock", "sockets/ingest", "sockets/security", "sockets/slow-grpc")
FILES = tuple(
    f"door/{name}.json"
    for name in (
        *("access", "cds", "ecds-rates", "ecds-roles", "ecds-tokens"),
        *("envoy", "lds", "rds", "routes"),
    )
)
DAMAGES = (b"", b"{", b"\xff\xfe\0", b"[" * 10_000)
# Topics between services, whose events their producers publish again.
HEALED = (flow.DATASET_VERSIONED, flow.DEPLOYMENT_CHANGED, flow.ACCESS_CHANGED, flow.ALERT_RAISED)
BATCHES_CUT_MAX = 3
FULL_S = (2.0, 6.0)
FILLING_BYTES = 1 << 20
AHEAD_S = (-86_400, -600, 600, 3_600, 40 * 86_400)
WRONG_S = (2.0, 6.0)

Harm = Callable[[], Awaitable[str]]


@dataclass
class Monkey:
    """The draws are the seed's, their timing the machine's.

    `done` tells each harm and when, `kinds` how often each kind was drawn.
    `small_disk`: the installation has a disk of its own, which may be filled. `clock`: its clock
    can be set.
    """

    platform: Laptop
    ledger: Ledger
    small_disk: bool = False
    clock: bool = False
    done: list[str] = field(default_factory=list[str])
    kinds: Counter[str] = field(default_factory=Counter[str])

    def __post_init__(self) -> None:
        self._random = random.Random(self.ledger.seed)  # noqa: S311 - to be repeated, not secret.
        self._began = time.monotonic()

    @property
    def names(self) -> list[str]:
        return [process.name for process in self.platform.edition.processes]

    async def harm_for(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await self.harm()
            await pause(self._random.uniform(*PAUSE_S))

    async def harm(self) -> None:
        kinds: dict[str, tuple[int, Harm]] = {
            "kill": (5, lambda: self._signal(signal.SIGKILL)),
            "term": (2, lambda: self._signal(signal.SIGTERM)),
            "stop": (3, lambda: self._signal(signal.SIGSTOP)),
            "kill several": (2, self._kill_several),
            "remove": (2, self._remove),
            "damage": (2, self._damage),
            "cut the log of": (1, self._cut_log),
            "kill the supervisor": (1, self._kill_supervisor),
            "fill the disk": (1 if self.small_disk else 0, self._fill_disk),
            "set the clock": (1 if self.clock else 0, self._set_clock),
        }
        (kind,) = self._random.choices(list(kinds), [weight for weight, _ in kinds.values()])
        self.kinds[kind] += 1
        at_s = time.monotonic() - self._began
        self.done.append(f"{at_s:5.1f} s  {kind} {await kinds[kind][1]()}")

    async def _signal(self, number: signal.Signals, name: str = "") -> str:
        name = name or self._random.choice(self.names)
        process = self.platform.process(name)
        if not process.alive:
            return f"{name} (away already)"
        # It may end between the look and the signal; its number is its own until it is collected.
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)
        return name

    async def _kill_several(self) -> str:
        victims = self._random.sample(self.names, self._random.randint(2, 5))
        return ", ".join([await self._signal(signal.SIGKILL, victim) for victim in victims])

    async def _remove(self) -> str:
        name = self._random.choice((*SOCKETS, *FILES))
        (self.platform.home.root / name).unlink(missing_ok=True)
        return name

    async def _damage(self) -> str:
        name, damage = self._random.choice(FILES), self._random.choice((*DAMAGES, None))
        file = self.platform.home.root / name
        # It may be put back at this very moment, or be away already.
        with contextlib.suppress(OSError):
            if damage is None:
                file.unlink()
                file.mkdir()
            else:
                file.write_bytes(damage)
        return name

    async def _cut_log(self) -> str:
        """Records that were read already are gone when Kafka comes back, as after a power cut."""
        kafka = self.platform.process("kafka")
        assert isinstance(kafka, Kafka)
        own, between = self.ledger.topic, (topic.name for topic in HEALED)
        topic = self._random.choice((own, own, *between))
        batches = self._random.randint(1, BATCHES_CUT_MAX)
        cut = 0
        async with self.ledger.silent(), self.platform.away("kafka"):
            for partition in logs.partitions(kafka, topic):
                kept = max(logs.batches(kafka, topic, partition) - batches, 0)
                cut += logs.batches(kafka, topic, partition) - kept
                logs.cut(kafka, topic, kept, partition)
        return f"{topic} by {cut} batches"

    async def _kill_supervisor(self) -> str:
        await asyncio.to_thread(self.platform.lose_supervisor)
        return "with all that it keeps"

    async def _fill_disk(self) -> str:
        filling, seconds = self.platform.home.root / "filling", self._random.uniform(*FULL_S)
        await asyncio.to_thread(_fill, filling)
        await pause(seconds)
        filling.unlink()
        return f"for {seconds:.0f} s"

    async def _set_clock(self) -> str:
        ahead_s, seconds = self._random.choice(AHEAD_S), self._random.uniform(*WRONG_S)
        self.platform.set_clock(ahead_s)
        await pause(seconds)
        self.platform.set_clock(0)
        return f"{ahead_s:+d} s for {seconds:.0f} s"


def _fill(file: Path) -> None:
    with file.open("wb", buffering=0) as filling, contextlib.suppress(OSError):
        while filling.write(bytes(FILLING_BYTES)):
            pass
