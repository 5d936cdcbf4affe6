"""Files that are there whole or not at all, after a power cut as well."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

PRIVATE = 0o600
PRIVATE_FOLDER = 0o700
# What a process of ours leaves to its group and to others of what it creates: nothing.
UMASK = 0o077


def keep_private() -> None:
    """From now on whatever this process and its children create is their user's alone."""
    os.umask(UMASK)


def write_durably(file: Path, content: bytes, mode: int = PRIVATE) -> None:
    """Written beside, synced, then moved into place; for one writer at a time.

    Raises OSError, and then the file is as it was.
    """
    partial = file.with_name(f".{file.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as to:
            to.write(content)
            to.flush()
            os.fsync(to.fileno())
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(file.parent)


def identity(path: Path) -> tuple[int, int] | None:
    """Of what is there, whatever its name is; None when there is nothing."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def set_folder_aside(path: Path) -> None:
    """Where a file is to be moved into place: nothing can be moved over a folder."""
    if path.is_dir() and not path.is_symlink():
        set_aside(path)


def set_aside(path: Path) -> None:
    """Moves what is where something else belongs to `<name>.aside`; the last one is kept."""
    aside = path.with_name(f"{path.name}.aside")
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside)
    else:
        aside.unlink(missing_ok=True)
    path.rename(aside)


def private_folder(folder: Path) -> None:
    """It is there, a folder, and its user's alone, whatever was in its place. Raises OSError."""
    if (folder.is_symlink() or folder.exists()) and not folder.is_dir():
        set_aside(folder)
    folder.mkdir(parents=True, exist_ok=True, mode=PRIVATE_FOLDER)
    if folder.stat().st_mode & UMASK:
        folder.chmod(PRIVATE_FOLDER)


def sync_folder(folder: Path) -> None:
    """A name in a folder is durable once the folder is synced."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
