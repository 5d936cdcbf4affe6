"""What ingest is told from outside."""

from __future__ import annotations

from libs.common.settings import CommonSettings


class Settings(CommonSettings):
    """Nothing of its own."""
