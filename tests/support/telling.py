"""Tells the hospital's story on a platform, as the demo does, chapter by chapter."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rich.console import Console

from apps.hospital import measurements
from apps.hospital.chapters import drift, ending, records, release, serving, training
from apps.hospital.people import introduced
from apps.hospital.stage import Stage
from apps.hospital.story import Story
from tests.support.laptop import Laptop
from tests.support.tracing import sent_to

CHAPTERS = (records, training, release, serving, drift, ending)
# After these a model is in service.
UNTIL_SERVED = (records, training, release)


@asynccontextmanager
async def told_on(platform: Laptop, stage: Stage | None = None) -> AsyncIterator[Story]:
    """The story before its first chapter: `for chapter in CHAPTERS: await chapter.tell(story)`."""
    stage = stage or Stage(Console(width=120, force_terminal=False))
    with sent_to(platform.home):
        async with introduced(platform.door, platform.home.first_login) as people:
            yield Story(stage, people, platform.door, platform.kafka, *measurements.load())


@asynccontextmanager
async def served_on(platform: Laptop, stage: Stage | None = None) -> AsyncIterator[Story]:
    """The story once a model is in service."""
    async with told_on(platform, stage) as story:
        for chapter in UNTIL_SERVED:
            await chapter.tell(story)
        yield story
