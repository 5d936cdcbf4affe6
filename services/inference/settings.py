"""What inference is told from outside."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr

from libs.common.settings import CommonSettings


class Settings(CommonSettings):
    triton: str = Field(
        description="Triton's gRPC address: host:port, unix:PATH, or tls:host:port (mutual TLS"
        " with the certificate in BASALT_TLS)"
    )
    triton_control_key: SecretStr = Field(
        SecretStr(""), description="What Triton's restricted protocols ask for; empty: nothing"
    )
    triton_backend: Literal["python", "onnxruntime"] = Field(
        "python", description="python: ONNX Runtime within the Python backend; or Triton's own"
    )
    triton_instances: Literal["CPU", "GPU", "AUTO"] = Field(
        "CPU", description="Where Triton runs the models"
    )
    keep_versions: int = Field(
        2, ge=1, le=16, description="Versions of a model held loaded, so that a rollback is instant"
    )
