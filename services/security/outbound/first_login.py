"""The note with the first administrator's one-time password: a file that only its owner reads."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from libs.common.errors import DependencyError

MODE = 0o600


class FirstLoginFile:
    def __init__(self, path: Path) -> None:
        self._path = path

    async def write(self, tenant: str, name: str, password: str) -> None:
        text = (
            f"tenant: {tenant}\nuser: {name}\none-time password: {password}\n"
            "It has to be changed at the first login: basalt login\n"
        )
        try:
            await asyncio.to_thread(self._write, text)
        except OSError as error:
            raise DependencyError(
                f"The note for the first login cannot be written: {error.strerror}.",
                which=str(self._path),
                next_step="Set BASALT_FIRST_LOGIN_FILE to a file that can be written.",
            ) from error

    async def remove(self) -> None:
        await asyncio.to_thread(self._path.unlink, missing_ok=True)

    def _write(self, text: str) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_name(f"{self._path.name}.{os.getpid()}.partial")
        partial.unlink(missing_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        partial.replace(self._path)
