"""What ingest is told from outside."""

from __future__ import annotations

from pydantic import Field

from libs.common.settings import CommonSettings


class Settings(CommonSettings):
    ahead_s_max: float = Field(
        86_400.0,
        gt=0,
        description="An event whose time is further ahead of the clock is held: it would win over"
        " every later one of its key",
    )
