"""The revocations that the dispatcher remembers for a start without security: a line each."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO

import structlog

from libs.common.revocations import Revocation, Revocations

FILE_MODE = 0o600

log = structlog.get_logger(__name__)


class RevocationFile:
    """A new one costs a line, however many there are; expired ones are left out at each start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def begin(self) -> list[Revocation]:
        """Those that still count, without a line that a crash left half."""
        known = Revocations()
        known.add(*self._read())
        partial = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            with self._opened(partial, os.O_TRUNC) as file:
                file.writelines(_line(each) for each in known)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._path)
            self._file = self._opened(self._path, os.O_APPEND)
        except OSError as error:
            log.warning("revocations_not_kept", error=str(error))
        return list(known)

    def append(self, revocations: Sequence[Revocation]) -> None:
        """Raises OSError."""
        if self._file is not None and revocations:
            self._file.writelines(_line(each) for each in revocations)
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read(self) -> list[Revocation]:
        try:
            lines = self._path.read_text().splitlines()
        except (OSError, UnicodeDecodeError):
            return []
        found: list[Revocation] = []
        for line in lines:
            try:
                found.append(Revocation(**json.loads(line)))
            except (ValueError, TypeError):
                log.warning("revocation_unreadable", file=self._path.name)
        return found

    def _opened(self, path: Path, flags: int) -> IO[str]:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | flags, FILE_MODE), "w")


def _line(revocation: Revocation) -> str:
    return json.dumps(asdict(revocation), separators=(",", ":")) + "\n"
