"""What releases kept, as samples of it: entries of journals, objects, events on topics.

    <release>/<service>.jsonl   entries of a journal, whole aggregates, each with its first version
    <release>/events.jsonl      what was published on each topic of `flow.py`, headers and body
    <release>/objects.jsonl     what the entries name, in base64; rows of the large dataset left out

A sample is never changed once its release is out: whatever reads it today has to read it for ever.
"""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from libs.common.settings import SERVICES
from libs.common.stores.encoding import decoded_outbox, from_us
from libs.common.stores.ports import Entry, Outgoing

HERE = Path(__file__).parent
# The installation that was sampled had this as its master key, so that samples can be opened. It
# never sealed anything else.
MASTER_KEY = b"This key opens samples, nothing."
# Rows of the story's dataset are larger and left out; all else is below.
OBJECT_BYTES_MAX = 40_000
ROWS_BYTES_MAX = 12_000
# What is read by walking from one aggregate to the next needs all of them.
WHOLE = (
    "audit-tile",
    "checkpoint",
    "dataset",
    "deployment",
    "model",
    "quarantine",
    "resolution",
    "signature",
    "source",
    "source-key",
    "stream",
    "user",
    "version",
    "watch",
)
# A candidate is a model of `inference` as well; a checkpoint is for the attempt that goes on.
LEFT_OUT = {("trainer", "candidates"), ("trainer", "checkpoints")}
# What is longer is sampled last, and no further than to the last entry that is like no other.
ENTRIES_WANTED_MAX = 60


@dataclass(frozen=True)
class Published:
    """An event as it stood on its topic."""

    topic: str
    key: str
    headers: Mapping[str, str]
    body: str


def releases() -> list[Path]:
    return sorted(folder for folder in HERE.iterdir() if (folder / "events.jsonl").exists())


def whole() -> list[Path]:
    """Those of a platform that went through everything; others hold only what was new."""
    return [release for release in releases() if (release / "events.jsonl").stat().st_size]


def entries(release: Path, service: str) -> list[Entry]:
    """In the order in which they were appended to each aggregate."""
    return [_entry(line) for line in _lines(release / f"{service}.jsonl")]


def events(release: Path) -> list[Published]:
    return [Published(**line) for line in _lines(release / "events.jsonl")]


def objects(release: Path) -> Iterator[tuple[str, bytes]]:
    """Path below the folder of objects, and content."""
    for line in _lines(release / "objects.jsonl"):
        yield line["path"], base64.b64decode(line["base64"])


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def _entry(line: dict[str, Any]) -> Entry:
    outbox = tuple(Outgoing(**each) for each in line["outbox"])
    return Entry(**{**line, "at": datetime.fromisoformat(line["at"]), "outbox": outbox})


# Recording.


def write(release: Path, home: Path, published: Iterable[Published]) -> None:
    release.mkdir(parents=True, exist_ok=True)
    for service in SERVICES:
        _write(release / f"{service}.jsonl", _sampled(home / "journals" / f"{service}.db"))
    _write(release / "events.jsonl", _distinct(published))
    kept = "".join((release / f"{service}.jsonl").read_text() for service in SERVICES)
    _write(release / "objects.jsonl", _objects(home / "objects", kept))


def _write(file: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def _sampled(journal: Path) -> Iterator[Mapping[str, Any]]:
    """Whole aggregates, as few of a kind as together have every type and shape of entry."""
    connection = sqlite3.connect(journal)
    rows = connection.execute(
        "SELECT aggregate, version, cause, type, state, outbox, at_us, by, kind FROM journal"
        " ORDER BY kind, aggregate, version"
    ).fetchall()
    connection.close()
    aggregates: dict[str, list[tuple[Any, ...]]] = {}
    for row in rows:
        aggregates.setdefault(row[0], []).append(row)
    reach = dict(_checked(row) for row in rows if row[8] == "checkpoint")
    seen: set[object] = set()
    for lot in sorted(
        aggregates.values(), key=lambda lot: (lot[0][8], len(lot) > ENTRIES_WANTED_MAX, -len(lot))
    ):
        shapes = [(row[8], row[3], _shape(json.loads(row[4]))) for row in lot]
        new = [place for place, shape in enumerate(shapes, 1) if shape not in seen]
        checked = reach.get(lot[0][0], 0)
        if not new and not checked and lot[0][8] not in WHOLE:
            continue
        seen.update(shapes)
        end = len(lot) if len(lot) <= ENTRIES_WANTED_MAX else max(new, default=1)
        yield from map(_line, lot[: max(end, checked)])


def _checked(row: tuple[Any, ...]) -> tuple[str, int]:
    """Which audit log a checkpoint speaks of, and of how many of its entries."""
    return row[0].replace("/checkpoint/", "/audit/"), json.loads(row[4])["size"]


def _line(row: tuple[Any, ...]) -> Mapping[str, Any]:
    aggregate, version, cause, type_, state, outbox, at_us, by, _ = row
    return {
        "aggregate": aggregate,
        "version": version,
        "cause": cause,
        "type": type_,
        "state": json.loads(state),
        "at": from_us(at_us).isoformat(),
        "by": by,
        "outbox": [
            {
                "event_id": each.event_id,
                "topic": each.topic,
                "key": each.key,
                "payload": each.payload,
                "traceparent": each.traceparent,
            }
            for each in decoded_outbox(outbox)
        ],
    }


def _distinct(published: Iterable[Published]) -> list[Mapping[str, Any]]:
    """The smallest of each shape on each topic, in a stable order."""
    smallest: dict[object, Published] = {}
    for each in published:
        shape = (each.topic, _shape(json.loads(each.body)), tuple(sorted(each.headers)))
        if shape not in smallest or len(each.body) < len(smallest[shape].body):
            smallest[shape] = each
    chosen = sorted(smallest.values(), key=lambda each: (each.topic, each.body))
    return [
        {"topic": e.topic, "key": e.key, "headers": dict(e.headers), "body": e.body} for e in chosen
    ]


def _shape(value: Any) -> object:
    """What fields there are and of what type; how many elements a list has does not matter."""
    if isinstance(value, dict):
        # The keys of a table (metrics, tokens, covers) are data, not fields.
        if any(not key.isidentifier() or len(key) > 40 for key in value):
            return ("table", frozenset(map(_shape, value.values())))
        return tuple(sorted((key, _shape(each)) for key, each in value.items()))
    if isinstance(value, list):
        return ("list", frozenset(map(_shape, value)))
    return type(value).__name__


def _objects(folder: Path, kept: str) -> Iterator[Mapping[str, Any]]:
    """What the entries name, by digest or by the job that it belongs to."""
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        path = file.relative_to(folder).as_posix()
        service, _, kind, name = path.split("/")[:4]
        most = ROWS_BYTES_MAX if service == "ingest" else OBJECT_BYTES_MAX
        if (service, kind) in LEFT_OUT or file.stat().st_size > most or name not in kept:
            continue
        yield {"path": path, "base64": base64.b64encode(file.read_bytes()).decode()}
