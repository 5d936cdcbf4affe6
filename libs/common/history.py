"""What happened to the platform: a line of JSON for each fault and for what mended it.

A writer has a file of its own in one folder, so nobody waits for anybody; a reader merges them. So
the history can be read while nothing of the platform runs. A line that a crash cut is left out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from libs.common.clock import Clock
from libs.common.files import PRIVATE, PRIVATE_FOLDER

# Of each writer twice: a full file is set aside, and the one set aside before is dropped.
FILE_BYTES_MAX = 1024 * 1024
TEXT_CHARACTERS_MAX = 500
ENDING = ".jsonl"


@dataclass(frozen=True, slots=True)
class Happening:
    """`kind` is a past participle or a state: died, silent, restarted, failed, degraded...

    `took_s` is how long what `kind` ended had lasted, and `mended_by` who ended it.
    """

    at: datetime
    component: str
    kind: str
    detail: str = ""
    mended_by: str = ""
    took_s: float = 0.0


class HistoryFile:
    """One writer's. A line is in the file when `note` returns, whatever kills the process then."""

    def __init__(self, folder: Path, writer: str) -> None:
        self._file = folder / f"{writer}{ENDING}"

    def note(self, happening: Happening) -> None:
        """A disk that takes no line loses it: what is told of matters more than the telling."""
        said = asdict(happening) | {
            "at": happening.at.isoformat(timespec="milliseconds"),
            "detail": happening.detail[:TEXT_CHARACTERS_MAX],
            "took_s": round(happening.took_s, 3),
        }
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=PRIVATE_FOLDER)
            self._make_room()
            descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, PRIVATE)
            with open(descriptor, "ab", buffering=0) as file:
                # After a line that was cut, the next one begins on its own.
                cut = file.tell() > 0 and not self._ends_well()
                file.write((b"\n" if cut else b"") + json.dumps(said).encode() + b"\n")

    def newest(self, count_max: int) -> list[Happening]:
        """Of all who write in this folder, newest first."""
        return read(self._file.parent, count_max)

    def _make_room(self) -> None:
        if self._file.exists() and self._file.stat().st_size > FILE_BYTES_MAX:
            self._file.replace(self._file.with_name(self._file.name + ".1"))

    def _ends_well(self) -> bool:
        with self._file.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"


class Mended:
    """Notes what a service saw go wrong and put right by itself; nowhere without a file."""

    def __init__(self, service: str, clock: Clock, file: HistoryFile | None = None) -> None:
        self._service = service
        self._clock = clock
        self._file = file

    def fault(self, component: str, kind: str, detail: str) -> None:
        """Something is wrong from now on."""
        self._note(Happening(self._clock.now(), component, kind, detail))

    def mended(self, component: str, kind: str, detail: str, took_s: float = 0.0) -> None:
        """Something was wrong, and is not any more."""
        self._note(Happening(self._clock.now(), component, kind, detail, self._service, took_s))

    def _note(self, happening: Happening) -> None:
        if self._file is not None:
            self._file.note(happening)


def read(folder: Path, count_max: int) -> list[Happening]:
    """The newest of all writers, newest first. A folder that is not there holds none."""
    found: list[Happening] = []
    for file in sorted(folder.glob(f"*{ENDING}*")):
        found += _lines(file)
    return sorted(found, key=lambda each: each.at, reverse=True)[:count_max]


def _lines(file: Path) -> Iterator[Happening]:
    try:
        lines = file.read_bytes().splitlines()
    except OSError:  # It was set aside at this moment.
        return
    for line in lines:
        with suppress(ValueError, TypeError, KeyError, AttributeError):
            yield _happening(json.loads(line))


def _happening(said: dict[str, Any]) -> Happening:
    """Of a later release it may say more, of an earlier one less."""
    known = {field.name for field in fields(Happening)}
    told = {name: value for name, value in said.items() if name in known}
    at = datetime.fromisoformat(told.pop("at"))
    if at.tzinfo is None:
        raise ValueError("A time without a zone.")
    return Happening(at=at, **told)
