"""A platform that begins with what an earlier release left: journals, objects, a master key."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from basalt.aio import AsyncClient
from basalt.pb.basalt.v1 import security_pb2 as pb
from libs.common.settings import SERVICES
from libs.common.stores.sqlite import SqliteJournal
from tests.contract.history import samples
from tests.contract.history.driving import READER, READER_PASSWORD
from tests.contract.history.record import seal
from tests.support.laptop import Laptop


async def fill(root: Path, release: Path) -> None:
    """As if that release had run here. What waits in outboxes will be published again."""
    seal(root)
    for service in SERVICES:
        journal = SqliteJournal(root / "journals" / f"{service}.db")
        try:
            for entry in samples.entries(release, service):
                await journal.insert(entry)
        finally:
            await journal.close()
    for name, content in samples.objects(release):
        # Candidates are in a sample once, as the models that they became.
        for path in {
            name,
            name.replace("inference/", "trainer/").replace("/models/", "/candidates/"),
        }:
            await asyncio.to_thread(_put, root / "objects" / path, content)


def _put(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


@contextmanager
def upgraded(release: Path) -> Iterator[Laptop]:
    """Today's platform on what `release` left."""
    with tempfile.TemporaryDirectory(prefix="basalt-") as folder:
        asyncio.run(fill(Path(folder), release))
        platform = Laptop(Path(folder))
        try:
            platform.start()
            yield platform
        finally:
            platform.stop()


async def reader(door: str, tenant: str) -> AsyncClient:
    """Somebody with every role, who was there when the sample was taken."""
    return AsyncClient(door, token=await token_of(door, tenant, READER))


async def token_of(door: str, tenant: str, name: str, password: str = READER_PASSWORD) -> str:
    async with AsyncClient(door, token="") as stranger:
        request = pb.LoginRequest(tenant=tenant, name=name, password=password)
        return (await stranger.call(stranger.identity.Login, request)).token
