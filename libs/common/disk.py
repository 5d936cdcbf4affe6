"""Whether a disk has room, told before what is written to it fails."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from libs.common.errors import DependencyError, LimitError

MIB = 1024 * 1024
# Below the first it is said; below the second what is written may fail at any moment.
FREE_BYTES_LOW = 512 * MIB
FREE_BYTES_LAST = 64 * MIB
# What the kernel says when a disk, or a user's share of it, is full.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True)
class Disk:
    """Where a service writes. `ping` is what its health asks."""

    folders: tuple[Path, ...]

    @classmethod
    def under(cls, stores: Iterable[str], folders: Iterable[Path] = ()) -> Disk:
        """Of the stores that are folders (`sqlite:FOLDER`, `directory:FOLDER`), and of others."""
        local = (each.partition(":") for each in stores)
        found = [Path(folder) for kind, _, folder in local if kind in ("sqlite", "directory")]
        return cls(tuple(dict.fromkeys((*found, *folders))))

    async def ping(self) -> None:
        """Raises LimitError when there is little room, DependencyError when there is none."""
        for folder in self.folders:
            self.require_room(folder)

    @staticmethod
    def require_room(folder: Path) -> None:
        free = free_bytes(folder)
        if free >= FREE_BYTES_LOW:
            return
        kind = LimitError if free >= FREE_BYTES_LAST else DependencyError
        raise kind(
            f"The disk has {free // MIB} MiB free; below {FREE_BYTES_LOW // MIB} MiB uploads,"
            " training and events are about to fail.",
            which="disk",
            next_step="Make room, or move the platform's folder to a larger disk.",
        )


def is_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in FULL


def no_room() -> DependencyError:
    return DependencyError(
        "The disk is full; nothing was written.",
        which="disk",
        next_step="Make room, or move the platform's folder to a larger disk; then try again.",
    )


def free_bytes(folder: Path) -> int:
    """Of the disk that the folder is on, or will be once it is made."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free
