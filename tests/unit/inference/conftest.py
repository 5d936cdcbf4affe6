from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.registry import Registry


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    registry = Registry(tmp_path)
    yield registry
    await registry.close()
