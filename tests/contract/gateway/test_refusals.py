"""What Envoy refuses by itself is told in words, too: which rule, and what to do."""

from __future__ import annotations

import json
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.bare_envoy import BareEnvoy, bare_envoy

pytestmark = pytest.mark.asyncio(loop_scope="module")

ODD = {
    "a slash in a name": ("/v2/models/a%2Fb", "", "slash"),
    "a backslash in a name": ("/v2/models/a%5Cb", "", "slash"),
    "a path out of the root": ("/v2/../../etc", "", "knows no /etc"),
    "a path that is none": ("v2/models", "", "RFC 9110"),
    "a header that is none": ("/v2", "no colon\r\n", "RFC 9110"),
    "a body of two lengths": ("/v2", "content-length: 1\r\ncontent-length: 2\r\n", "RFC 9110"),
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def envoy() -> AsyncIterator[BareEnvoy]:
    with tempfile.TemporaryDirectory(prefix="door-") as folder:
        async with bare_envoy(Path(folder)) as envoy:
            yield envoy


@pytest.mark.parametrize("odd", ODD)
async def test_a_refusal_says_what_is_wrong(envoy: BareEnvoy, odd: str) -> None:
    path, header, about = ODD[odd]
    async with envoy.connection(envoy.get(path, envoy.token, header)) as (reader, _):
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1])
            for line in head.lower().splitlines()
            if line.startswith(b"content-length")
        )
        body = await reader.readexactly(length)
    assert about in json.loads(body)["error"]
