"""The folder for what is there only while a process works on it, of libraries and children too.

    <BASALT_WORK>/process-<number>-<random>/tmp     temporary files
                                           /jobs    the trainer's jobs

Each process has one of its own, which it holds by a lock: replicas may share BASALT_WORK.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import tempfile
from pathlib import Path

from libs.common.errors import DependencyError
from libs.common.files import PRIVATE_FOLDER, private_folder

PREFIX = "process-"
TEMPORARY = "tmp"
JOBS = "jobs"
# What releases before 0.2 left, directly in the folder.
EARLIER = ("upload-", "seal-")

_held: list[int] = []


def place(folder: Path | None) -> Path | None:
    """Where this process will work, a name that no other has; nothing is made yet."""
    if folder is None:
        return None
    return folder.absolute() / f"{PREFIX}{os.getpid()}-{secrets.token_hex(4)}"


def begin(own: Path | None) -> None:
    """From now on temporary files of this process lie in `own`, which `place` named.

    Processes that were killed left some of tenants' rows and models; nobody else would ever remove
    them. None: the system's own folder. Raises DependencyError when it cannot be used.
    """
    if own is None:
        return
    try:
        private_folder(own.parent)
        _remove_what_was_left(own.parent)
        _hold(own)
        (own / TEMPORARY).mkdir(mode=PRIVATE_FOLDER)
    except OSError as error:
        raise DependencyError(
            f"The folder for temporary files cannot be used: {error.strerror or error}.",
            which="work",
            next_step="See that BASALT_WORK may be written, or set it to another folder.",
            inside=str(own),
        ) from error
    tempfile.tempdir = os.environ["TMPDIR"] = str(own / TEMPORARY)


def _hold(own: Path) -> None:
    # Under another name until it is locked: nobody shall take it for one that was left.
    fresh = own.with_name(f".{own.name}")
    fresh.mkdir(mode=PRIVATE_FOLDER)
    descriptor = os.open(fresh, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    fresh.rename(own)
    _held.append(descriptor)


def _remove_what_was_left(folder: Path) -> None:
    for each in folder.iterdir():
        if each.is_dir() and not each.is_symlink():
            earlier = each.name.startswith(EARLIER)
            if earlier or (each.name.startswith(PREFIX) and not _is_held(each)):
                shutil.rmtree(each, ignore_errors=True)


def _is_held(folder: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
    return False
