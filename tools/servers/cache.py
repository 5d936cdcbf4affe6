"""What was obtained once, for every process of this user: `$BASALT_CACHE` or ~/.cache/basalt.

An entry appears under its final name only when it is whole, and never changes afterwards.
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.servers.errors import ServerError

Report = Callable[[str, int, int], None]
"""Called with what is being done, how many parts are done, and how many there are."""


def silent(step: str, done: int, total: int) -> None:
    """The report of those who do not want one."""


def root() -> Path:
    chosen = os.environ.get("BASALT_CACHE")
    return Path(chosen).expanduser().absolute() if chosen else Path.home() / ".cache" / "basalt"


def obtain_once(key: str, build: Callable[[Path], None], *, which: str, bytes_needed: int) -> Path:
    """The folder `key` of the cache, built first if it is not there.

    `build` fills an empty folder beside it, which is then renamed. Parallel processes wait for
    the one that builds. A failed or interrupted build leaves nothing that counts.
    """
    final = root() / key
    if final.exists():
        return final
    with _locked(key, which):
        if not final.exists():
            _require_space(which, bytes_needed)
            partial = Path(tempfile.mkdtemp(prefix=f".{key}.", dir=root()))
            try:
                build(partial)
                partial.rename(final)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return final


def digest(*parts: str | bytes | Path) -> str:
    """A short name for exactly these inputs; the content of a path counts, not its name."""
    sha = hashlib.sha256()
    for part in parts:
        content = part.read_bytes() if isinstance(part, Path) else part
        sha.update(
            hashlib.sha256(content.encode() if isinstance(content, str) else content).digest()
        )
    return sha.hexdigest()[:12]


def verify(file: Path, sha256: str, *, which: str) -> None:
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != sha256:
        raise ServerError(
            which,
            f"{file.name} has the sha256 {found}, but {sha256} is pinned",
            "try again; if it stays, what the registry serves was altered: do not use it",
        )


@contextmanager
def _locked(key: str, which: str) -> Iterator[None]:
    try:
        root().mkdir(parents=True, exist_ok=True)
        lock = (root() / f".{key}.lock").open("a")
    except OSError as error:
        raise ServerError(
            which,
            f"the cache {root()} cannot be written: {error}",
            "set BASALT_CACHE to a folder of yours",
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _require_space(which: str, bytes_needed: int) -> None:
    free = shutil.disk_usage(root()).free
    if free < bytes_needed:
        raise ServerError(
            which,
            f"needs {bytes_needed >> 20} MiB in {root()}, but {free >> 20} MiB are free",
            "make room, or set BASALT_CACHE to a folder on a larger disk",
        )
