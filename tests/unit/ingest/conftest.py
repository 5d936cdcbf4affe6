from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.upstream import Ingest, ingest_core


@pytest.fixture
async def ingest(tmp_path: Path) -> AsyncIterator[Ingest]:
    """The core with one source, `acme`'s scans."""
    core = ingest_core(tmp_path)
    await core.put_source()
    yield core
    await core.close()
