"""The client for ordinary code: several threads, an end that is an end, Ctrl-C; and models."""

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import basalt
from basalt.errors import BasaltError, ClosedError, InvalidInputError
from basalt.pb.basalt.v1 import inference_pb2 as pb
from basalt.pb.basalt.v1 import ingest_pb2, trainer_pb2
from basalt.pb.inference import grpc_inference_service_pb2 as oip
from tests.support.answering import Answering, answering

LIST = "basalt.v1.ModelService/ListModels"
VERSION = "basalt.v1.ModelService/GetModelVersion"
DEPLOYMENT = "basalt.v1.DeploymentService/GetDeployment"
INFER = "inference.GRPCInferenceService/ModelInfer"
WATCH = "basalt.v1.TrainerService/WatchJob"
UPLOAD = "basalt.v1.IngestService/UploadFile"
REQUEST = pb.ListModelsRequest()


def echo(request: pb.ListModelsRequest, _: object) -> pb.ListModelsResponse:
    return pb.ListModelsResponse(next_page_token=request.page.token)


@pytest.fixture
def server() -> Iterator[Answering]:
    with answering({LIST: echo}) as started:
        yield started


def test_threads_share_a_client(server: Answering) -> None:
    with basalt.connect(server.address, token="t") as client, ThreadPoolExecutor(16) as pool:

        def ask(number: int) -> str:
            request = pb.ListModelsRequest()
            request.page.token = str(number)
            return client.call(client.models.ListModels, request).next_page_token

        assert list(pool.map(ask, range(200))) == [str(number) for number in range(200)]


def test_closed_twice_and_used_afterwards(server: Answering) -> None:
    client = basalt.connect(server.address, token="t")
    model = client.load_model("tumour")
    client.close()
    client.close()
    with pytest.raises(ClosedError, match="This client is closed"):
        client.call(client.models.ListModels, REQUEST)
    with pytest.raises(ClosedError):
        next(client.stream(client.trainer.WatchJob, trainer_pb2.WatchJobRequest()))
    with pytest.raises(ClosedError):
        client.send(client.ingest.UploadFile, [])
    with pytest.raises(ClosedError):
        model.predict({"x": 1.0})
    assert not [each for each in threading.enumerate() if each.name == "basalt-client"]


def test_closing_ends_what_other_threads_wait_for(server: Answering) -> None:
    began = threading.Event()

    async def hang(*_: object) -> None:
        began.set()
        await asyncio.Event().wait()

    server.handlers[LIST] = hang
    client = basalt.connect(server.address, token="t")
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(client.call, client.models.ListModels, REQUEST) for _ in range(4)]
        assert began.wait(10)
        closing = [pool.submit(client.close) for _ in range(2)]
        for call in calls:
            assert isinstance(call.exception(10), ClosedError)
        for each in closing:
            each.result(10)


def test_client_that_cannot_be_made_leaves_no_thread() -> None:
    with pytest.raises(InvalidInputError):
        basalt.connect("http://127.0.0.1:7080")
    assert not [each for each in threading.enumerate() if each.name == "basalt-client"]


def test_stream_is_read_one_by_one_and_may_be_left(server: Answering) -> None:
    ended = threading.Event()

    async def endless(*_: object) -> AsyncIterator[trainer_pb2.WatchJobResponse]:
        try:
            for number in range(1_000_000):
                job = trainer_pb2.Job(id=str(number))
                yield trainer_pb2.WatchJobResponse(job=job)
                await asyncio.sleep(0)
        finally:
            ended.set()

    server.handlers[WATCH] = endless
    with basalt.connect(server.address, token="t") as client:
        answers = client.stream(client.trainer.WatchJob, trainer_pb2.WatchJobRequest())
        assert [next(answers).job.id for _ in range(3)] == ["0", "1", "2"]
        answers.close()  # pyright: ignore[reportAttributeAccessIssue] - a generator.
        assert ended.wait(10)


def test_upload_from_an_ordinary_iterable(server: Answering) -> None:
    def count(request: list[object], _: object) -> ingest_pb2.UploadFileResponse:
        return ingest_pb2.UploadFileResponse(
            summary=ingest_pb2.UploadSummary(accepted=len(request))
        )

    def broken() -> Iterator[ingest_pb2.UploadFileRequest]:
        yield ingest_pb2.UploadFileRequest(part=b"a")
        raise OSError(5, "Input/output error")

    server.handlers[UPLOAD] = count
    with basalt.connect(server.address, token="t") as client:
        parts = (ingest_pb2.UploadFileRequest(part=b"x") for _ in range(5))
        assert client.send(client.ingest.UploadFile, parts).summary.accepted == 5
        with pytest.raises(OSError, match="Input/output"):
            client.send(client.ingest.UploadFile, broken())
        assert client.call(client.models.ListModels, REQUEST) is not None


SCRIPT = """
import signal, sys, basalt
from basalt.pb.basalt.v1 import inference_pb2 as pb
client = basalt.connect(sys.argv[1], token="t", timeout_s=60)
{begin}
print("calling", flush=True)
try:
    client.call(client.models.ListModels, pb.ListModelsRequest())
except KeyboardInterrupt:
    print("interrupted", flush=True)
request = pb.ListModelsRequest()
request.page.token = "again"
print(client.call(client.models.ListModels, request).next_page_token, flush=True)
{end}
"""


# As when it comes between Python's last look and the system call in which it then waits.
WAKES_NOBODY = "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})"


@pytest.mark.parametrize("begin", ["", WAKES_NOBODY])
@pytest.mark.parametrize("end", ["client.close()", "pass  # It is never closed."])
def test_ctrl_c_ends_the_call_and_the_client_goes_on(
    server: Answering, begin: str, end: str
) -> None:
    began, cancelled = threading.Event(), threading.Event()

    async def hang_once(request: pb.ListModelsRequest, metadata: object) -> pb.ListModelsResponse:
        if request.page.token:
            return echo(request, metadata)
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return pb.ListModelsResponse()

    server.handlers[LIST] = hang_once
    script = SCRIPT.replace("{begin}", begin).replace("{end}", end)
    with subprocess.Popen(
        [sys.executable, "-c", script, server.address], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "calling\n"
        assert began.wait(30)
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "interrupted\nagain\n"
        assert process.wait(30) == 0
    assert cancelled.wait(10)


# Models.


FEATURES = ["age", "dose"]


def version_of(request: pb.GetModelVersionRequest, _: object) -> pb.GetModelVersionResponse:
    """Version 3 names its classes in another order than the versions before it."""
    classes = ["benign", "malignant"] if request.version < 3 else ["malignant", "benign"]
    return pb.GetModelVersionResponse(
        version=pb.ModelVersion(
            model=request.model, version=request.version, features=FEATURES, classes=classes
        )
    )


def deployed(*variants: tuple[int, int]) -> pb.GetDeploymentResponse:
    made = [pb.Variant(version=version, weight=weight) for version, weight in variants]
    return pb.GetDeploymentResponse(deployment=pb.Deployment(model="tumour", variants=made))


def infers(by: str) -> object:
    """Labels by whether the age is over 50; answered by a version, or the one asked for."""

    def answer(request: oip.ModelInferRequest, _: object) -> oip.ModelInferResponse:
        rows = np.frombuffer(request.raw_input_contents[0], "<f4").reshape(-1, 2)
        labels = (rows[:, 0] > 50).astype("<i8")
        made = oip.ModelInferResponse(
            model_name=request.model_name, model_version=request.model_version or by
        )
        made.outputs.add(name="label", datatype="INT64", shape=[len(labels)])
        made.raw_output_contents.append(labels.tobytes())
        return made

    return answer


@pytest.fixture
def serving(server: Answering) -> Answering:
    server.handlers[VERSION] = version_of
    server.handlers[DEPLOYMENT] = lambda *_: deployed((2, 80), (3, 20))
    server.handlers[INFER] = infers("2")  # pyright: ignore[reportArgumentType]
    return server


ROWS = [{"dose": 1.0, "age": 41}, {"dose": 2.0, "age": 61}]


def test_prediction_by_the_version_that_most_traffic_goes_to(serving: Answering) -> None:
    with basalt.connect(serving.address, token="t") as client:
        model = client.load_model("tumour")
        assert model.describe().version == 2
        for _ in range(3):
            assert model.predict(ROWS).labels.tolist() == ["benign", "malignant"]
        # What it takes is asked for once.
        assert serving.names() == ["GetDeployment", "GetModelVersion", *["ModelInfer"] * 3]
        sent = serving.calls[-1].request
        assert np.frombuffer(sent.raw_input_contents[0], "<f4").tolist() == [41, 1, 61, 2]


def test_answer_of_a_canary_is_named_by_its_own_classes(serving: Answering) -> None:
    serving.handlers[INFER] = infers("3")  # pyright: ignore[reportArgumentType]
    with basalt.connect(serving.address, token="t") as client:
        answered = client.load_model("tumour").predict(ROWS)
    assert answered.model_version == "3"
    assert answered.labels.tolist() == ["malignant", "benign"]


def test_one_version_is_asked_for_by_its_number(serving: Answering) -> None:
    with basalt.connect(serving.address, token="t") as client:
        for version in (1, "1"):
            answered = client.load_model("tumour", version=version).predict(ROWS)
            assert answered.model_version == "1"
        assert "GetDeployment" not in serving.names()
        with pytest.raises(InvalidInputError, match="'newest' is no version of tumour"):
            client.load_model("tumour", version="newest")


def test_many_rows_go_in_parts_to_one_version(serving: Answering) -> None:
    rows = np.column_stack([np.arange(1_300), np.ones(1_300)])
    with basalt.connect(serving.address, token="t") as client:
        answered = client.load_model("tumour").predict(rows)
    assert answered.labels.tolist() == ["benign"] * 51 + ["malignant"] * 1_249
    sent = [call.request for call in serving.calls if call.method == INFER]
    assert [each.inputs[0].shape[0] for each in sent] == [512, 512, 276]
    assert [each.model_version for each in sent] == ["", "2", "2"]


def test_model_that_is_not_in_service(serving: Answering) -> None:
    serving.handlers[DEPLOYMENT] = lambda *_: deployed()
    with (
        basalt.connect(serving.address, token="t") as client,
        pytest.raises(BasaltError, match="tumour is not in service") as raised,
    ):
        client.load_model("tumour").predict(ROWS)
    assert "basalt deploy put tumour" in raised.value.next_step


def test_after_a_refusal_the_deployment_is_looked_up_again(serving: Answering) -> None:
    from libs.common.errors import NotFoundError

    def gone(*_: object) -> None:
        raise NotFoundError("tumour is not in service.", which="tumour")

    with basalt.connect(serving.address, token="t") as client:
        model = client.load_model("tumour")
        model.predict(ROWS)
        serving.handlers[INFER] = gone
        with pytest.raises(BasaltError):
            model.predict(ROWS)
        serving.handlers[INFER] = infers("3")  # pyright: ignore[reportArgumentType]
        serving.handlers[DEPLOYMENT] = lambda *_: deployed((3, 100))
        assert model.predict(ROWS).labels.tolist() == ["malignant", "benign"]
        assert serving.names().count("GetDeployment") == 2


def test_evaluation_counts_what_is_right(serving: Answering) -> None:
    with basalt.connect(serving.address, token="t") as client:
        assert client.evaluate("tumour", ROWS, ["benign", "benign"]) == {
            "accuracy": 0.5,
            "rows": 2.0,
        }
        with pytest.raises(InvalidInputError, match="1 labels for 2 rows"):
            client.evaluate("tumour", ROWS, ["benign"])


def test_client_brings_nothing_heavy() -> None:
    heavy = ("polars", "pandas", "torch", "typer", "rich", "pydantic", "libs", "standalone")
    code = f"import sys, basalt; print(sorted(set({heavy!r}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
