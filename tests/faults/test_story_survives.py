"""The story ends the same when every process dies, one after the other, while it passes through."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from rich.console import Console

from apps.hospital.chapters import drift, ending, records, release, serving, training
from apps.hospital.stage import Stage
from tests.support.laptop import Laptop
from tests.support.telling import told_on

STORY_S_MAX = 600

# Who dies while a chapter is told, in this order; the supervisor brings each back. The servers
# of the stores are there in the edition that has them.
VICTIMS = {
    records: ("ingest", "kafka", "minio", "security"),
    training: ("trainer", "ingest", "ferretdb", "trainer"),
    release: ("inference", "security", "triton"),
    serving: ("envoy", "dispatcher", "gateway"),
    drift: (
        "monitoring",
        "trainer",
        "inference",
        "minio",
        "kafka",
        "dispatcher",
        "ferretdb",
        "triton",
        "envoy",
    ),
    ending: ("monitoring", "gateway"),
}


class DisturbedStage(Stage):
    """Kills the next of `victims` whenever a check has held, and in the middle of each progress."""

    def __init__(self, laptop: Laptop) -> None:
        super().__init__(Console(width=120, force_terminal=False))
        self.victims: deque[str] = deque()
        self._laptop = laptop

    def check(self, holds: bool, claim: str) -> None:
        super().check(holds, claim)
        self._kill_next()

    @contextmanager
    def progress(self, title: str, total: float) -> Iterator[Callable[[float], object]]:
        halfway = total / 2
        with super().progress(title, total) as moved:

            def moving(done: float) -> None:
                nonlocal halfway
                moved(done)
                if done >= halfway:
                    halfway = total + 1
                    self._kill_next()

            yield moving

    def _kill_next(self) -> None:
        if self.victims:
            victim = self.victims.popleft()
            self.say(f"[red]✗ {victim} dies[/]")
            self._laptop.kill(victim)


@pytest.mark.timeout(STORY_S_MAX)
async def test_the_story_ends_the_same_when_every_process_dies_in_turn(own_laptop: Laptop) -> None:
    stage = DisturbedStage(own_laptop)
    there = {process.name for process in own_laptop.edition.processes}
    async with told_on(own_laptop, stage) as story:
        for chapter, names in VICTIMS.items():
            stage.victims.extend(name for name in names if name in there)
            # Each check of the chapter is the same as in an undisturbed run: the same rows,
            # versions, refusals and history.
            await chapter.tell(story)
    assert not stage.victims
    assert {name for name, state in own_laptop.changes if state == "died"} == there
