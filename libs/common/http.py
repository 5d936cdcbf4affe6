"""An HTTP server for an ASGI application, as a part of the runtime."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from libs.common.errors import DependencyError
from libs.common.runtime import expected, lasting
from libs.common.tls import ServerTls, tls_between
from libs.common.unix import answers, listener, path_of

CONNECTIONS_MAX = 1_024
KEEP_ALIVE_S = 75
STOP_GRACE_S = 5
LISTEN_BACKLOG = 256


class _Uvicorn(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # Signals belong to the runtime, which stops the parts in order.
        yield


class HttpServer:
    """Serves an application at host:port or unix:PATH; `port` is the one that a port of 0 became.

    With `tls` callers must have a certificate of the same authority.
    """

    def __init__(self, name: str, listen: str, app: ASGIApp, tls: ServerTls | None = None) -> None:
        self.name = name
        self.port = 0
        self._listen = listen
        secured: dict[str, Any] = {}
        if tls := tls_between(listen, tls):
            key, certificate, authority = map(str, tls.paths)
            secured = {
                "ssl_keyfile": key,
                "ssl_certfile": certificate,
                "ssl_ca_certs": authority,
                "ssl_cert_reqs": ssl.CERT_REQUIRED,
            }
        self._server = _Uvicorn(
            uvicorn.Config(
                app,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=CONNECTIONS_MAX,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=STOP_GRACE_S,
                **secured,
            )
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        listening = self._bind()
        if listening.family != socket.AF_UNIX:
            self.port = listening.getsockname()[1]
        self._task = lasting(self._server.serve([listening]), self.name)

    def _bind(self) -> socket.socket:
        try:
            if path := path_of(self._listen):
                return listener(path, LISTEN_BACKLOG)
            return _shared(self._listen)
        except (OSError, ValueError, OverflowError) as error:
            raise DependencyError(
                f"{self._listen} cannot be listened on for {self.name}: {error}.",
                which=self._listen,
                next_step="Another process may hold the port: end it, or set another host:port.",
            ) from error

    async def stop(self) -> None:
        if self._task is not None:
            expected(self._task)
            self._server.should_exit = True
            await self._task

    @property
    def problem(self) -> str:
        ended = self._task is not None and self._task.done()
        return f"{self.name} is no longer served." if ended else ""


def _shared(listen: str) -> socket.socket:
    """Listens where a process of the same user may hold the port, as `basalt up` does.

    It holds it without listening, so that no other user takes it while its owner is away. Somebody
    who listens is one too many. Raises OSError.
    """
    host, _, port = listen.rpartition(":")
    if int(port) and answers(listen):
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    address = host.strip("[]"), int(port)
    return socket.create_server(address, backlog=LISTEN_BACKLOG, reuse_port=True)
