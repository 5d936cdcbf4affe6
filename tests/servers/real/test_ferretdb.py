import asyncio
from pathlib import Path

import pytest
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo.errors import DuplicateKeyError

from tools.servers import FerretDB

pytestmark = pytest.mark.real


async def test_of_two_inserts_with_one_id_the_second_is_refused(ferretdb: FerretDB) -> None:
    client = AsyncIOMotorClient(ferretdb.url)
    try:
        entries = client.one_winner.entries
        await entries.insert_one({"_id": "job/1/1"})

        with pytest.raises(DuplicateKeyError):
            await entries.insert_one({"_id": "job/1/1"})
    finally:
        client.close()


async def test_a_killed_server_comes_back_with_its_documents(tmp_path: Path) -> None:
    server = await asyncio.to_thread(FerretDB(tmp_path).start)
    client = AsyncIOMotorClient(server.url)
    try:
        await client.journal.entries.insert_many([{"_id": number} for number in range(50)])
        await asyncio.to_thread(server.kill)
        assert not server.alive
        await asyncio.to_thread(server.start)

        assert await client.journal.entries.count_documents({}) == 50
    finally:
        client.close()
        await asyncio.to_thread(server.stop)
