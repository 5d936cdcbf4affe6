"""The revocations that the dispatcher remembers for a start without security: a line each."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO

import structlog

from libs.common.files import set_folder_aside
from libs.common.revocations import Revocation, Revocations

FILE_MODE = 0o600

log = structlog.get_logger(__name__)


class RevocationFile:
    """A new one costs a line, however many there are; expired ones are left out at each start.

    `known` is what is in force: from it the file is written anew when somebody has taken it.
    """

    def __init__(self, path: Path, known: Revocations) -> None:
        self._path = path
        self._known = known
        self._file: IO[str] | None = None
        self._seen = (0, 0, 0)

    def begin(self) -> None:
        """What still counts is known from here on, without a line that a crash left half."""
        self._known.add(*self._read())
        try:
            self._write()
        except OSError as error:
            log.warning("revocations_not_kept", error=str(error))

    def append(self, revocations: Sequence[Revocation]) -> None:
        """Of `known` those that are new. Raises OSError."""
        if self._file is None or not self._is_there():
            self._write()
        elif revocations:
            self._file.writelines(_lines(revocations))
            self._file.flush()
            self._seen = _seen(os.fstat(self._file.fileno()))

    async def look(self) -> None:
        """Raises OSError where it cannot be written; it is asked for again and again."""
        if self._file is None or not self._is_there():
            log.warning("revocations_written_anew", count=len(list(self._known)))
            self._write()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _is_there(self) -> bool:
        """Whether the next start finds what we wrote last."""
        try:
            return _seen(self._path.stat()) == self._seen
        except OSError:
            return False

    def _write(self) -> None:
        self.close()
        partial = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        set_folder_aside(self._path)
        with self._opened(partial, os.O_TRUNC) as file:
            file.writelines(_lines(self._known))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._path)
        self._file = self._opened(self._path, os.O_APPEND)
        self._seen = _seen(os.fstat(self._file.fileno()))

    def _read(self) -> list[Revocation]:
        try:
            # What waits at its opening, as a pipe does, is not opened.
            lines = self._path.read_bytes().splitlines() if self._path.is_file() else []
        except OSError:
            return []
        found: list[Revocation] = []
        for line in lines:
            try:
                found.append(Revocation(**json.loads(line)))
            except (ValueError, TypeError, RecursionError):
                log.warning("revocation_unreadable", file=self._path.name)
        return found

    def _opened(self, path: Path, flags: int) -> IO[str]:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | flags, FILE_MODE), "w")


def _seen(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _lines(revocations: Iterable[Revocation]) -> Iterable[str]:
    return (json.dumps(asdict(each), separators=(",", ":")) + "\n" for each in revocations)
