"""That an installation's files are its user's alone, whoever made them and however."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from libs.common.files import UMASK
from tools.servers.errors import ServerError

# So many entries of a folder are looked at, at a start: what lies deeper is behind the folders
# above it, which are closed first.
ENTRIES_MAX = 100_000
ROOT = 0
# Whose number is not known in this user namespace has this one: proc(5), overflowuid.
UNKNOWN = 65_534


def close(root: Path) -> int:
    """Takes what others may do with the folder and all in it away; how many entries had it.

    From the top down, so that nobody gets in any more before the rest is looked at. Links are left
    alone: what they lead to need not be ours.
    """
    closed = 0
    for entry, status in _entries(root):
        if stat.S_IMODE(status.st_mode) & UMASK:
            with suppress(FileNotFoundError):
                entry.chmod(stat.S_IMODE(status.st_mode) & ~UMASK)
                closed += 1
    return closed


def require_safe_parents(root: Path) -> None:
    """Raises ServerError where somebody else could put another folder in this one's place.

    It need not be there yet: then nothing is made where nothing may be.
    """
    resolved = root.resolve()
    if resolved.exists() and resolved.stat().st_uid != os.geteuid():
        raise ServerError(
            "basalt",
            f"the folder {root} belongs to {_name(resolved.stat().st_uid)}",
            "choose a folder of your own in BASALT_HOME",
        )
    for parent in filter(Path.is_dir, resolved.parents):
        if reason := _why_unsafe(parent.stat()):
            raise ServerError(
                "basalt",
                f"{parent} {reason}, who could so replace {root} and all that is in it",
                f"take that right away (chmod go-w {parent}), or choose another folder in"
                " BASALT_HOME",
            )


def _why_unsafe(status: os.stat_result) -> str:
    if status.st_uid not in (ROOT, os.geteuid(), UNKNOWN):
        return f"belongs to {_name(status.st_uid)}"
    # In a sticky folder such as /tmp only the owner of an entry replaces it.
    if status.st_mode & stat.S_ISVTX:
        return ""
    if status.st_mode & stat.S_IWOTH:
        return "may be written by every user"
    if status.st_mode & stat.S_IWGRP and not _is_private_group(status.st_gid):
        return f"may be written by its group (number {status.st_gid})"
    return ""


def _is_private_group(gid: int) -> bool:
    """Whether it is root's, or the group that many systems make for each user alone."""
    with suppress(KeyError):
        return gid == ROOT or gid == pwd.getpwuid(os.geteuid()).pw_gid == os.geteuid()
    return False


def _name(uid: int) -> str:
    try:
        return f"the user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"the user with the number {uid}"


def _entries(root: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The folder and what is in it, level by level; no links, no sockets' ends, no devices."""
    yield root, root.stat()
    level, seen = [root], 0
    while level:
        below: list[Path] = []
        for folder in level:
            with suppress(FileNotFoundError), os.scandir(folder) as entries:
                for entry in entries:
                    seen += 1
                    if seen > ENTRIES_MAX:
                        return
                    with suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        if stat.S_ISLNK(status.st_mode):
                            continue
                        yield Path(entry.path), status
                        if stat.S_ISDIR(status.st_mode):
                            below.append(Path(entry.path))
        level = below
