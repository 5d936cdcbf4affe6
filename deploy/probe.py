"""Whether a container serves, asked from inside it: `python -m deploy.probe KIND TARGET`.

    grpc NAME     the service NAME, over mutual TLS where BASALT_TLS names certificates
    socket FILE   somebody accepts connections on a Unix socket
    http URL      the URL answers with a status below 400

The exit status is the answer; what is wrong is one line on standard error.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path

ANSWER_S_MAX = 5.0


def ask_grpc(name: str) -> None:
    # Only this kind needs grpc, and a probe is run every few seconds.
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from libs.common.tls import ServerTls

    port = os.environ["BASALT_RPC_LISTEN"].rpartition(":")[2]
    tls = os.environ.get("BASALT_TLS")
    address = f"localhost:{port}"
    channel = (
        grpc.secure_channel(address, ServerTls(Path(tls), name).channel_credentials())
        if tls
        else grpc.insecure_channel(address)
    )
    with channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=ANSWER_S_MAX
            )
        except grpc.RpcError as error:
            code = error.code()  # pyright: ignore[reportAttributeAccessIssue] - a call's error.
            raise OSError(f"{name} answers {code.name}") from error
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise OSError(f"{name} does not serve")


def ask_socket(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ANSWER_S_MAX)
        connection.connect(path)


def ask_http(url: str) -> None:
    if not url.startswith("http://"):
        raise OSError(f"{url} is no http:// address")
    with urllib.request.urlopen(url, timeout=ANSWER_S_MAX):  # noqa: S310 - http, as was checked.
        pass


ASK = {"grpc": ask_grpc, "socket": ask_socket, "http": ask_http}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.probe", description=__doc__)
    parser.add_argument("kind", choices=ASK)
    parser.add_argument("target")
    options = parser.parse_args()
    try:
        ASK[options.kind](options.target)
    except OSError as error:
        print(f"{options.target}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
