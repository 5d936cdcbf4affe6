"""Opens Parquet files in a process of their own, whose memory the kernel limits."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import orjson

from libs.common.errors import InvalidInputError
from services.ingest.core.limits import RECORD_BYTES_MAX, ROW_GROUP_BYTES_MAX
from services.ingest.outbound.parquet_reading import MEMORY_BYTES_MAX
from services.ingest.ports import Table

PROGRAM = "services.ingest.outbound.parquet_reading"
ROOT = Path(__file__).parents[3]
LINE_BYTES_MAX = RECORD_BYTES_MAX + 1
# The first line names the columns: at most 500 that a contract knows, and as many that it does not.
COLUMNS_BYTES_MAX = RECORD_BYTES_MAX
# Only this: the settings with their secrets are not for whoever reads a stranger's file.
ENVIRONMENT = {"ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}


class ParquetProcess:
    @contextmanager
    def open(self, path: Path) -> Iterator[Table]:
        """Raises InvalidInputError for what is no Parquet file, or takes too much to open."""
        process = subprocess.Popen(
            [sys.executable, "-m", PROGRAM, str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            env=ENVIRONMENT,
        )
        try:
            assert process.stdout is not None  # noqa: S101 - it is a pipe.
            first = _document(process.stdout.readline(COLUMNS_BYTES_MAX))
            yield Table(first["columns"], _rows(process.stdout))
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _rows(lines: IO[bytes]) -> Iterator[bytes]:
    while line := lines.readline(LINE_BYTES_MAX):
        if line == b"\n":
            return
        if line.startswith(b"!"):
            _document(line)
        yield line[:-1]
    raise _too_much()


def _document(line: bytes) -> dict[str, Any]:
    """A line that is about the file. Raises what it refuses."""
    if not line.endswith(b"\n"):
        raise _too_much()
    said: dict[str, Any] = orjson.loads(line[1:])
    if "refused" in said:
        raise InvalidInputError(said["refused"], which="file", next_step=said["next_step"])
    return said


def _too_much() -> InvalidInputError:
    return InvalidInputError(
        f"The file needs over {MEMORY_BYTES_MAX} bytes of memory to be opened.",
        which="file",
        next_step=f"Write it with row groups and pages that are below {ROW_GROUP_BYTES_MAX} bytes"
        " when decompressed; nothing of it was taken.",
    )
