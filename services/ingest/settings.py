"""What ingest is told from outside."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from libs.common.settings import CommonSettings


class Settings(CommonSettings):
    spool: Path | None = Field(
        None, description="Folder for uploads on their way in, and for versions being made"
    )
