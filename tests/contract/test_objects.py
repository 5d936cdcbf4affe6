"""What every object store promises, on each of them."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from uuid import uuid4

import pytest

from libs.common.errors import InvalidInputError, NotFoundError
from libs.common.stores.directory import DirectoryObjects
from libs.common.stores.minio import UPLOAD_PART_BYTES, MinioObjects
from libs.common.stores.ports import PART_BYTES, ObjectStore

OpenStore = Callable[..., ObjectStore]
KEY = "acme/dataset/0123abcd"


@pytest.fixture(params=["directory", pytest.param("minio", marks=pytest.mark.real)])
async def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OpenStore]:
    opened: list[ObjectStore] = []
    bucket = f"contract-{uuid4().hex}"

    def open_one(service: str = "ingest") -> ObjectStore:
        if request.param == "directory":
            opened.append(DirectoryObjects(tmp_path / "objects" / service))
        else:
            server = request.getfixturevalue("minio")
            opened.append(
                MinioObjects(
                    f"{server.url}/{bucket}",
                    prefix=service,
                    access_key=server.access_key,
                    secret_key=server.secret_key,
                )
            )
        return opened[-1]

    yield open_one
    for each in opened:
        await each.close()


@pytest.fixture
def store(open_store: OpenStore) -> ObjectStore:
    return open_store()


async def parts_of(content: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def keys_of(store: ObjectStore, prefix: str) -> list[str]:
    return [key async for key in store.keys(prefix)]


async def test_what_is_put_is_got(store: ObjectStore) -> None:
    await store.put(KEY, b"rows")

    assert await store.get(KEY) == b"rows"
    assert await store.exists(KEY)


async def test_an_empty_object_is_an_object(store: ObjectStore) -> None:
    await store.put(KEY, b"")
    await store.put_stream(f"{KEY}-streamed", parts_of(b"", 1))

    assert await store.get(KEY) == await store.get(f"{KEY}-streamed") == b""


async def test_the_same_key_again_replaces_the_object(store: ObjectStore) -> None:
    await store.put(KEY, b"a longer text")
    await store.put(KEY, b"short")

    assert await store.get(KEY) == b"short"


async def test_what_is_not_there_is_not_found(store: ObjectStore) -> None:
    assert not await store.exists(KEY)
    with pytest.raises(NotFoundError) as missing:
        await store.get(KEY)
    # Who asks knows what it is; how we keep it is for our own logs.
    assert (missing.value.which, missing.value.inside) == ("objects", KEY)
    with pytest.raises(NotFoundError):
        async for _ in store.read(KEY):
            pass
    assert await keys_of(store, "") == []


async def test_the_name_of_a_folder_is_no_object(store: ObjectStore) -> None:
    await store.put(KEY, b"rows")

    assert not await store.exists("acme/dataset")
    with pytest.raises(NotFoundError):
        await store.get("acme/dataset")
    await store.delete("acme/dataset")
    assert await store.exists(KEY)


async def test_deleting_is_repeatable(store: ObjectStore) -> None:
    await store.put(KEY, b"rows")

    await store.delete(KEY)
    await store.delete(KEY)

    assert not await store.exists(KEY)


@pytest.mark.parametrize(
    "size", [0, 1, PART_BYTES, UPLOAD_PART_BYTES, 2 * UPLOAD_PART_BYTES + 12_345]
)
async def test_large_objects_stream_both_ways_in_parts(store: ObjectStore, size: int) -> None:
    content = os.urandom(size)

    await store.put_stream(KEY, parts_of(content, 300_000))

    digest, largest = hashlib.sha256(), 0
    async for part in store.read(KEY):
        digest.update(part)
        largest = max(largest, len(part))
    assert digest.digest() == hashlib.sha256(content).digest()
    assert largest <= PART_BYTES


async def test_a_source_that_fails_leaves_what_was_there(store: ObjectStore) -> None:
    class SourceError(Exception):
        pass

    async def failing() -> AsyncIterator[bytes]:
        yield b"x" * (UPLOAD_PART_BYTES + 1)
        raise SourceError

    await store.put(KEY, b"before")

    with pytest.raises(SourceError):
        await store.put_stream(KEY, failing())
    with pytest.raises(SourceError):
        await store.put_stream(f"{KEY}-new", failing())

    assert await store.get(KEY) == b"before"
    assert await keys_of(store, "") == [KEY]


async def test_a_caller_that_gives_up_leaves_what_was_there(store: ObjectStore) -> None:
    reading = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"x" * 1_000
        reading.set()
        await asyncio.Event().wait()

    await store.put(KEY, b"before")
    putting = asyncio.create_task(store.put_stream(KEY, endless()))
    await reading.wait()
    putting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await putting
    assert await store.get(KEY) == b"before"
    assert await keys_of(store, "") == [KEY]


async def test_a_reader_may_stop_early(store: ObjectStore) -> None:
    await store.put(KEY, os.urandom(3 * PART_BYTES))

    reading = store.read(KEY)
    assert await anext(reading)
    await reading.aclose()  # pyright: ignore[reportAttributeAccessIssue] - a generator.

    assert len(await store.get(KEY)) == 3 * PART_BYTES


async def test_copies_in_plenty_do_not_wait_for_each_other(store: ObjectStore) -> None:
    await store.put(KEY, b"x" * (PART_BYTES + 1))

    await asyncio.gather(
        *(store.put_stream(f"{KEY}-{number}", store.read(KEY)) for number in range(24))
    )

    assert len(await keys_of(store, KEY)) == 25


async def test_keys_are_sorted_as_text_and_begin_with_the_prefix(store: ObjectStore) -> None:
    wanted = ["acme/a-b/1", "acme/a/1", "acme/a/1.txt", "acme/a/b/c", "acme/ab/1", "beta/a/1"]
    for key in reversed(wanted):
        await store.put(key, b"")

    assert await keys_of(store, "") == sorted(wanted)
    assert await keys_of(store, "acme/") == sorted(wanted)[:-1]
    assert await keys_of(store, "acme/a/") == ["acme/a/1", "acme/a/1.txt", "acme/a/b/c"]
    assert await keys_of(store, "acme/a/1") == ["acme/a/1", "acme/a/1.txt"]
    assert await keys_of(store, "nobody/") == []


async def test_services_do_not_see_each_other(open_store: OpenStore) -> None:
    ingest, trainer = open_store("ingest"), open_store("trainer")
    await ingest.put(KEY, b"of ingest")

    assert not await trainer.exists(KEY)
    assert await keys_of(trainer, "") == []


async def test_writers_of_one_key_leave_one_whole_object(open_store: OpenStore) -> None:
    contents = [bytes([number]) * 400_000 for number in range(8)]
    stores = [open_store() for _ in range(2)]

    await asyncio.gather(
        *(stores[n % 2].put_stream(KEY, parts_of(each, 7_000)) for n, each in enumerate(contents))
    )

    assert await stores[0].get(KEY) in contents
    assert await keys_of(stores[0], "") == [KEY]


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        "/etc/passwd",
        "..",
        "acme/../beta/dataset/a",
        "acme//a",
        "acme/",
        "acme/./a",
        "acme/a\x00",
        "acme/a\n",
        "acme/\udcff",
        "acme/a b",
        "acme/a\\b",
        "acme/a.partial",
        "acme/" + "x" * 300,
        "/".join(["x" * 100] * 20),
    ],
)
async def test_what_is_no_key_is_refused(store: ObjectStore, key: str) -> None:
    for operation in (
        lambda: store.put(key, b""),
        lambda: store.put_stream(key, parts_of(b"", 1)),
        lambda: store.get(key),
        lambda: store.exists(key),
        lambda: store.delete(key),
        lambda: anext(store.read(key)),
    ):
        with pytest.raises(InvalidInputError) as refusal:
            await operation()
        assert refusal.value.next_step


async def test_a_prefix_does_not_leave_the_store(store: ObjectStore) -> None:
    with pytest.raises(InvalidInputError):
        await keys_of(store, "../")


async def test_ping_answers_before_anything_is_there(store: ObjectStore) -> None:
    await store.ping()
