"""The unchanged clients of Triton, over gRPC and HTTP, and plain REST, against the door."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import queue
import socket
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from libs.common.pb.inference import grpc_inference_service_pb2 as oip
from services.gateway.inbound.rest import BODY_BYTES_MAX
from tests.support.door import Door, digest

pytestmark = pytest.mark.asyncio(loop_scope="module")
ROWS = np.array([[1, 2], [3, 4.5]], np.float32)
T = TypeVar("T")


def headers(door: Door, **claims: Any) -> dict[str, str]:
    return {"authorization": f"Bearer {door.token(**claims)}"}


def use_grpc(door: Door) -> None:
    client_kind = tritonclient.grpc.InferenceServerClient
    with client_kind(door.listen) as client:
        told = headers(door)
        assert client.is_server_live(headers=told)
        assert client.is_server_ready(headers=told)
        assert client.is_model_ready("double", headers=told)
        assert client.get_server_metadata(headers=told).name == "basalt"
        assert client.get_model_metadata("double", headers=told).inputs[0].name == "x"
        tensor = tritonclient.grpc.InferInput("x", [2, 2], "FP32")
        tensor.set_data_from_numpy(ROWS)
        answer = client.infer("double", [tensor], headers=told, request_id="7", client_timeout=20)
        assert np.array_equal(answer.as_numpy("y"), 2 * ROWS)
        assert answer.get_response().id == "7"
        assert answer.get_response().parameters["basalt_digest"].string_param == digest(1)
        with pytest.raises(InferenceServerException, match="not deployed"):
            client.infer("double", [tensor], headers=headers(door, tenant="platform"))

        answers: queue.Queue[Any] = queue.Queue()
        client.start_stream(lambda result, error: answers.put((result, error)), headers=told)
        for number in range(3):
            client.async_stream_infer("double", [tensor], request_id=str(number))
        for number in range(3):
            result, error = answers.get(timeout=20)
            assert error is None
            assert result.get_response().id == str(number)
            assert np.array_equal(result.as_numpy("y"), 2 * ROWS)
        for marked in (True, False):
            client.async_stream_infer(
                "double", [tensor], enable_empty_final_response=marked, request_id="last"
            )
            result, error = answers.get(timeout=20)
            assert error is None
            said = result.get_response().parameters
            assert ("triton_final_response" in said) == marked
            assert said["triton_final_response"].bool_param == marked
        client.stop_stream()


def use_http(door: Door) -> None:
    client = tritonclient.http.InferenceServerClient(door.listen)
    told = headers(door)
    assert client.is_server_live(headers=told)
    assert client.is_server_ready(headers=told)
    assert client.is_model_ready("double", headers=told)
    assert client.get_server_metadata(headers=told)["name"] == "basalt"
    assert client.get_model_metadata("canary", headers=told)["versions"] == ["1", "2"]
    for binary_in, binary_out, packed in ((True, True, None), (False, False, "gzip")):
        tensor = tritonclient.http.InferInput("x", [2, 2], "FP32")
        tensor.set_data_from_numpy(ROWS, binary_data=binary_in)
        wanted = tritonclient.http.InferRequestedOutput("y", binary_data=binary_out)
        answer = client.infer(
            "double",
            [tensor],
            outputs=[wanted],
            headers=dict(told),  # The client writes into it.
            request_id="7",
            request_compression_algorithm=packed,
        )
        assert np.array_equal(answer.as_numpy("y"), 2 * ROWS)
        assert answer.get_response()["id"] == "7"
        assert answer.get_response()["parameters"]["basalt_digest"] == digest(1)
    default = client.infer("double", [tensor], headers=told)
    assert np.array_equal(default.as_numpy("y"), 2 * ROWS)
    with pytest.raises(InferenceServerException, match="not deployed"):
        client.infer("double", [tensor], headers=headers(door, tenant="platform"))
    client.close()


async def test_the_grpc_client_of_triton_works_unchanged(shared_door: Door) -> None:
    await asyncio.to_thread(use_grpc, shared_door)


async def test_the_http_client_of_triton_works_unchanged(shared_door: Door) -> None:
    await asyncio.to_thread(use_http, shared_door)


async def ask(
    door: Door,
    verb: str,
    path: str,
    body: Any = None,
    *,
    token: str | None = "",
    more: dict[str, str] | None = None,
) -> tuple[int, Any, dict[str, str]]:
    """Status, JSON and headers. An empty token stands for one that holds, None for none."""
    told = dict(more or {})
    if token is not None:
        told["authorization"] = f"Bearer {token or door.token()}"
    content = body if isinstance(body, bytes | None) else json.dumps(body).encode()

    def now() -> tuple[int, Any, dict[str, str]]:
        connection = http.client.HTTPConnection(door.listen, timeout=30)
        connection.request(verb, path, content, told)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        kept = {name.lower(): value for name, value in answer.getheaders()}
        if kept.get("content-encoding") == "gzip":
            text = gzip.decompress(text)
        return answer.status, json.loads(text) if text else None, kept

    return await on_thread(now)


async def on_thread(work: Callable[[], T]) -> T:
    return await asyncio.to_thread(work)


def question(**fields: Any) -> dict[str, Any]:
    tensor = {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": ROWS.tolist(), **fields}
    return {"inputs": [{name: value for name, value in tensor.items() if value is not None}]}


INFER = "/v2/models/double/infer"


async def test_rest_answers_as_grpc_does(shared_door: Door) -> None:
    for given in (question(), question(data=ROWS.reshape(-1).tolist())):
        status, answer, told = await ask(shared_door, "POST", INFER, given)
        assert status == 200
        assert answer["model_name"] == "double"
        assert answer["model_version"] == told["basalt-model-version"] == "1"
        assert answer["parameters"]["basalt_digest"] == told["basalt-model-digest"] == digest(1)
        assert answer["outputs"] == [
            {"name": "y", "datatype": "FP32", "shape": [2, 2], "data": [2.0, 4.0, 6.0, 9.0]}
        ]
    path = "/v2/models/canary/versions/2/infer"
    status, answer, _ = await ask(shared_door, "POST", path, question())
    assert (status, answer["model_version"]) == (200, "2")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"no json", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "inputs"),
        (question(data=None), "neither data nor"),
        (question(data=["a", "b", "c", "d"]), "no FP32"),
        (question(data=[[1], [2, 3]]), "nested unevenly"),
        (question(datatype="FP31"), "FP31"),
        (question(datatype="INT8", data=[1, 2, 3, 400]), "outside -128 to 127"),
        (question(shape=[2, -2]), "no shape"),
        (question(shape=[3, 2]), "its shape is [3, 2]"),
        (question(data=None, parameters={"binary_data_size": 99}), "99"),
        (question(parameters={"shared_memory_region": "r"}), "shared memory"),
    ],
)
async def test_malformed_rest_requests_are_told_what_is_wrong(
    shared_door: Door, body: Any, said: str
) -> None:
    status, answer, _ = await ask(shared_door, "POST", INFER, body)
    assert status == 400
    assert said in answer["error"]


async def test_rest_refuses_as_grpc_does(shared_door: Door) -> None:
    foreign, engineer = shared_door.token(tenant="platform"), shared_door.token(roles=["engineer"])
    cases = [
        (await ask(shared_door, "POST", INFER, question(), token=None), 401, "basalt login"),
        (await ask(shared_door, "POST", INFER, question(), token="x.y.z"), 401, "basalt login"),
        (await ask(shared_door, "POST", INFER, question(), token=engineer), 403, "application"),
        (await ask(shared_door, "POST", INFER, question(), token=foreign), 404, "not deployed"),
        (await ask(shared_door, "GET", "/v2/models/nope"), 404, "not deployed"),
        (await ask(shared_door, "GET", "/v2/nope"), 404, "/v2/nope"),
        (await ask(shared_door, "GET", "/elsewhere"), 404, "/elsewhere"),
        (await ask(shared_door, "GET", INFER), 405, "GET"),
    ]
    for (status, answer, _), wanted, said in cases:
        assert status == wanted, answer
        assert said in answer["error"]


async def test_a_bomb_of_compressed_zeros_is_refused(shared_door: Door) -> None:
    bomb = gzip.compress(bytes(200 * 1024 * 1024), compresslevel=1)
    more = {"content-encoding": "gzip"}
    status, answer, _ = await ask(shared_door, "POST", INFER, bomb, more=more)
    assert status == 413
    assert "BODY_BYTES_MAX" in answer["error"] or "limit" in answer["error"]


@pytest.mark.parametrize("beyond", [1, 40 * 1024 * 1024])
async def test_a_body_that_is_too_large_is_answered_however_much_is_sent(
    shared_door: Door, beyond: int
) -> None:
    body = b"[" * (BODY_BYTES_MAX + beyond)
    status, answer, _ = await ask(shared_door, "POST", INFER, body)
    assert (status, "limit of a REST body" in answer["error"]) == (413, True)


async def test_gzip_is_what_its_rfc_says(shared_door: Door) -> None:
    content = json.dumps(question()).encode()
    members = gzip.compress(content[:20]) + gzip.compress(content[20:])
    for packed, said in (
        (gzip.compress(content), None),
        (members, None),
        (gzip.compress(content)[:-3], "in the middle of its gzip"),
        (gzip.compress(content)[:20], "in the middle of its gzip"),
        (gzip.compress(content) + b"more", "is not gzip"),
        (b"", "in the middle of its gzip"),
        (content, "is not gzip"),
        (gzip.compress(b"") * 2_000 + gzip.compress(content), "is not gzip"),
    ):
        more = {"content-encoding": "gzip"}
        status, answer, _ = await ask(shared_door, "POST", INFER, packed, more=more)
        assert status == (400 if said else 200), answer
        assert said is None or said in answer["error"]


@pytest.mark.parametrize(
    ("accepts", "packed"),
    [
        ("gzip", True),
        ("deflate, gzip;q=0.5, *;q=0", True),
        ("GZIP", True),
        ("*", True),
        ("", False),
        ("identity", False),
        ("gzip;q=0", False),
        ("gzip; q=0.000, identity", False),
        ("br", False),
    ],
)
async def test_answers_are_compressed_for_who_takes_that(
    shared_door: Door, accepts: str, packed: bool
) -> None:
    # Few rows, as models take no more at a time, in a name that makes the answer long.
    asked = {"id": "long " * 300, **question()}
    _, plain, _ = await ask(shared_door, "POST", INFER, asked)
    more = {"accept-encoding": accepts}
    status, answer, told = await ask(shared_door, "POST", INFER, asked, more=more)
    assert status == 200
    assert (told.get("content-encoding") == "gzip") == packed
    assert answer["outputs"] == plain["outputs"]
    assert told["vary"] == "accept-encoding"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_schemes_case_means_nothing(shared_door: Door, scheme: str) -> None:
    more = {"authorization": f"{scheme} {shared_door.token()}"}
    status, answer, _ = await ask(shared_door, "POST", INFER, question(), token=None, more=more)
    assert (status, answer["model_version"]) == (200, "1")


async def test_a_header_with_an_underscore_is_dropped(shared_door: Door) -> None:
    more = {"x_trace_me": "1", "x_basalt_tenant": "umbrella", "x_basalt_subject": "eve"}
    status, answer, _ = await ask(shared_door, "POST", INFER, question(), more=more)
    assert (status, answer["model_version"]) == (200, "1")
    async with shared_door.inference() as stub:
        told = [*shared_door.bearer(), ("x_request_id", "7")]
        live = await stub.ServerLive(oip.ServerLiveRequest(), metadata=told, timeout=10)
        assert live.live


async def test_http_1_0_is_answered(shared_door: Door) -> None:
    def now() -> bytes:
        host, port = shared_door.listen.split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            token = shared_door.token()
            connection.sendall(
                f"GET /v2 HTTP/1.0\r\nauthorization: Bearer {token}\r\n\r\n".encode()
            )
            return b"".join(iter(lambda: connection.recv(65_536), b""))

    head, _, body = (await on_thread(now)).partition(b"\r\n\r\n")
    assert head.split()[1] == b"200"
    assert json.loads(body)["name"] == "basalt"


async def test_readiness_needs_no_token(shared_door: Door) -> None:
    def now() -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(shared_door.listen, timeout=10)
        connection.request("GET", "/ready")
        answer = connection.getresponse()
        return answer.status, answer.read()

    assert await on_thread(now) == (200, b"open\n")
