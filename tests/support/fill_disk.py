"""Fills the small disk it is given through the stores: python -m tests.support.fill_disk FOLDER

Prints what the stores said, as JSON. Run in a mount namespace of its own: see test_full_disk.py.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
from pathlib import Path

from libs.common.clock import SystemClock
from libs.common.errors import DependencyError
from libs.common.journal import Change, Journal
from libs.common.stores.directory import DirectoryObjects
from libs.common.stores.sqlite import SqliteJournal

ENTRIES_MAX = 10_000
JOB = "acme/job/1"


async def append_until_full(journal: Journal) -> tuple[int, DependencyError]:
    for version in range(ENTRIES_MAX):
        latest = await journal.latest(JOB)
        after = latest.version if latest else 0
        try:
            await journal.append(
                JOB, after, f"{after}-{version}", Change("Noted", {"x": "y" * 900}), "ada"
            )
        except DependencyError as error:
            return after, error
    raise AssertionError("The disk never filled.")


async def fill(folder: Path) -> dict[str, object]:
    filler = folder / "filler"
    filler.write_bytes(b"x" * 200_000)
    objects = DirectoryObjects(folder / "objects")
    await objects.put("acme/model/kept", b"kept")
    store = SqliteJournal(folder / "journal" / "test.db")
    journal = Journal(store, SystemClock())

    taken, journal_error = await append_until_full(journal)
    try:
        await objects.put("acme/model/large", b"x" * 2_000_000)
        objects_error = None
    except DependencyError as error:
        objects_error = error
    kept = (await objects.get("acme/model/kept")).decode()
    keys = [key async for key in objects.keys("")]
    during = len(await journal.history(JOB))

    filler.unlink()
    after = await journal.append(JOB, taken, "after", Change("Noted", {}), "ada")
    await objects.put("acme/model/small", b"small")
    await store.close()
    with sqlite3.connect(folder / "journal" / "test.db") as connection:
        (integrity,) = connection.execute("PRAGMA integrity_check").fetchone()
    return {
        "taken": taken,
        "during": during,
        "after": after.version,
        "journal": [str(journal_error), journal_error.which],
        "objects": [str(objects_error), objects_error.which if objects_error else ""],
        "kept": kept,
        "keys": keys,
        "integrity": integrity,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(fill(Path(sys.argv[1])))))
