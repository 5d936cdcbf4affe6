"""NVIDIA Triton under explicit model control.

A load carries the configuration and the files in the call itself: the bytes that were verified
are the bytes that are loaded, and no volume has to be shared. Such models are not in Triton's
repository index, so what is ready is read from its statistics, which list every loaded model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import grpc
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

from libs.common.errors import DependencyError, PreconditionError
from services.inference.outbound.triton_config import (
    MANIFEST_SHA256,
    Backend,
    InstanceKind,
    configuration,
)
from services.inference.ports import Servable

CONTROL_HEADER = "triton-grpc-protocol-basalt-control"
LOOK_S_MAX = 3.0
# A large model on a slow disk; a load that is taken back may harm Triton, so it is generous.
LOAD_S_MAX = 300.0
REASON_CHARACTERS_MAX = 300
# A connection that failed is tried again quickly: models have to be back soon after Triton is.
RECONNECT_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
]
PYTHON_MODEL = Path(__file__).parent / "triton_python_model" / "model.py"


class Triton:
    """`control_key` is what Triton's restricted protocols ask for."""

    name = "triton"

    def __init__(
        self, address: str, control_key: str, *, backend: Backend, kind: InstanceKind
    ) -> None:
        self._address = address
        self._headers = {CONTROL_HEADER: control_key} if control_key else {}
        self._backend: Backend = backend
        self._kind: InstanceKind = kind
        self._open: triton.InferenceServerClient | None = None

    @property
    def _client(self) -> triton.InferenceServerClient:
        if self._open is None:
            self._open = triton.InferenceServerClient(self._address, channel_args=RECONNECT_OPTIONS)
        return self._open

    async def ready(self) -> frozenset[str]:
        with self._translated():
            answer = await self._client.get_inference_statistics(client_timeout=LOOK_S_MAX)
        # The client's annotations do not say that a message comes back.
        return frozenset(each.name for each in cast("Any", answer).model_stats)

    async def loaded_digest(self, name: str) -> str:
        try:
            with self._translated():
                answer = await self._client.get_model_config(name, client_timeout=LOOK_S_MAX)
        except PreconditionError:
            return ""
        return cast("Any", answer).config.parameters[MANIFEST_SHA256].string_value

    async def load(self, servable: Servable) -> None:
        files = {"file:1/model.onnx": servable.model}
        if self._backend == "python":
            files["file:1/model.py"] = PYTHON_MODEL.read_bytes()
        with self._translated(servable.name):
            await self._client.load_model(
                servable.name,
                headers=self._headers,
                config=json.dumps(configuration(servable, self._backend, self._kind)),
                files=files,
                client_timeout=LOAD_S_MAX,
            )

    async def unload(self, name: str) -> None:
        with self._translated(name):
            await self._client.unload_model(name, headers=self._headers, client_timeout=LOOK_S_MAX)

    async def ping(self) -> None:
        with self._translated():
            ready = await self._client.is_server_ready(client_timeout=LOOK_S_MAX)
        if not ready:
            raise DependencyError("Triton is not ready.", which="triton")

    async def start(self) -> None:
        """The connection opens with the first call."""

    async def stop(self) -> None:
        if self._open is not None:
            await self._open.close()

    @contextmanager
    def _translated(self, model: str = "") -> Iterator[None]:
        try:
            yield
        except InferenceServerException as error:
            message = error.message() or ""
            if "restricted" in message:
                raise DependencyError(
                    f"Triton at {self._address} does not take our control key.",
                    which="triton",
                    next_step="Set BASALT_TRITON_CONTROL_KEY to the key that Triton was given.",
                ) from error
            if error.status() in _UNREACHABLE:
                raise DependencyError(
                    f"Triton at {self._address} cannot be reached.",
                    which="triton",
                    next_step="Start it; what was loaded comes back by itself.",
                ) from error
            raise PreconditionError(
                f"Triton refuses {model or 'the call'}: {_reason(message)}",
                which=model or "triton",
                next_step="Its log has the whole story.",
            ) from error


_UNREACHABLE = frozenset({str(grpc.StatusCode.UNAVAILABLE), str(grpc.StatusCode.DEADLINE_EXCEEDED)})


def _reason(message: str) -> str:
    """The first line says what happened; the rest is a trace of Triton's insides."""
    return message.partition("\n")[0].strip()[:REASON_CHARACTERS_MAX]
