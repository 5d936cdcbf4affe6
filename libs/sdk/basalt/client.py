"""The client for ordinary code: the asynchronous one, driven by an event loop in a thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import (
    AsyncGenerator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from basalt.aio import TIMEOUT_S, AsyncClient
from basalt.errors import ClosedError
from basalt.model import AsyncModel
from basalt.pb.basalt.v1 import inference_pb2, trainer_pb2
from basalt.prediction import Prediction
from basalt.rows import Rows

T = TypeVar("T")
NOTICES_S = 0.5


def connect(
    endpoint: str | None = None,
    *,
    token: str | None = None,
    tls_ca: Path | str | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Client:
    """A client of the platform at `endpoint` (host:port); use it with `with`.

    `token` is a login's token or an API key, `tls_ca` the authority's PEM file when the door has
    TLS. They default to BASALT_ENDPOINT, BASALT_TOKEN and BASALT_TLS_CA, then to the last
    `basalt login`. A login's token is renewed while the client is used.
    """
    return Client(endpoint, token=token, tls_ca=tls_ca, timeout_s=timeout_s)


def _outcome(future: concurrent.futures.Future[T]) -> T:
    """What it gives or raises, once it is there.

    A Ctrl-C that comes between Python's last look and the lock in which it then waits, or to
    another thread, wakes nobody: it is noticed at the next look.
    """
    # A lock of its own: an interrupted wait must not keep the future's from the loop.
    pending = threading.Lock()
    pending.acquire()
    future.add_done_callback(lambda _: pending.release())
    while not pending.acquire(timeout=NOTICES_S):
        pass
    return future.result()


class Client:
    """Each method blocks until its answer is there; several threads may share a client."""

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        token: str | None = None,
        tls_ca: Path | str | None = None,
        timeout_s: float = TIMEOUT_S,
        unreachable_s: float | None = None,
    ) -> None:
        """As AsyncClient's."""
        self._loop = asyncio.new_event_loop()
        # Nothing is handed to the loop once it is about to end: nobody would answer.
        self._handing = threading.Lock()
        self._open = True
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="basalt-client", daemon=True
        )
        self._thread.start()

        async def make() -> AsyncClient:
            return AsyncClient(
                endpoint,
                token=token,
                tls_ca=tls_ca,
                timeout_s=timeout_s,
                unreachable_s=unreachable_s,
            )

        try:
            self.aio = self._run(make())
        except BaseException:
            self._open = False
            self._end_loop()
            raise
        self.endpoint = self.aio.endpoint
        # The stubs, for `call`, `stream` and `send`.
        self.ingest = self.aio.ingest
        self.trainer = self.aio.trainer
        self.models = self.aio.models
        self.deployments = self.aio.deployments
        self.gateway = self.aio.gateway
        self.monitoring = self.aio.monitoring
        self.identity = self.aio.identity
        self.signing = self.aio.signing
        self.audit = self.aio.audit
        self.inference = self.aio.inference

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends what is under way, also what other threads wait for. Repeatable."""
        with self._handing:
            was_open, self._open = self._open, False
        if was_open:
            self._end_loop()

    def _end_loop(self) -> None:
        async def drain() -> None:
            if hasattr(self, "aio"):
                await self.aio.close()
            rest = asyncio.all_tasks() - {cast("asyncio.Task[Any]", asyncio.current_task())}
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)

        _outcome(asyncio.run_coroutine_threadsafe(drain(), self._loop))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        with self._handing:
            if not self._open:
                work.close()
                raise ClosedError
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return _outcome(future)
        except concurrent.futures.CancelledError:
            raise ClosedError from None
        except BaseException:
            # A Ctrl-C, say: the call ends with its caller.
            future.cancel()
            raise

    def call(
        self,
        method: Callable[..., Any],
        request: Any,
        *,
        timeout_s: float | None = None,
        traceparent: str = "",
        patient: bool = True,
    ) -> Any:
        """See AsyncClient.call."""
        return self._run(
            self.aio.call(
                method, request, timeout_s=timeout_s, traceparent=traceparent, patient=patient
            )
        )

    def stream(self, method: Callable[..., Any], request: Any) -> Iterator[Any]:
        """The answers of a streaming call, one by one. Leaving the loop ends the call."""
        answers = self.aio.stream(method, request)
        ended = object()
        # After a Ctrl-C the answer that was waited for may still be on its way out.
        turn = asyncio.Lock()

        async def following() -> Any:
            async with turn:
                return await anext(answers, ended)

        async def ending() -> None:
            async with turn:
                await answers.aclose()

        try:
            while (answer := self._run(following())) is not ended:
                yield answer
        finally:
            # Closing the client has ended the call already.
            with suppress(ClosedError):
                self._run(ending())

    def send(self, method: Callable[..., Any], requests: Iterable[Any]) -> Any:
        """A call to which a stream of messages is sent; what `requests` raises ends it."""

        async def each() -> AsyncGenerator[Any, None]:
            for request in requests:
                yield request

        async def sending() -> Any:
            async with aclosing(each()) as messages:
                return await self.aio.send(method, messages)

        return self._run(sending())

    def fit(
        self,
        pipeline: str,
        *,
        dataset: str = "",
        dataset_version: int = 0,
        parameters: Mapping[str, str] | None = None,
        on_progress: Callable[[trainer_pb2.Job], object] | None = None,
    ) -> trainer_pb2.Job:
        """See AsyncClient.fit."""
        return self._run(
            self.aio.fit(
                pipeline,
                dataset=dataset,
                dataset_version=dataset_version,
                parameters=parameters,
                on_progress=on_progress,
            )
        )

    def wait_for_job(
        self, job_id: str, *, on_progress: Callable[[trainer_pb2.Job], object] | None = None
    ) -> trainer_pb2.Job:
        """See AsyncClient.wait_for_job."""
        return self._run(self.aio.wait_for_job(job_id, on_progress=on_progress))

    def load_model(self, name: str, *, version: int | str = "") -> Model:
        """A deployed model. Without `version` the deployment decides: canary weights and all."""
        return Model(self, self.aio.load_model(name, version=version))

    def evaluate(self, model: str, rows: Rows, labels: Sequence[Any]) -> Mapping[str, float]:
        """How well a deployed model does on rows whose labels are known."""
        return self._run(self.aio.evaluate(model, rows, labels))


class Model:
    """A model to predict with."""

    def __init__(self, client: Client, model: AsyncModel) -> None:
        self._client = client
        self._model = model
        self.name = model.name
        self.version = model.version

    def describe(self) -> inference_pb2.ModelVersion:
        """What it takes and gives, and where it comes from."""
        return self._client._run(self._model.describe())

    def predict(
        self, rows: Rows, *, timeout_s: float | None = None, traceparent: str = ""
    ) -> Prediction:
        """Labels and probabilities for `rows`: numpy [rows, features], a DataFrame, dict(s)."""
        return self._client._run(
            self._model.predict(rows, timeout_s=timeout_s, traceparent=traceparent)
        )
