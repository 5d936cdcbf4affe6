"""The asynchronous client; `basalt.client` has the same for ordinary code."""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import grpc
import grpc.aio

from basalt import prediction, session
from basalt.credentials import Credentials, Renewed
from basalt.errors import (
    BasaltError,
    ClosedError,
    InvalidInputError,
    UnreachableError,
    from_rpc,
)
from basalt.model import AsyncModel
from basalt.pb.basalt.v1 import security_pb2, trainer_pb2
from basalt.pb.basalt.v1.gateway_pb2_grpc import GatewayServiceStub
from basalt.pb.basalt.v1.inference_pb2_grpc import DeploymentServiceStub, ModelServiceStub
from basalt.pb.basalt.v1.ingest_pb2_grpc import IngestServiceStub
from basalt.pb.basalt.v1.monitoring_pb2_grpc import MonitoringServiceStub
from basalt.pb.basalt.v1.security_pb2_grpc import (
    AuditServiceStub,
    IdentityServiceStub,
    SigningServiceStub,
)
from basalt.pb.basalt.v1.trainer_pb2_grpc import TrainerServiceStub
from basalt.pb.inference.grpc_inference_service_pb2_grpc import GRPCInferenceServiceStub
from basalt.rows import Rows

MESSAGE_BYTES_MAX = 64 * 1024 * 1024
TIMEOUT_S = 30.0
SEND_TIMEOUT_S = 600.0
# What the platform says when it has heard what a stream is, and takes it.
TAKES_IT = "basalt-takes-it"
# An earlier release does not say so.
HEARD_S_MAX = 2.0
RETRY_S = 0.1
RETRY_S_MAX = 2.0
RENEW_S_MAX = 5.0
AUTHORITY = "Give the PEM file of the authority that the door's certificate is from."

JOB_ENDS = frozenset(
    {
        trainer_pb2.JOB_STATE_COMPLETED,
        trainer_pb2.JOB_STATE_FAILED,
        trainer_pb2.JOB_STATE_CANCELLED,
    }
)


def connect_async(
    endpoint: str | None = None,
    *,
    token: str | None = None,
    tls_ca: Path | str | None = None,
    timeout_s: float = TIMEOUT_S,
) -> AsyncClient:
    """A client of the platform at `endpoint` (host:port); use it with `async with`.

    `token` is a login's token or an API key, `tls_ca` the authority's PEM file when the door has
    TLS. They default to BASALT_ENDPOINT, BASALT_TOKEN and BASALT_TLS_CA, then to the last
    `basalt login`. A login's token is renewed while the client is used.
    """
    return AsyncClient(endpoint, token=token, tls_ca=tls_ca, timeout_s=timeout_s)


class AsyncClient:
    """`timeout_s` bounds each call with all its retries.

    Where nobody answers at the address, a call gives up after `unreachable_s` already; None: after
    `timeout_s` as well, so that a platform may restart meanwhile.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        token: str | None = None,
        tls_ca: Path | str | None = None,
        timeout_s: float = TIMEOUT_S,
        unreachable_s: float | None = None,
    ) -> None:
        target = session.target(endpoint, token, tls_ca)
        self.endpoint = _checked(target.endpoint)
        _refuse_odd(target.token, "token" if token is not None or target.login else "BASALT_TOKEN")
        self.timeout_s = timeout_s
        self.unreachable_s = timeout_s if unreachable_s is None else unreachable_s
        self._credentials = Credentials(target)
        self._channel = _channel(self.endpoint, target.tls_ca)
        self._closed = False
        self.ingest = IngestServiceStub(self._channel)
        self.trainer = TrainerServiceStub(self._channel)
        self.models = ModelServiceStub(self._channel)
        self.deployments = DeploymentServiceStub(self._channel)
        self.gateway = GatewayServiceStub(self._channel)
        self.monitoring = MonitoringServiceStub(self._channel)
        self.identity = IdentityServiceStub(self._channel)
        self.signing = SigningServiceStub(self._channel)
        self.audit = AuditServiceStub(self._channel)
        self.inference = GRPCInferenceServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends what is under way. Repeatable."""
        self._closed = True
        await self._channel.close(None)

    # Any call of the platform.

    async def call(
        self,
        method: Callable[..., Any],
        request: Any,
        *,
        timeout_s: float | None = None,
        traceparent: str = "",
        patient: bool = True,
    ) -> Any:
        """A unary call such as `client.call(client.ingest.SealDataset, request)`, with retries.

        What may pass later is tried again until the time is over; a call that is not `patient`
        bears only that nobody can be reached, not a limit. Each try carries the same idempotency
        key, so that one that had its effect unseen is not done twice. `traceparent` (W3C) makes
        the call part of the caller's own trace.
        """
        given_s = self.timeout_s if timeout_s is None else timeout_s
        began = time.monotonic()
        more = {"idempotency-key": uuid4().hex}
        if traceparent:
            more["traceparent"] = traceparent
        metadata = await self._metadata(more)
        pause_s = RETRY_S
        earlier: BasaltError | None = None
        earlier_took_s = 0.0
        while True:
            tried = time.monotonic()
            left_s = max(began + given_s - tried, 0.001)
            try:
                return await self._unary(method, request, metadata, left_s)
            except BasaltError as failure:
                waited_s = time.monotonic() + pause_s - began
                unreachable = isinstance(failure, UnreachableError)
                bearable = patient or failure.code == "UNAVAILABLE"
                patience_s = min(self.unreachable_s, given_s) if unreachable else given_s
                # A try that was short of time says less than what kept the one before.
                short = failure.retryable and left_s < earlier_took_s
                if not failure.retryable or not bearable or waited_s > patience_s:
                    ran_out = short or failure.code == "DEADLINE_EXCEEDED"
                    raise (earlier if ran_out and earlier else failure) from failure.__cause__
                if not short:
                    earlier, earlier_took_s = failure, time.monotonic() - tried
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - a pause.
            pause_s = min(pause_s * 2, RETRY_S_MAX)

    async def _unary(
        self, method: Callable[..., Any], request: Any, metadata: Any, timeout_s: float
    ) -> Any:
        self._refuse_closed()
        try:
            return await method(request, metadata=metadata, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise self._failure(error) from error
        except asyncio.CancelledError:
            # Closing the client ends its calls; a caller's own cancellation goes on as one.
            self._refuse_closed()
            raise

    async def stream(self, method: Callable[..., Any], request: Any) -> AsyncGenerator[Any, None]:
        """The answers of a streaming call, one by one. Leaving the loop ends the call."""
        metadata = await self._metadata()
        self._refuse_closed()
        call = method(request, metadata=metadata)
        try:
            async for answer in call:
                yield answer
        except grpc.aio.AioRpcError as error:
            raise self._failure(error) from error
        except asyncio.CancelledError:
            self._refuse_closed()
            raise
        finally:
            call.cancel()

    async def send(
        self,
        method: Callable[..., Any],
        requests: AsyncIterable[Any],
        *,
        timeout_s: float = SEND_TIMEOUT_S,
    ) -> Any:
        """A call to which a stream of messages is sent; what `requests` raises ends it.

        The first message says what the others are, and they are sent once it was heard: an answer
        that comes before the end, as of a file that was there before, would get lost in a write
        that nobody takes any more.
        """
        metadata = await self._metadata({"idempotency-key": uuid4().hex})
        self._refuse_closed()
        raised: list[Exception] = []

        async def each() -> AsyncIterator[Any]:
            asked = False
            try:
                async for request in requests:
                    if asked and call.done():
                        return
                    yield request
                    if not asked:
                        await _heard(call)
                        asked = True
            except Exception as error:
                raised.append(error)
                call.cancel()

        call = method(each(), metadata=metadata, timeout=timeout_s)
        try:
            return await call
        except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
            if raised:
                raise raised[0] from None
            if isinstance(error, grpc.aio.AioRpcError):
                raise self._failure(error) from error
            self._refuse_closed()
            raise

    async def _metadata(self, more: Mapping[str, str] | None = None) -> list[tuple[str, str]]:
        self._refuse_closed()
        token = await self._credentials.current(self._renew)
        identity = {"authorization": f"Bearer {token}"} if token else {}
        return list((identity | dict(more or {})).items())

    async def _renew(self, token: str) -> Renewed:
        metadata = [("authorization", f"Bearer {token}")]
        request = security_pb2.RenewTokenRequest()
        answer = await self._unary(self.identity.RenewToken, request, metadata, RENEW_S_MAX)
        return Renewed(
            answer.token, answer.expires_at.ToSeconds(), answer.login_ends_at.ToSeconds()
        )

    def _failure(self, error: grpc.aio.AioRpcError) -> BasaltError:
        return ClosedError() if self._closed else from_rpc(error, self.endpoint)

    def _refuse_closed(self) -> None:
        if self._closed:
            raise ClosedError

    # What people come for.

    async def fit(
        self,
        pipeline: str,
        *,
        dataset: str = "",
        dataset_version: int = 0,
        parameters: Mapping[str, str] | None = None,
        on_progress: Callable[[trainer_pb2.Job], object] | None = None,
    ) -> trainer_pb2.Job:
        """Trains by a pipeline of the platform; returns when the candidate is there.

        Raises BasaltError with the job's reason when it fails or is cancelled.
        """
        request = trainer_pb2.RunPipelineRequest(
            pipeline=pipeline,
            dataset=dataset,
            dataset_version=dataset_version,
            idempotency_key=uuid4().hex,
            parameters=dict(parameters or {}),
        )
        job = (await self.call(self.trainer.RunPipeline, request)).job
        return await self.wait_for_job(job.id, on_progress=on_progress)

    async def wait_for_job(
        self, job_id: str, *, on_progress: Callable[[trainer_pb2.Job], object] | None = None
    ) -> trainer_pb2.Job:
        """Follows a job to its end, through restarts of the platform."""
        while True:
            # Asking waits until somebody answers, where a watch would break.
            request = trainer_pb2.GetJobRequest(id=job_id)
            job = (await self.call(self.trainer.GetJob, request)).job
            if on_progress is not None:
                on_progress(job)
            if job.state not in JOB_ENDS:
                job = await self._watch(job, on_progress)
            if job.state in JOB_ENDS:
                return _completed(job)
            await asyncio.sleep(RETRY_S)

    async def _watch(
        self, job: trainer_pb2.Job, on_progress: Callable[[trainer_pb2.Job], object] | None
    ) -> trainer_pb2.Job:
        """The job as it was last seen, at its end or when the watch broke."""
        request = trainer_pb2.WatchJobRequest(id=job.id)
        try:
            async with aclosing(self.stream(self.trainer.WatchJob, request)) as watch:
                async for answer in watch:
                    job = answer.job
                    if on_progress is not None:
                        on_progress(job)
        except BasaltError as error:
            if not error.retryable:
                raise
        return job

    def load_model(self, name: str, *, version: int | str = "") -> AsyncModel:
        """A deployed model. Without `version` the deployment decides: canary weights and all."""
        return AsyncModel(self, name, version)

    async def evaluate(self, model: str, rows: Rows, labels: Sequence[Any]) -> Mapping[str, float]:
        """How well a deployed model does on rows whose labels are known.

        Raises InvalidInputError for a label that the model cannot answer.
        """
        loaded = self.load_model(model)
        answered = await loaded.predict(rows)
        known = prediction.classes(await loaded.describe())
        right = prediction.accuracy(labels, answered, known)
        return {"accuracy": right, "rows": float(len(labels))}


def _completed(job: trainer_pb2.Job) -> trainer_pb2.Job:
    if job.state == trainer_pb2.JOB_STATE_COMPLETED:
        return job
    ended = trainer_pb2.JobState.Name(job.state).removeprefix("JOB_STATE_").lower()
    raise BasaltError(
        f"The job {job.id} {'was ' if ended == 'cancelled' else ''}{ended}: {job.failure}",
        code="FAILED_PRECONDITION",
        which=job.id,
        next_step=f"Its log: `basalt train log {job.id}`.",
    )


def _checked(endpoint: str) -> str:
    """An address as gRPC takes it. Raises InvalidInputError for what is none, such as a URL."""
    host, colon, port = endpoint.rpartition(":")
    if endpoint.startswith("unix:") or (host and colon and port.isdecimal() and "/" not in host):
        return endpoint
    raise InvalidInputError(
        f"{endpoint!r} is no address of a platform.",
        which="endpoint",
        next_step=f"Write host:port, such as {session.DEFAULT_ENDPOINT}.",
    )


def _refuse_odd(token: str, which: str) -> None:
    # The error shows the one character, and never the token.
    odd = next((character for character in token if not "!" <= character <= "~"), None)
    if odd is not None:
        raise InvalidInputError(
            f"The token in {which} has the character {odd!a}, which no token has.",
            which=which,
            next_step="Give it as it was issued: one word, without blanks or a line's end.",
        )


def _channel(endpoint: str, tls_ca: str) -> grpc.aio.Channel:
    options = [
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        ("grpc.initial_reconnect_backoff_ms", 100),
        # A channel of its own: another client's broken connection is not ours.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if not tls_ca:
        return grpc.aio.insecure_channel(endpoint, options)
    credentials = grpc.ssl_channel_credentials(_authority(tls_ca))
    return grpc.aio.secure_channel(endpoint, credentials, options)


def _authority(file: str) -> bytes:
    try:
        authority = Path(file).read_bytes()
        # gRPC would find out at each try to connect, and say so in its own log only.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except ssl.SSLError as error:
        what = f"The authority's certificate {file} is empty or not in PEM."
        raise InvalidInputError(what, which="tls_ca", next_step=AUTHORITY) from error
    except OSError as error:
        what = f"The authority's certificate {file} cannot be read: {error.strerror}."
        raise InvalidInputError(what, which="tls_ca", next_step=AUTHORITY) from error
    return authority


async def _heard(call: Any) -> None:
    """Returns once the platform takes what follows, or has answered already."""
    said = asyncio.ensure_future(call.initial_metadata())
    await asyncio.wait({said}, timeout=HEARD_S_MAX)
    if not said.done():
        said.cancel()
    elif said.cancelled() or said.exception() or TAKES_IT not in dict(said.result() or ()):
        # It was answered: the answer is a moment away.
        answered = asyncio.ensure_future(call.code())
        await asyncio.wait({answered}, timeout=HEARD_S_MAX)
