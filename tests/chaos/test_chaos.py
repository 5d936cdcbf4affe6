"""Seeds of the monkey that every change passes; `make chaos SEEDS=50` tries more of them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from apps.hospital.story import Story
from tests.chaos.run import run
from tests.support.laptop import Laptop
from tests.support.telling import served_on

SEEDS = (1, 2, 3)
HARM_S = 20.0
SEED_S_MAX = 600
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def story(own_laptop: Laptop) -> AsyncIterator[Story]:
    """A platform on which a model is in service."""
    async with served_on(own_laptop) as served:
        yield served


@pytest.mark.timeout(SEED_S_MAX)
@pytest.mark.parametrize("seed", SEEDS)
async def test_what_was_acknowledged_holds(own_laptop: Laptop, story: Story, seed: int) -> None:
    outcome = await run(own_laptop, story, seed, HARM_S)
    print(outcome, *outcome.harms, sep="\n  ")
    assert not outcome.wrong, outcome
