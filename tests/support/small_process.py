"""A process as the supervisor knows them, small enough to start and kill many of.

It serves (accepts connections) `delay` seconds after its start, unless its file says otherwise:
"die" ends it at once, "hang" keeps it from ever serving, "stubborn" makes it deaf to SIGTERM. Every
start is noted. It answers who connects by one byte, unless its file says "silent" by then.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from pathlib import Path


def main() -> None:
    folder = Path(os.environ["BASALT_TEST_FOLDER"])
    behaviour = (folder / "behaviour").read_text()
    with (folder / "starts").open("a") as starts:
        starts.write(f"{os.getpid()}\n")
    if behaviour == "die":
        print("I am to die.")
        sys.exit(3)
    if behaviour == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if behaviour != "hang":
        # It is not quick, as processes are not.
        signal.sigtimedwait((), float(os.environ["BASALT_TEST_DELAY"]))
        server = socket.create_server(("127.0.0.1", int(os.environ["BASALT_TEST_PORT"])))
        server.listen()
        while True:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                if (folder / "behaviour").read_text() != "silent":
                    connection.sendall(b".")
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
