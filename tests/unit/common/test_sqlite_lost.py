"""Files that are moved or removed while they are in use: nothing is written to them unseen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from libs.common.errors import DependencyError
from libs.common.stores.sqlite import SqliteJournal
from services.monitoring.outbound.sqlite_file import SqliteFile
from tests.support.entries import entry

FILE = "test.db"


def moved_away(path: Path, to: Path) -> Callable[[], None]:
    path.rename(to)

    def back() -> None:
        to.rename(path)

    return back


LOSSES: dict[str, Callable[[Path], Callable[[], None]]] = {
    "the file": lambda folder: moved_away(folder / FILE, folder / "elsewhere.db"),
    "its log": lambda folder: moved_away(folder / f"{FILE}-wal", folder / "elsewhere.db"),
    "the folder": lambda folder: moved_away(folder, folder.with_name("elsewhere")),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "journals").mkdir()
    return tmp_path / "journals"


@pytest.mark.parametrize("loss", LOSSES)
async def test_a_journal_whose_files_were_moved_takes_nothing_until_they_are_back(
    folder: Path, loss: str
) -> None:
    store = SqliteJournal(folder / FILE)
    await store.insert(entry())

    back = LOSSES[loss](folder)
    for work in (store.insert(entry(version=2)), store.ping(), store.mark_relayed([entry()])):
        with pytest.raises(DependencyError, match="moved or removed") as refusal:
            await work
        assert "Put it back" in refusal.value.next_step
    # Nor does an empty one take its place when the service is started meanwhile.
    started = SqliteJournal(folder / FILE)
    if loss == "the file":
        for work in (started.ping(), started.insert(entry())):
            with pytest.raises(DependencyError, match="there was one"):
                await work
        assert not (folder / FILE).exists()
    back()
    await store.insert(entry(version=2))
    await store.close()

    again = SqliteJournal(folder / FILE)
    assert [each.version for each in await again.history(entry().aggregate)] == [1, 2]
    await again.close()


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_journal_never_writes_to_a_removed_file(folder: Path, replaced: bool) -> None:
    store = SqliteJournal(folder / FILE)
    await store.insert(entry())
    (folder / FILE).unlink()
    if replaced:
        (folder / FILE).write_bytes(b"")
    with pytest.raises(DependencyError, match="moved or removed"):
        await store.insert(entry(version=2))
    await store.close()


@pytest.mark.parametrize("loss", LOSSES)
async def test_a_store_that_can_be_made_anew_is(folder: Path, loss: str) -> None:
    store = SqliteFile(folder / FILE, "rows", "CREATE TABLE IF NOT EXISTS row (n)")
    await store.write(lambda connection: connection.execute("INSERT INTO row VALUES (1)"))
    LOSSES[loss](folder)

    await store.write(lambda connection: connection.execute("INSERT INTO row VALUES (2)"))

    again = SqliteFile(folder / FILE, "rows", "")
    kept = await again.read(lambda connection: connection.execute("SELECT n FROM row").fetchall())
    assert (2,) in kept
    await again.close()
    await store.close()
