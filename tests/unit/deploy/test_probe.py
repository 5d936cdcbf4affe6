"""The health checks that run in our containers, against what really listens."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from deploy.first_start import make
from libs.common.tls import ServerTls


async def probe(
    kind: str, target: str, environment: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """The probe's exit status and what it said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "deploy.probe", kind, target,
        env={"PATH": "", **(environment or {})},
        stderr=subprocess.PIPE,
    )  # fmt: skip
    _, said = await asyncio.wait_for(process.communicate(), 30)
    assert b"Traceback" not in said
    return process.returncode or 0, said.decode()


async def test_a_service_that_serves_over_mutual_tls_is_healthy(tmp_path: Path) -> None:
    make(tmp_path)
    tls = tmp_path / "ingest/tls"
    server = grpc.aio.server()
    servicer = health.aio.HealthServicer()  # pyright: ignore[reportAttributeAccessIssue]
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_secure_port("127.0.0.1:0", ServerTls(tls, "ingest").credentials())
    await server.start()
    told = {"BASALT_RPC_LISTEN": f"0.0.0.0:{port}", "BASALT_TLS": str(tls)}
    try:
        await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        assert await probe("grpc", "ingest", told) == (0, "")
        await servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        assert await probe("grpc", "ingest", told) == (1, "ingest: ingest does not serve\n")
        # Without a certificate of its own it is not let in.
        code, _ = await probe("grpc", "ingest", {"BASALT_RPC_LISTEN": f"0.0.0.0:{port}"})
        assert code == 1
    finally:
        await server.stop(None)


async def test_a_socket_is_healthy_while_somebody_accepts(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    assert (await probe("socket", str(path)))[0] == 1
    server = await asyncio.start_unix_server(lambda _reader, writer: writer.close(), path)
    async with server:
        assert (await probe("socket", str(path)))[0] == 0


async def test_an_address_is_healthy_when_it_answers_well() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        status = "200 OK" if b"/ready" in line else "503 No"
        writer.write(f"HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        assert (await probe("http", f"http://127.0.0.1:{port}/ready"))[0] == 0
        assert (await probe("http", f"http://127.0.0.1:{port}/other"))[0] == 1
        assert (await probe("http", "file:///etc/passwd"))[0] == 1
