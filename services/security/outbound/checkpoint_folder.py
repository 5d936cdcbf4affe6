"""Checkpoints in a folder: on a laptop, where nothing is under lock. Copy them elsewhere."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from libs.common.errors import DependencyError
from libs.common.files import PRIVATE, write_durably

ENDING = ".checkpoint"


@dataclass(frozen=True, slots=True)
class CheckpointFolder:
    """`<folder>/<tenant>/<size>.checkpoint`; what is there is never written again."""

    folder: Path

    async def keep(self, tenant: str, size: int, note: str) -> None:
        await asyncio.to_thread(self._keep, self.folder / tenant, size, note)

    async def newest(self, tenant: str) -> str | None:
        return await asyncio.to_thread(self._newest, self.folder / tenant)

    def _keep(self, folder: Path, size: int, note: str) -> None:
        file = folder / f"{size:015d}{ENDING}"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not file.exists():
                write_durably(file, note.encode(), PRIVATE)
        except OSError as error:
            raise _unavailable(file, error) from error

    def _newest(self, folder: Path) -> str | None:
        try:
            files = sorted(folder.glob(f"*{ENDING}"))
            return files[-1].read_text() if files else None
        except OSError as error:
            raise _unavailable(folder, error) from error


def _unavailable(file: Path, error: OSError) -> DependencyError:
    return DependencyError(
        f"{file} cannot be used: {error.strerror}.",
        which="checkpoints",
        next_step="Let security write the folder of BASALT_CHECKPOINTS, on a disk with space.",
    )
