"""How much the journal costs: appends through it against bare inserts into SQLite.

    python -m bench.journal                 nine rounds, half a minute
    python -m bench.journal --rounds 2 --seconds 0.5

One line a figure: name, value, what it is compared with. Both sides write the same rows, durably
(WAL, synchronous=FULL), in the same folder, in turns; a ratio is the median of the rounds' ratios.

    at 1    one caller after the other: the price of asyncio, a thread and one fsync an append
    at 64   64 callers at once: the journal commits what has gathered with one fsync, the bare side
            inserts 64 rows in each transaction
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import orjson
import uvloop

from libs.common.clock import SystemClock
from libs.common.journal import Change, Journal
from libs.common.stores.ports import Entry
from libs.common.stores.sqlite import SCHEMA, SqliteJournal

STATE = {"job": "training-42", "state": "running", "epoch": 7, "accuracy": 0.97, "note": "x" * 120}
WARM_S = 0.3
INSERT = "INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
Side = Callable[[Path, int, float], float]


def bare(folder: Path, at_once: int, seconds: float) -> float:
    """Rows a second of the sqlite3 module alone, `at_once` rows in each transaction."""
    connection = sqlite3.connect(folder / "bare.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.executescript(SCHEMA)
    rows, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        connection.execute("BEGIN IMMEDIATE")
        for _ in range(at_once):
            name = f"acme/job/{time.perf_counter_ns()}-{rows}"
            state = orjson.dumps(STATE)
            at_us = time.time_ns() // 1_000
            row = (name, 1, "submitted", "acme", "job", "Submitted", state, b"[]", at_us, "ada")
            connection.execute(INSERT, row)
            rows += 1
        connection.execute("COMMIT")
    took = time.perf_counter() - began
    connection.close()
    return rows / took


def appended(folder: Path, at_once: int, seconds: float) -> float:
    """Entries a second through `Journal.append`, by `at_once` callers."""
    return uvloop.run(_through_the_journal(folder, at_once, seconds, decide=False))


def decided(folder: Path, at_once: int, seconds: float) -> float:
    """Entries a second through `Journal.decide`, which also looks for the cause and the latest."""
    return uvloop.run(_through_the_journal(folder, at_once, seconds, decide=True))


async def _through_the_journal(folder: Path, at_once: int, seconds: float, decide: bool) -> float:
    store = SqliteJournal(folder / "journal.db")
    journal = Journal(store, SystemClock())
    await store.ping()
    numbers = count(time.perf_counter_ns())
    change = Change("Submitted", STATE)
    entries, began = 0, time.perf_counter()

    async def submit(_latest: Entry | None) -> Change:
        return change

    async def write() -> None:
        nonlocal entries
        while time.perf_counter() - began < seconds:
            name = f"acme/job/{next(numbers)}"
            if decide:
                await journal.decide(name, "submitted", "ada", submit)
            else:
                await journal.append(name, 0, "submitted", change, "ada")
            entries += 1

    await asyncio.gather(*(write() for _ in range(at_once)))
    took = time.perf_counter() - began
    await store.close()
    return entries / took


def compare(name: str, side: Side, at_once: int, rounds: int, seconds: float) -> str:
    """One line: the median of both sides, and of their ratios round by round."""
    ours: list[float] = []
    theirs: list[float] = []
    with tempfile.TemporaryDirectory(prefix="basalt-bench-") as folder:
        for warmed in (bare, side):
            warmed(Path(folder), at_once, WARM_S)
        # Held open, both keep their write-ahead log: a new one grows with each fsync, slowly.
        kept = [sqlite3.connect(Path(folder) / name) for name in ("bare.db", "journal.db")]
        for connection in kept:
            connection.execute("SELECT * FROM journal LIMIT 1").fetchone()
        for number in range(rounds):
            # In turns also within a round, as what else uses the disk comes and goes.
            for measured, results in ((bare, theirs), (side, ours))[:: -1 if number % 2 else 1]:
                results.append(measured(Path(folder), at_once, seconds))
        for connection in kept:
            connection.close()
    ratio = statistics.median(one / other for one, other in zip(ours, theirs, strict=True))
    return (
        f"{name} at {at_once:<2}  {statistics.median(ours):>9,.0f} /s"
        f"   raw SQLite inserts {statistics.median(theirs):>9,.0f} /s   ratio {ratio:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Journal appends against raw SQLite inserts.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.4, help="for each side of a round")
    options = parser.parse_args()
    for at_once in (1, 64):
        for name, side in (("journal appends  ", appended), ("journal decisions", decided)):
            print(compare(name, side, at_once, options.rounds, options.seconds), flush=True)


if __name__ == "__main__":
    main()
