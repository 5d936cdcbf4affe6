from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.door import Door, load_model, open_door
from tools.servers import Kafka, Triton


@pytest.fixture(scope="session")
def models(triton: Triton) -> Triton:
    """`double` and `canary` of acme in two versions, globex's own `double`."""
    for name, factor in (("double", 2.0), ("canary", 3.0)):
        load_model(triton, f"acme--{name}--v1", factor)
        load_model(triton, f"acme--{name}--v2", -factor)
    load_model(triton, "globex--double--v1", 10.0)
    return triton


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared_door(kafka: Kafka, models: Triton) -> AsyncIterator[Door]:
    """For tests that leave it as they found it."""
    with tempfile.TemporaryDirectory(prefix="door-") as folder:
        async with open_door(Path(folder), kafka.bootstrap, models) as door:
            await door.routed()
            yield door


@pytest.fixture
def short_folder() -> Iterator[Path]:
    # A Unix socket's path has 108 bytes, and pytest's own folders are deep.
    with tempfile.TemporaryDirectory(prefix="door-") as folder:
        yield Path(folder)


@pytest.fixture
async def door(kafka: Kafka, models: Triton, short_folder: Path) -> AsyncIterator[Door]:
    """For tests that kill parts of it, or change it for good."""
    async with open_door(short_folder, kafka.bootstrap, models) as door:
        await door.routed()
        yield door
