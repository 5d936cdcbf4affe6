"""What only the SQLite journal promises: group commit, a full disk, closing with work in flight."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest

from libs.common.errors import DependencyError
from libs.common.stores.sqlite import SqliteJournal, connected
from tests.support.entries import entry
from tests.support.eventually import eventually


async def test_what_gathers_is_committed_together(tmp_path: Path) -> None:
    store = SqliteJournal(tmp_path / "test.db")
    await store.ping()
    statements: list[str] = []
    store._opened().writer.set_trace_callback(statements.append)

    await asyncio.gather(*(store.insert(entry(f"acme/dataset/{n}")) for n in range(500)))

    commits = statements.count("COMMIT")
    assert 2 <= commits < 100  # 256 at most in one; each is one fsync instead of 500.
    assert len(await store.heads("dataset", limit=1_000)) == 500
    await store.close()


async def test_a_full_disk_is_said_and_what_was_there_stays(tmp_path: Path) -> None:
    store = SqliteJournal(tmp_path / "test.db")
    await store.insert(entry(state={"text": "x" * 10_000}))
    writer = store._opened().writer
    pages = writer.execute("PRAGMA page_count").fetchone()[0]
    writer.execute(f"PRAGMA max_page_count = {pages + 4}")

    with pytest.raises(DependencyError, match="full") as refusal:
        await store.insert(entry(version=2, state={"text": "x" * 100_000}, events=1))

    assert "Free space" in refusal.value.next_step
    assert await store.unrelayed() == []
    writer.execute(f"PRAGMA max_page_count = {pages + 1_000}")
    await store.insert(entry(version=2, state={"text": "x" * 100_000}))
    assert len(await store.history(entry().aggregate)) == 2
    await store.close()
    with sqlite3.connect(tmp_path / "test.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


async def test_closing_finishes_the_work_in_flight(tmp_path: Path) -> None:
    store = SqliteJournal(tmp_path / "test.db")
    inserting = [
        asyncio.create_task(store.insert(entry(f"acme/dataset/{n:03}"))) for n in range(300)
    ]
    await asyncio.sleep(0)

    await store.close()

    await asyncio.gather(*inserting)
    again = SqliteJournal(tmp_path / "test.db")
    assert len(await again.heads("dataset", limit=1_000)) == 300
    await again.close()


async def test_a_writer_of_another_process_is_waited_for(tmp_path: Path) -> None:
    store = SqliteJournal(tmp_path / "test.db")
    await store.ping()
    other = sqlite3.connect(tmp_path / "test.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    inserting = asyncio.create_task(store.insert(entry()))
    await asyncio.sleep(0)
    assert not inserting.done()

    other.execute("COMMIT")
    other.close()

    await inserting
    assert await store.latest(entry().aggregate) == entry()
    await store.close()


async def test_who_comes_while_another_is_waited_for_does_not_wait_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("libs.common.stores.sqlite.BUSY_MS_MAX", 2_000)
    store = SqliteJournal(tmp_path / "test.db")
    await store.ping()
    other = sqlite3.connect(tmp_path / "test.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    first = asyncio.create_task(store.insert(entry()))
    await asyncio.sleep(0)
    await eventually(lambda: store._work.empty())  # The writer waits for the other one.
    second = asyncio.create_task(store.insert(entry("acme/dataset/other")))

    with pytest.raises(DependencyError, match="locked"):
        await first
    with pytest.raises(DependencyError, match="locked"):
        await asyncio.wait_for(second, 1.0)
    other.close()
    await store.close()


async def test_a_long_range_read_does_not_hold_up_point_reads(tmp_path: Path) -> None:
    store = SqliteJournal(tmp_path / "test.db")
    await store.insert(entry())
    with store._opened().reading:  # As while a range is being read in its thread.
        assert await store.latest(entry().aggregate) == entry()
    await store.close()


async def test_writing_of_every_kind_at_once(tmp_path: Path) -> None:
    """Statements that end in one thread while another uses them make SQLite refuse."""
    store = SqliteJournal(tmp_path / "test.db")

    async def write(name: int) -> None:
        for version in range(1, 40):
            written = entry(f"acme/dataset/{name}", version, events=1)
            await asyncio.gather(store.insert(written), store.ping())
            await asyncio.gather(store.mark_relayed([written]), store.unrelayed())

    await asyncio.gather(*map(write, range(6)))

    assert await store.unrelayed() == []
    assert {head.version for head in await store.heads("dataset")} == {39}
    await store.close()


async def test_nothing_is_opened_before_it_is_used(tmp_path: Path) -> None:
    store = SqliteJournal(tmp_path / "folder" / "test.db")

    await store.close()

    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize("held", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
def test_two_that_open_a_new_file_at_once_wait_for_each_other(tmp_path: Path, held: str) -> None:
    """SQLite by itself refuses the second one's change to a write-ahead log at once."""
    path = tmp_path / "new.db"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute(held)
    release = threading.Timer(0.3, lambda: other.execute("COMMIT"))
    release.start()

    connection = connected(path)

    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    release.join()
    connection.close()
    other.close()
