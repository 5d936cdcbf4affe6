"""The folder for what is there only while a process works on it, of libraries and children too."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from libs.common.errors import DependencyError
from libs.common.files import PRIVATE_FOLDER

# Only these of the folder are emptied, whatever else somebody keeps there.
TEMPORARY = "tmp"
JOBS = "jobs"


def begin(folder: Path | None) -> None:
    """From now on temporary files of this process lie in `folder`; none is there, and no job's.

    A process that was killed left some of tenants' rows and models; nobody else would ever remove
    them. None: the system's own folder. Raises DependencyError when it cannot be used.
    """
    if folder is None:
        return
    temporary = folder.absolute() / TEMPORARY
    try:
        for name in (TEMPORARY, JOBS):
            empty(folder / name)
        temporary.mkdir(parents=True, exist_ok=True, mode=PRIVATE_FOLDER)
    except OSError as error:
        raise DependencyError(
            f"The folder for temporary files cannot be used: {error.strerror or error}.",
            which="work",
            next_step="See that BASALT_WORK may be written, or set it to another folder.",
            inside=str(temporary),
        ) from error
    tempfile.tempdir = os.environ["TMPDIR"] = str(temporary)


def empty(folder: Path) -> None:
    """Removes what is in it, as far as that can be removed; links are not followed."""
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)
