"""Long names and headers of one tenant, while the calls of another go on: the real door, whole.

All tenants share the connections behind the door. What is too long for a connection fails the call
that brought it, and no other.
"""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest

from libs.common.pb.inference import grpc_inference_service_pb2 as pb
from tests.support.door import Door, outcome, request

pytestmark = pytest.mark.asyncio(loop_scope="module")
SIZES = (1_000, 9_000, 15_000, 33_000, 60_000, 63_000, 65_000, 70_000, 200_000)
CHARACTERS = ("a", "é", "%", "\x00", "\n", "\u202e")
TRAILER_BYTES_MAX = 8 * 1024


@asynccontextmanager
async def neighbours_at_work(door: Door) -> AsyncIterator[None]:
    """Calls of globex on every way into the door; each has to pass."""
    over = asyncio.Event()

    async def ask(name: str, call: Callable[[], Awaitable[object]]) -> int:
        calls = 0
        while not over.is_set() or calls == 0:
            code, said = await outcome(call())
            assert code is grpc.StatusCode.OK, f"{name}: {code} {said}"
            calls += 1
        return calls

    bearer = door.bearer(tenant="globex")
    async with door.inference() as stub:
        asking = [
            asyncio.create_task(ask(name, call))
            for name, call in {
                "predict": lambda: stub.ModelInfer(request([[1, 2]]), metadata=bearer, timeout=20),
                "slow": lambda: stub.ModelReady(
                    pb.ModelReadyRequest(name="double"), metadata=bearer, timeout=20
                ),
            }.items()
            for _ in range(2)
        ]
        try:
            yield
        finally:
            over.set()
            await asyncio.gather(*asking)


async def test_long_names_harm_nobody_else(shared_door: Door) -> None:
    bearer = shared_door.bearer()
    async with neighbours_at_work(shared_door), shared_door.inference() as stub:
        for size in SIZES:
            for character in CHARACTERS:
                name = character * size
                misnamed = request([[1, 2]])
                misnamed.inputs[0].name = name
                for call in (
                    stub.ModelReady(pb.ModelReadyRequest(name=name), metadata=bearer),
                    stub.ModelMetadata(
                        pb.ModelMetadataRequest(name="double", version=name), metadata=bearer
                    ),
                    stub.ModelInfer(request([[1, 2]], model=name), metadata=bearer),
                    stub.ModelInfer(request([[1, 2]], model_version=name), metadata=bearer),
                    stub.ModelInfer(misnamed, metadata=bearer),
                ):
                    code, said = await outcome(call)
                    assert code in REFUSED, f"{size} × {character!r}: {code} {said[:200]}"
                    trailers = await call.trailing_metadata()
                    assert sum(len(k) + len(v) for k, v in trailers) < TRAILER_BYTES_MAX


REFUSED = (
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)


async def test_long_headers_harm_nobody_else(shared_door: Door) -> None:
    async with neighbours_at_work(shared_door), shared_door.inference() as stub:
        for size in SIZES:
            for count in (1, 60):
                junk = tuple((f"x-junk-{n}", "j" * (size // count)) for n in range(count))
                metadata = (*shared_door.bearer(), *junk)
                for call in (
                    stub.ModelInfer(request([[1, 2]]), metadata=metadata, timeout=20),
                    stub.ModelReady(
                        pb.ModelReadyRequest(name="double"), metadata=metadata, timeout=20
                    ),
                ):
                    await outcome(call)  # Answered or refused: that is theirs alone.


@pytest.mark.parametrize("size", [7_000, 9_000, 12_000, 15_000])
async def test_headers_within_the_limit_are_taken_wherever_a_call_goes(
    shared_door: Door, size: int
) -> None:
    metadata = (*shared_door.bearer(), ("x-junk", "j" * size))
    async with shared_door.inference() as stub:
        await stub.ModelInfer(request([[1, 2]]), metadata=metadata, timeout=20)
        await stub.ModelReady(pb.ModelReadyRequest(name="double"), metadata=metadata, timeout=20)
        await stub.ServerLive(pb.ServerLiveRequest(), metadata=metadata, timeout=20)


async def test_a_long_path_is_told_in_few_words(shared_door: Door) -> None:
    def ask(path: str) -> tuple[int, str]:
        asked = urllib.request.Request(
            f"http://{shared_door.listen}{path}",
            headers={"authorization": dict(shared_door.bearer())["authorization"]},
        )
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(asked, timeout=20)  # noqa: S310 - our own door.
        return refusal.value.code, refusal.value.read().decode()

    async with neighbours_at_work(shared_door):
        for path in (f"/v2/models/{'x' * 9_000}", f"/v2/models/double/versions/{'y' * 9_000}"):
            code, body = await asyncio.to_thread(ask, path)
            assert code == 404
            assert len(json.loads(body)["error"]) < 3_000
