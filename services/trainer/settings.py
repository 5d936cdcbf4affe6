"""What the trainer is told from outside."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from libs.common.settings import CommonSettings

# A worker that misses two heartbeats must not be suspected yet.
BEATS_PER_LEASE_MIN = 3


class Settings(CommonSettings):
    work: Path = Field(  # pyright: ignore[reportIncompatibleVariableOverride] - it is frozen.
        description="As above, and for training processes; fast, local"
    )
    jobs_at_once: int = Field(1, ge=1, le=64, description="Training processes at the same time")
    tenant_jobs_at_once: int = Field(
        0, ge=0, description="Of them, of one tenant, in all replicas together; 0: no limit"
    )
    lease_s: float = Field(
        15.0, gt=0, description="A running job whose worker is silent for this long is taken over"
    )
    beat_s: float = Field(2.0, gt=0, description="How often a worker reports on its job")
    poll_s: float = Field(2.0, gt=0, description="How often jobs of other replicas are looked for")
    checkpoint_every_s: float = Field(
        1.0, ge=0, description="How much training a kill may cost at the most"
    )

    @model_validator(mode="after")
    def _lease_outlasts_beats(self) -> Self:
        if self.lease_s < BEATS_PER_LEASE_MIN * self.beat_s:
            raise ValueError(
                f"lease_s must be at least {BEATS_PER_LEASE_MIN} times beat_s, or workers that are"
                " alive are suspected"
            )
        return self
