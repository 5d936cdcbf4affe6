"""Retries, deadlines, streams and uploads of the client, against a server that misbehaves."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import grpc
import pytest

from basalt import connect_async
from basalt.errors import BasaltError, ClosedError, InvalidInputError, UnreachableError
from basalt.pb.basalt.v1 import inference_pb2, ingest_pb2, trainer_pb2
from libs.common.errors import DependencyError, LimitError, NotFoundError
from tests.support.answering import Handler, RefusalError, answering
from tests.support.eventually import pause
from tools.servers.ports import free_ports

LIST = "basalt.v1.ModelService/ListModels"
WATCH = "basalt.v1.TrainerService/WatchJob"
GET_JOB = "basalt.v1.TrainerService/GetJob"
RUN = "basalt.v1.TrainerService/RunPipeline"
UPLOAD = "basalt.v1.IngestService/UploadFile"
REQUEST = inference_pb2.ListModelsRequest()


def after(failures: int, failure: Exception) -> Handler:
    """Fails so many times, then answers."""
    left = failures

    def answer(*_: object) -> inference_pb2.ListModelsResponse:
        nonlocal left
        left -= 1
        if left >= 0:
            raise failure
        return inference_pb2.ListModelsResponse(next_page_token="here")

    return answer


@pytest.mark.parametrize(
    "failure",
    [
        DependencyError("Kafka is away.", which="kafka"),
        LimitError("Too often.", which="requests_per_second"),
        RefusalError(grpc.StatusCode.UNAVAILABLE, "upstream connect error"),
    ],
)
async def test_what_may_pass_is_tried_again_under_the_same_key(failure: Exception) -> None:
    with answering({LIST: after(3, failure)}) as server:
        async with connect_async(server.address, token="t") as client:
            answer = await client.call(client.models.ListModels, REQUEST)
            assert answer.next_page_token == "here"
            await client.call(client.models.ListModels, REQUEST)
        keys = [call.metadata["idempotency-key"] for call in server.calls]
        assert len(keys) == 5
        assert len(set(keys[:4])) == 1
        assert keys[4] != keys[0]
        assert {call.metadata["authorization"] for call in server.calls} == {"Bearer t"}


async def test_what_will_not_pass_is_not_tried_again() -> None:
    failure = NotFoundError("There is no such tenant.", which="tenant")
    with answering({LIST: after(1, failure)}) as server:
        async with connect_async(server.address, token="t") as client:
            with pytest.raises(BasaltError, match="no such tenant"):
                await client.call(client.models.ListModels, REQUEST)
        assert len(server.calls) == 1


async def test_a_limit_is_no_reason_to_wait_for_whoever_is_not_patient() -> None:
    with answering({LIST: after(1, LimitError("Too many wrong passwords."))}) as server:
        async with connect_async(server.address, token="") as client:
            with pytest.raises(BasaltError, match="wrong passwords"):
                await client.call(client.models.ListModels, REQUEST, patient=False)
            assert "authorization" not in server.calls[0].metadata
            server.handlers[LIST] = after(1, DependencyError("The journal is away."))
            await client.call(client.models.ListModels, REQUEST, patient=False)


async def test_tries_end_with_the_time_and_say_what_kept_them() -> None:
    with answering({LIST: after(10_000, DependencyError("Kafka is away.", which="kafka"))}) as it:
        async with connect_async(it.address, token="t", timeout_s=1.0) as client:
            began = time.monotonic()
            with pytest.raises(BasaltError, match="Kafka is away") as raised:
                await client.call(client.models.ListModels, REQUEST)
            assert time.monotonic() - began < 3.0
        assert raised.value.which == "kafka"
        assert len(it.calls) > 2


async def test_last_try_that_runs_out_of_time_does_not_hide_why_it_was_tried() -> None:
    calls = 0

    async def answer(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            await asyncio.Event().wait()
        raise DependencyError("Kafka is away.", which="kafka")

    with answering({LIST: answer}) as server:
        async with connect_async(server.address, token="t", timeout_s=1.0) as client:
            with pytest.raises(BasaltError, match="Kafka is away"):
                await client.call(client.models.ListModels, REQUEST)


async def test_last_try_that_was_short_of_time_does_not_hide_why_it_was_tried() -> None:
    """The platform keeps an eye on its caller's time, and then knows less than it did before."""

    ends_at = time.monotonic() + 1.0

    async def answer(*_: object) -> None:
        if (left_s := ends_at - time.monotonic()) < 0.5:
            await pause(left_s / 2)
            raise DependencyError("Security did not answer in time.", which="security")
        await pause(0.5)
        raise DependencyError("Kafka is away.", which="kafka")

    with answering({LIST: answer}) as server:
        async with connect_async(server.address, token="t", timeout_s=1.0) as client:
            with pytest.raises(BasaltError, match="Kafka is away"):
                await client.call(client.models.ListModels, REQUEST)
    assert len(server.calls) > 1


async def test_call_that_hangs_ends_with_its_deadline() -> None:
    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    with answering({LIST: hang}) as server:
        async with connect_async(server.address, token="t") as client:
            with pytest.raises(BasaltError, match="did not answer in time") as raised:
                await client.call(client.models.ListModels, REQUEST, timeout_s=0.3)
        assert raised.value.code == "DEADLINE_EXCEEDED"
        assert raised.value.next_step


async def test_platform_that_comes_up_meanwhile_is_waited_for() -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    async with connect_async(address, token="t", timeout_s=20) as client:
        waiting = asyncio.create_task(client.call(client.models.ListModels, REQUEST))
        with answering({LIST: after(0, Exception())}, listen=address):
            assert (await waiting).next_page_token == "here"


async def test_nobody_is_waited_for_no_longer_than_is_borne() -> None:
    from basalt.aio import AsyncClient

    address = f"127.0.0.1:{free_ports(1)[0]}"
    async with AsyncClient(address, token="t", timeout_s=60, unreachable_s=0.3) as client:
        began = time.monotonic()
        with pytest.raises(UnreachableError):
            await client.call(client.models.ListModels, REQUEST)
        assert time.monotonic() - began < 10


async def test_call_is_part_of_the_callers_trace() -> None:
    traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    with answering({LIST: after(0, Exception())}) as server:
        async with connect_async(server.address, token="t") as client:
            await client.call(client.models.ListModels, REQUEST, traceparent=traceparent)
        assert server.calls[0].metadata["traceparent"] == traceparent


async def test_cancelled_call_is_cancelled_and_the_client_goes_on() -> None:
    began, ended = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    async def hang(*_: object) -> None:
        loop.call_soon_threadsafe(began.set)
        try:
            await asyncio.Event().wait()
        finally:
            loop.call_soon_threadsafe(ended.set)

    with answering({LIST: hang}) as server:
        async with connect_async(server.address, token="t") as client:
            call = asyncio.create_task(client.call(client.models.ListModels, REQUEST))
            await began.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await asyncio.wait_for(ended.wait(), 10)
            server.handlers[LIST] = after(0, Exception())
            await client.call(client.models.ListModels, REQUEST)


async def test_closed_client_refuses_and_ends_what_is_under_way() -> None:
    began = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def hang(*_: object) -> None:
        loop.call_soon_threadsafe(began.set)
        await asyncio.Event().wait()

    with answering({LIST: hang}) as server:
        client = connect_async(server.address, token="t")
        call = asyncio.create_task(client.call(client.models.ListModels, REQUEST))
        await began.wait()
        await client.close()
        await client.close()
        with pytest.raises(ClosedError):
            await call
        with pytest.raises(ClosedError):
            await client.call(client.models.ListModels, REQUEST)
        with pytest.raises(ClosedError):
            async for _ in client.stream(client.trainer.WatchJob, trainer_pb2.WatchJobRequest()):
                pass


# Streams.


def job(state: int, progress: float = 0.0, failure: str = "") -> trainer_pb2.Job:
    return trainer_pb2.Job(id="j1", state=state, progress=progress, failure=failure)  # pyright: ignore[reportArgumentType]


def watching(*seen: trainer_pb2.Job, failure: Exception | None = None) -> Handler:
    async def answers(*_: object) -> AsyncIterator[trainer_pb2.WatchJobResponse]:
        for each in seen:
            yield trainer_pb2.WatchJobResponse(job=each)
        if failure is not None:
            raise failure

    return answers


RUNNING, DONE = trainer_pb2.JOB_STATE_RUNNING, trainer_pb2.JOB_STATE_COMPLETED


async def test_leaving_a_stream_ends_its_call() -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def endless(*_: object) -> AsyncIterator[trainer_pb2.WatchJobResponse]:
        try:
            while True:
                yield trainer_pb2.WatchJobResponse(job=job(RUNNING))
                await asyncio.sleep(0)
        finally:
            loop.call_soon_threadsafe(ended.set)

    with answering({WATCH: endless}) as server:
        async with connect_async(server.address, token="t") as client:
            answers = client.stream(client.trainer.WatchJob, trainer_pb2.WatchJobRequest())
            assert (await anext(answers)).job.id == "j1"
            await answers.aclose()
            await asyncio.wait_for(ended.wait(), 10)


async def test_job_is_followed_through_a_watch_that_breaks() -> None:
    answers = iter([job(RUNNING, 0.1), job(RUNNING, 0.5), job(DONE, 1.0)])
    handlers: dict[str, Handler] = {
        RUN: lambda *_: trainer_pb2.RunPipelineResponse(job=job(RUNNING)),
        GET_JOB: lambda *_: trainer_pb2.GetJobResponse(job=next(answers)),
        WATCH: watching(
            job(RUNNING, 0.2), failure=RefusalError(grpc.StatusCode.UNAVAILABLE, "restart")
        ),
    }
    seen: list[float] = []
    with answering(handlers) as server:
        async with connect_async(server.address, token="t") as client:
            ended = await client.fit("tumour", on_progress=lambda job: seen.append(job.progress))
    assert ended.state == DONE
    assert seen == pytest.approx([0.1, 0.2, 0.5, 0.2, 1.0])
    assert server.calls[0].request.idempotency_key


@pytest.mark.parametrize(
    ("state", "what"),
    [
        (trainer_pb2.JOB_STATE_FAILED, "The job j1 failed: out of memory"),
        (trainer_pb2.JOB_STATE_CANCELLED, "The job j1 was cancelled: out of memory"),
    ],
)
async def test_job_that_does_not_complete_is_an_error_with_its_reason(
    state: int, what: str
) -> None:
    handlers: dict[str, Handler] = {
        GET_JOB: lambda *_: trainer_pb2.GetJobResponse(job=job(RUNNING)),
        WATCH: watching(job(state, failure="out of memory")),
    }
    with answering(handlers) as server:
        async with connect_async(server.address, token="t") as client:
            with pytest.raises(BasaltError) as raised:
                await client.wait_for_job("j1")
    assert raised.value.what == what
    assert "basalt train log j1" in raised.value.next_step


async def test_watch_that_is_refused_is_an_error() -> None:
    handlers: dict[str, Handler] = {
        GET_JOB: lambda *_: trainer_pb2.GetJobResponse(job=job(RUNNING)),
        WATCH: watching(failure=NotFoundError("There is no job j1.", which="j1")),
    }
    with answering(handlers) as server:
        async with connect_async(server.address, token="t") as client:
            with pytest.raises(BasaltError, match="no job j1"):
                await client.wait_for_job("j1")


# Uploads.


def parts(*content: bytes, failure: Callable[[], None] = lambda: None) -> AsyncIterator[object]:
    async def each() -> AsyncIterator[object]:
        for part in content:
            yield ingest_pb2.UploadFileRequest(part=part)
        failure()

    return each()


async def test_upload_sends_every_part() -> None:
    def summary(request: list[ingest_pb2.UploadFileRequest], _: object) -> object:
        return ingest_pb2.UploadFileResponse(
            summary=ingest_pb2.UploadSummary(accepted=len(request))
        )

    with answering({UPLOAD: summary}) as server:
        async with connect_async(server.address, token="t") as client:
            answer = await client.send(client.ingest.UploadFile, parts(b"a", b"b", b"c"))
    assert answer.summary.accepted == 3


async def test_what_breaks_while_parts_are_read_is_raised_as_it_is() -> None:
    def fail() -> None:
        raise InvalidInputError("The file has shrunk.", which="file")

    with answering({UPLOAD: lambda *_: ingest_pb2.UploadFileResponse()}) as server:
        async with connect_async(server.address, token="t") as client:
            with pytest.raises(InvalidInputError, match="has shrunk"):
                await client.send(client.ingest.UploadFile, parts(b"a", failure=fail))


async def test_upload_that_is_refused_in_the_middle() -> None:
    def refuse(*_: object) -> None:
        raise LimitError("A file has 64 MiB at most.", which="UPLOAD_BYTES_MAX")

    with answering({UPLOAD: refuse}) as server:
        async with connect_async(server.address, token="t") as client:
            with pytest.raises(BasaltError, match="64 MiB at most"):
                await client.send(client.ingest.UploadFile, parts(*[b"x" * 1_000] * 100))
