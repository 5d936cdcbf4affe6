"""Stores whose server is not there: one of our errors, within seconds, that says what to do."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from libs.common.errors import DependencyError, InvalidInputError
from libs.common.stores import open_journal
from libs.common.stores.directory import DirectoryObjects
from libs.common.stores.minio import MinioObjects
from libs.common.stores.mongo import MongoJournal
from libs.common.stores.sqlite import SqliteJournal
from tests.support.entries import entry
from tools.servers import FerretDB, MinIO

# Well within what a caller waits; a client's own defaults are 30 s and minutes.
GIVEN_UP_S_MAX = 25.0


def minio_at(address: str, access_key: str, secret_key: str) -> MinioObjects:
    return MinioObjects(
        f"http://{address}/basalt", prefix="ingest", access_key=access_key, secret_key=secret_key
    )


@pytest.fixture(params=["refuses", "is silent"])
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    """A port that nobody listens on, or one whose owner never answers (a stopped process)."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if request.param == "is silent":
            listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


async def test_a_journal_out_of_reach_says_so(address: str) -> None:
    journal = MongoJournal(f"mongodb://{address}/basalt", "ingest")
    async with asyncio.timeout(GIVEN_UP_S_MAX):
        with pytest.raises(DependencyError) as refusal:
            await journal.insert(entry())
    await journal.close()

    assert refusal.value.which == "journal"
    assert "Start its MongoDB" in refusal.value.next_step
    assert "Topology" not in str(refusal.value)


async def test_objects_out_of_reach_say_so(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("libs.common.stores.s3.READ_S_MAX", 1.0)
    objects = minio_at(address, "someone", "secret")
    async with asyncio.timeout(GIVEN_UP_S_MAX):
        with pytest.raises(DependencyError) as refusal:
            await objects.get("acme/dataset/a")
    await objects.close()

    assert refusal.value.which == "objects"
    assert address in refusal.value.inside
    assert address not in str(refusal.value)
    assert "0x" not in str(refusal.value)


@pytest.mark.real
async def test_wrong_keys_are_named_as_the_reason(minio: MinIO) -> None:
    objects = minio_at(minio.address, "nobody", "not-the-secret")

    with pytest.raises(
        DependencyError, match=r"InvalidAccessKeyId|Forbidden|AccessDenied"
    ) as refused:
        await objects.put("acme/dataset/a", b"rows")

    assert "keys" in refused.value.next_step
    await objects.close()


@pytest.mark.real
async def test_a_journal_is_whole_after_its_server_was_killed(tmp_path: Path) -> None:
    server = await asyncio.to_thread(FerretDB(tmp_path).start)
    journal = MongoJournal(f"{server.url}basalt", "ingest")
    try:
        await journal.insert(entry(events=1))
        await asyncio.to_thread(server.kill)
        with pytest.raises(DependencyError):
            await journal.latest(entry().aggregate)
        await asyncio.to_thread(server.start)

        assert await journal.unrelayed() == [entry(events=1)]
        await journal.insert(entry(version=2))
    finally:
        await journal.close()
        await asyncio.to_thread(server.stop)


async def test_a_journal_that_is_no_database_says_so(tmp_path: Path) -> None:
    (tmp_path / "ingest.db").write_bytes(b"This is not SQLite." * 1_000)
    journal = open_journal(f"sqlite:{tmp_path}", "ingest")

    with pytest.raises(DependencyError, match="answers: file is not a database") as error:
        await journal.ping()

    assert error.value.which == "journal"
    assert error.value.inside == str(tmp_path / "ingest.db")
    assert str(tmp_path) not in str(error.value)


async def test_a_store_that_has_gone_is_not_an_object_that_is_not_there(tmp_path: Path) -> None:
    objects = DirectoryObjects(tmp_path / "objects")
    await objects.put("acme/dataset/a", b"rows")
    (tmp_path / "objects").rename(tmp_path / "away")
    (tmp_path / "objects").write_text("Nothing can be read below a file.")

    with pytest.raises(DependencyError) as refusal:
        await objects.get("acme/dataset/a")

    assert refusal.value.which == "objects"


async def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where a folder should be")

    for store in (
        SqliteJournal(tmp_path / "taken" / "ingest.db"),
        DirectoryObjects(tmp_path / "taken" / "ingest"),
    ):
        with pytest.raises(DependencyError) as error:
            await store.ping()
        assert error.value.which in {"journal", "objects"}
        assert error.value.next_step
        await store.close()


@pytest.mark.parametrize("address", ["", "postgres://x", "mongodb://host", "mongodb://host/"])
def test_an_address_that_is_none_names_the_setting(address: str) -> None:
    with pytest.raises(InvalidInputError) as refusal:
        open_journal(address, "ingest")

    assert refusal.value.which == "BASALT_JOURNAL"
    assert "mongodb://HOST/DATABASE" in refusal.value.next_step


@pytest.mark.parametrize("address", ["", "host/bucket", "http://", "http://host", "ftp://host/b"])
def test_an_address_of_objects_that_is_none_names_the_setting(address: str) -> None:
    with pytest.raises(InvalidInputError) as refusal:
        MinioObjects(address, prefix="ingest", access_key="", secret_key="")

    assert refusal.value.which == "BASALT_OBJECTS"
