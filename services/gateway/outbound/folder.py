"""The door's folder on a disk that gateway, Envoy and dispatcher share."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from libs.common.errors import DependencyError
from libs.common.files import PRIVATE, PRIVATE_FOLDER, private_folder, set_folder_aside

# No file of ours begins so.
DAMAGED = "�"


class DiskDoorFolder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def prepare(self) -> None:
        """Raises DependencyError when it cannot be written to."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=PRIVATE_FOLDER)
        except OSError as error:
            raise self._failed(self._folder, error) from error
        if not os.access(self._folder, os.W_OK | os.X_OK):
            raise self._failed(self._folder, PermissionError("no right to write"))

    def read(self, name: str) -> str | None:
        """Its text; None where there is none, and another text than any of ours of what is no file
        or cannot be read: it is to be replaced.
        """
        file = self._folder / name
        try:
            # What waits at its opening, as a pipe does, is not opened.
            return file.read_text(errors="replace") if file.is_file() else _else(file)
        except FileNotFoundError:
            return None
        except OSError:
            return DAMAGED

    def replace(self, name: str, content: str) -> None:
        """Whatever is there instead of a file is set aside; a folder that has gone is made anew."""
        target = self._folder / name
        partial = target.with_name(f".{name}.{os.getpid()}")
        try:
            private_folder(self._folder)
            set_folder_aside(target)
            with partial.open("w") as file:
                os.fchmod(file.fileno(), PRIVATE)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise self._failed(target, error) from error

    def trim(self, name: str, bytes_max: int) -> None:
        """Its writer appends and keeps the file open, so the content is moved, not the file."""
        log = self._folder / name
        try:
            if not log.exists() or log.stat().st_size <= bytes_max:
                return
            shutil.copyfile(log, log.with_name(f"{name}.1"))
            os.truncate(log, 0)
        except OSError as error:
            raise self._failed(log, error) from error

    def _failed(self, path: Path, error: OSError) -> DependencyError:
        return DependencyError(
            f"The door's folder cannot be used: {error.strerror or 'it fails'}.",
            which="door folder",
            next_step="See that BASALT_DOOR_FOLDER exists, may be written, and has room.",
            inside=f"{path}: {error}",
        )


def _else(path: Path) -> str | None:
    return DAMAGED if path.is_symlink() or path.exists() else None
