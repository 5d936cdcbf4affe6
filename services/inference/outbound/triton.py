"""NVIDIA Triton under explicit model control.

A load carries the configuration and the files in the call itself: the bytes that were verified
are the bytes that are loaded, and no volume has to be shared. Such models are not in Triton's
repository index, so what is held is read from its statistics, which list every loaded model.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import grpc
import numpy as np
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from libs.common.errors import DependencyError, PreconditionError
from libs.common.tls import TLS, ServerTls, tls_for
from libs.common.wording import without_folders
from services.inference.outbound.triton_config import (
    CHALLENGE,
    LOAD,
    MANIFEST_SHA256,
    SEAL,
    Backend,
    InstanceKind,
    configuration,
)
from services.inference.ports import ForeignModelError, Loaded, Servable, SilentModelError

CONTROL_HEADER = "triton-grpc-protocol-basalt-control"
LOOK_S_MAX = 3.0
# A large model on a slow disk; a load that is taken back may harm Triton, so it is generous.
LOAD_S_MAX = 300.0
# What answers nothing for so long will not; a busy model's queue is far shorter.
PROBE_S_MAX = 30.0
REASON_CHARACTERS_MAX = 300
LOAD_ID_BYTES = 8
CHALLENGE_BYTES = 16
# A connection that failed is tried again quickly: models have to be back soon after Triton is.
RECONNECT_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
]
PYTHON_MODEL = Path(__file__).parent / "triton_python_model" / "model.py"
_PROOF = re.compile(r"basalt-proof:([0-9a-f]{64})")


class Triton:
    """`control_key` is what Triton's restricted protocols ask for.

    `secret` is what only this service has, the same in each of its processes. A seal is made of it
    for each load, and proves later that what answers is that load. The Python backend gets the
    seal as a file, which the model removes as it starts; asked with a challenge, it answers with
    what only the seal's holder can compute. ONNX Runtime computes nothing but the model, so there
    the seal is in the configuration, which Triton shows to holders of the control key alone.
    """

    name = "triton"

    def __init__(
        self,
        address: str,
        control_key: str,
        *,
        secret: bytes,
        backend: Backend,
        kind: InstanceKind,
        tls: ServerTls | None = None,
    ) -> None:
        self._address = address.removeprefix(TLS)
        self._tls = tls_for(address, tls)
        self._headers = {CONTROL_HEADER: control_key} if control_key else {}
        self._secret = secret
        self._backend: Backend = backend
        self._kind: InstanceKind = kind
        self._open: triton.InferenceServerClient | None = None
        # Probes are never taken back: cancelled requests harm Triton.
        self._unseen: set[asyncio.Future[Any]] = set()
        self._answered: set[tuple[str, str]] = set()

    @property
    def _client(self) -> triton.InferenceServerClient:
        if self._open is None:
            key, certificate, authority = self._tls.paths if self._tls else (None, None, None)
            self._open = triton.InferenceServerClient(
                self._address,
                ssl=self._tls is not None,
                root_certificates=_text(authority),
                private_key=_text(key),
                certificate_chain=_text(certificate),
                channel_args=RECONNECT_OPTIONS,
            )
        return self._open

    async def held(self) -> Mapping[str, int]:
        with self._translated():
            answer = await self._client.get_inference_statistics(client_timeout=LOOK_S_MAX)
        executions: dict[str, int] = {}
        # The client's annotations do not say that a message comes back.
        for each in cast("Any", answer).model_stats:
            executions[each.name] = executions.get(each.name, 0) + each.execution_count
        return executions

    async def load(self, servable: Servable) -> Loaded:
        loaded = Loaded(servable.manifest_sha256, secrets.token_hex(LOAD_ID_BYTES))
        seal = self._seal(servable.name, loaded)
        files = {"file:1/model.onnx": servable.model}
        parameters = {LOAD: loaded.load}
        if self._backend == "python":
            files |= {"file:1/model.py": PYTHON_MODEL.read_bytes(), "file:1/seal": seal.encode()}
        else:
            parameters |= {SEAL: seal}
        config = configuration(servable, self._backend, self._kind, parameters)
        with self._translated(servable.name):
            await self._client.load_model(
                servable.name,
                headers=self._headers,
                config=json.dumps(config),
                files=files,
                client_timeout=LOAD_S_MAX,
            )
        return loaded

    async def unload(self, name: str) -> None:
        with self._translated(name):
            await self._client.unload_model(name, headers=self._headers, client_timeout=LOOK_S_MAX)

    async def examine(self, name: str) -> Loaded:
        with self._translated(name):
            answer = await self._client.get_model_config(
                name, headers=self._headers, client_timeout=LOOK_S_MAX
            )
        config = cast("Any", answer).config
        said = {key: value.string_value for key, value in config.parameters.items()}
        loaded = Loaded(said.get(MANIFEST_SHA256, ""), said.get(LOAD, ""))
        seal = self._seal(name, loaded)
        if not loaded.load:
            raise _foreign("It carries no mark of a load of ours.")
        if self._backend == "onnxruntime" and not hmac.compare_digest(said.get(SEAL, ""), seal):
            raise _foreign("Its seal is not one of ours.")
        await self._probe(name, config, loaded, seal)
        return loaded

    async def _probe(self, name: str, config: Any, loaded: Loaded, seal: str) -> None:
        """One row of zeros through the model, with a challenge."""
        challenge = secrets.token_hex(CHALLENGE_BYTES)
        asked = asyncio.ensure_future(
            self._client.infer(name, _zeros(config), parameters={CHALLENGE: challenge})
        )
        self._unseen.add(asked)
        asked.add_done_callback(self._ended)
        done, _ = await asyncio.wait({asked}, timeout=PROBE_S_MAX)
        if not done:
            raise _silent(f"It has not answered for {PROBE_S_MAX:.0f} s.")
        error = asked.exception()
        if self._backend == "python":
            self._require_proof(error, seal, challenge)
        else:
            self._require_answer(error, (name, loaded.load))

    def _ended(self, asked: asyncio.Future[Any]) -> None:
        self._unseen.discard(asked)
        if not asked.cancelled():
            asked.exception()  # Nobody may be left to see it.

    def _require_proof(self, error: BaseException | None, seal: str, challenge: str) -> None:
        if error is None:
            raise _foreign("It answers without knowing the secret of a load of ours.")
        proof = _PROOF.search(str(error))
        if proof is not None:
            if not hmac.compare_digest(proof[1], _keyed(bytes.fromhex(seal), challenge)):
                raise _foreign("It knows another secret than that of a load of ours.")
            return
        self._require_reached(error)
        raise _silent("Its process in Triton has ended or hangs.")

    def _require_answer(self, error: BaseException | None, load: tuple[str, str]) -> None:
        if error is None:
            self._answered.add(load)
            return
        self._require_reached(error)
        # Zeros are no input for every model; one that took them before has to take them now.
        if load in self._answered:
            self._answered.discard(load)
            raise _silent("It does not answer any more what it answered before.")

    def _require_reached(self, error: BaseException) -> None:
        if not isinstance(error, InferenceServerException):
            raise error
        if error.status() in _UNREACHABLE or error.status() in _UNLOADED:
            with self._translated():
                raise error

    def _seal(self, name: str, loaded: Loaded) -> str:
        return _keyed(self._secret, "\0".join((name, loaded.manifest_sha256, loaded.load)))

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
                    "Triton does not take our control key.",
                    which="triton",
                    next_step="Set BASALT_TRITON_CONTROL_KEY to the key that Triton was given.",
                ) from error
            if error.status() in _UNREACHABLE:
                raise DependencyError(
                    "Triton cannot be reached.",
                    which="triton",
                    next_step="Start it; what was loaded comes back by itself.",
                    inside=self._address,
                ) from error
            raise PreconditionError(
                f"Triton refuses {model or 'the call'}: {_reason(message)}",
                which=model or "triton",
                next_step="Its log has the whole story.",
            ) from error


_UNREACHABLE = frozenset({str(grpc.StatusCode.UNAVAILABLE), str(grpc.StatusCode.DEADLINE_EXCEEDED)})
_UNLOADED = frozenset({str(grpc.StatusCode.NOT_FOUND), str(grpc.StatusCode.INVALID_ARGUMENT)})


def _reason(message: str) -> str:
    """The first line says what happened; the rest is a trace of Triton's insides."""
    return without_folders(message.partition("\n")[0].strip())[:REASON_CHARACTERS_MAX]


def _text(path: Path | None) -> str | None:
    return str(path) if path else None


def _keyed(key: bytes, message: str) -> str:
    return hmac.digest(key, message.encode(), "sha256").hex()


def _zeros(config: Any) -> list[triton.InferInput]:
    """A row that suits a configuration, whoever wrote it."""
    given: list[triton.InferInput] = []
    for each in config.input:
        shape = [max(int(size), 1) for size in each.dims]
        if config.max_batch_size:
            shape = [1, *shape]
        datatype = _datatype(each)
        tensor = triton.InferInput(each.name, shape, datatype)
        tensor.set_data_from_numpy(np.zeros(shape, triton_to_np_dtype(datatype)))
        given.append(tensor)
    return given


def _datatype(tensor: Any) -> str:
    name = (
        tensor.DESCRIPTOR.fields_by_name["data_type"]
        .enum_type.values_by_number[tensor.data_type]
        .name.removeprefix("TYPE_")
    )
    return "BYTES" if name == "STRING" else name


def _foreign(what: str) -> ForeignModelError:
    return ForeignModelError(
        what, which="triton", next_step="It is taken out, and what was signed is loaded again."
    )


def _silent(what: str) -> SilentModelError:
    return SilentModelError(what, which="triton", next_step="It is being loaded again.")
