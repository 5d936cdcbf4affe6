"""What the gateway is told from outside; its dispatcher is told the same."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from libs.common.settings import CommonSettings


class Settings(CommonSettings):
    triton: str = Field(
        description="Triton's gRPC address: host:port, unix:PATH, or tls:host:port (mutual TLS"
        " with the certificate in BASALT_TLS)"
    )
    door_listen: str = Field(description="Where Envoy listens for callers: host:port")
    door_folder: Path = Field(
        description="Folder of Envoy's configuration, the routes and the dispatcher's socket"
    )
    slow_grpc_listen: str = Field(
        description="Where what is not hot is served by gRPC: host:port, or unix:PATH"
    )
    slow_rest_listen: str = Field(
        description="Where REST is served, behind Envoy: host:port, or unix:PATH"
    )
    envoy_admin: str = Field(
        description="Envoy's admin listener, which we only read: host:port, or unix:PATH"
    )
    door_cert: Path | None = Field(
        None, description="PEM certificate chain of the door; without it the door speaks plain text"
    )
    door_key: Path | None = Field(None, description="PEM private key of the door's certificate")
    door_client_ca: Path | None = Field(
        None, description="PEM of the authority whose certificates callers must have (mTLS)"
    )
