"""What a tenant sees of serving: its own models under their public names, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from libs.common.errors import BasaltError, DependencyError, NotFoundError
from services.gateway.core.table import RoutedModel, Table

SERVER_NAME = "basalt"
EXTENSIONS = ("binary_tensor_data", "classification", "parameters")
TIMEOUT_S_DEFAULT = 60.0


@dataclass(frozen=True, slots=True)
class TensorDescription:
    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """As the Open Inference Protocol has it."""

    platform: str
    inputs: tuple[TensorDescription, ...]
    outputs: tuple[TensorDescription, ...]
    name: str = ""
    versions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """`request` is a serialised ModelInferRequest."""

    tenant: str
    subject: str
    request: bytes
    timeout_s: float = TIMEOUT_S_DEFAULT
    traceparent: str = ""


class Predictor(Protocol):
    async def infer(self, question: Question) -> bytes:
        """A serialised ModelInferResponse. Raises the BasaltError of the dispatcher's status."""
        ...

    async def ping(self) -> None: ...


class ModelServer(Protocol):
    """Triton, by internal names. DependencyError: it cannot be reached."""

    async def ready(self) -> bool: ...

    async def model_ready(self, internal_name: str) -> bool: ...

    async def describe(self, internal_name: str) -> ModelDescription:
        """Raises NotFoundError."""
        ...


@dataclass(frozen=True, slots=True)
class Predicting:
    """`table` is asked at each call for the one in force."""

    table: Callable[[], Table]
    server: ModelServer
    predictor: Predictor

    async def ready(self) -> bool:
        """Whether predictions can be made: dispatcher and Triton answer."""
        try:
            await self.predictor.ping()
            return await self.server.ready()
        except DependencyError:
            return False

    async def model_ready(self, tenant: str, model: str, version: str) -> bool:
        """Whether every version that may be asked is. Raises NotFoundError."""
        routed = self.table().model(tenant, model)
        asked = [routed.variant(version)] if version else list(routed.variants)
        try:
            return all([await self.server.model_ready(each.internal_name) for each in asked])
        except NotFoundError:
            return False

    async def describe(self, tenant: str, model: str, version: str) -> ModelDescription:
        """Raises NotFoundError."""
        routed = self.table().model(tenant, model)
        variant = routed.variant(version)
        try:
            found = await self.server.describe(variant.internal_name)
        except NotFoundError as error:
            raise _loading(routed) from error
        return ModelDescription(
            name=routed.model,
            versions=tuple(routed.versions),
            platform=found.platform,
            inputs=found.inputs,
            outputs=found.outputs,
        )

    async def infer(self, question: Question) -> bytes:
        return await self.predictor.infer(question)


def _loading(routed: RoutedModel) -> BasaltError:
    return DependencyError(
        f"The model {routed.model} is being loaded.",
        which="triton",
        next_step="Try again shortly; `basalt deploy list` says how far it is.",
    )
