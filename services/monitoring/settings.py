"""What monitoring is told from outside."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from libs.common.settings import CommonSettings


def _store_of_traces(address: str) -> str:
    if address and not address.startswith("sqlite:"):
        raise ValueError(
            f"{address!r} is not sqlite:FOLDER. Leave it empty where a collector takes the spans"
        )
    return address


class Settings(CommonSettings):
    metrics_listen: str = Field(description="Where Prometheus reads /metrics: host:port")
    metrics_key: SecretStr = Field(
        min_length=16, description="What Prometheus sends as a bearer token for /metrics"
    )
    traces: Annotated[str, AfterValidator(_store_of_traces)] = Field(
        "", description="sqlite:FOLDER keeps spans here; empty: they go to a collector instead"
    )
    otlp_key: SecretStr = Field(
        SecretStr(""), description="What senders' tokens are made with; none is known without it"
    )
    otlp_listen: str = Field(
        "", description="Where spans arrive by OTLP over gRPC: host:port, or unix:PATH"
    )
    otlp_http_listen: str = Field("", description="Where spans arrive by OTLP over HTTP: host:port")
    drift_window_rows: int = Field(
        1_000, ge=50, le=5_000, description="The newest live rows that are compared"
    )
    drift_recent_rows: int = Field(
        200, ge=30, le=5_000, description="And the newest of these, where a sudden change shows"
    )
    drift_rows_min: int = Field(
        100, ge=30, le=5_000, description="With fewer live rows nothing is compared"
    )
    drift_interval_s: float = Field(2.0, gt=0, le=3_600, description="Between two comparisons")
    drift_ks_limit: float = Field(
        0.15, gt=0, le=1, description="The smallest KS distance that counts as drift"
    )
    drift_psi_limit: float = Field(
        0.2, gt=0, description="The population stability index that counts as drift"
    )
    drift_alpha: float = Field(
        0.0001, gt=0, lt=0.1, description="The chance that a comparison cries wolf"
    )
    health_interval_s: float = Field(10.0, gt=0, description="Between two looks at every service")
    trace_spans_max: int = Field(500_000, ge=1_000, description="Spans kept; the oldest go first")
    trace_hours_max: float = Field(72.0, gt=0, description="How long spans are kept")
