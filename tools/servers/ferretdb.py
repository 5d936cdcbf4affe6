"""FerretDB on SQLite, built from its Go module: a server that speaks MongoDB's wire protocol.

It has no atomic update, no transactions and no change streams. The journal needs none of them.
"""

import socket
import struct
from pathlib import Path
from typing import ClassVar

from tools.servers import go
from tools.servers.cache import Report, silent
from tools.servers.ports import LOOPBACK
from tools.servers.server import PROBE_S_MAX, Server

VERSION = "1.24.0"
MODULE = Path(__file__).with_name("ferretdb")


class FerretDB(Server):
    """One server at the MongoDB address `url`, its databases as SQLite files."""

    name: ClassVar[str] = "ferretdb"

    def __init__(self, directory: Path, port: int | None = None) -> None:
        super().__init__(directory, {"mongodb": port})
        self.address = f"{LOOPBACK}:{self.ports['mongodb']}"
        self.url = f"mongodb://{self.address}/"

    def obtain(self, report: Report = silent) -> Path:
        tags = "ferretdb_no_postgresql"
        return go.build(MODULE, ".", version=VERSION, report=report, tags=tags)

    def _prepare(self) -> None:
        self._databases().mkdir(parents=True, exist_ok=True)

    def _command(self) -> list[str | Path]:
        binary = self.obtain() / "ferretdb"
        return [binary, f"-address={self.address}", f"-directory={self._databases()}"]

    def _ready(self) -> bool:
        return _answers_ping(self.ports["mongodb"])

    def _databases(self) -> Path:
        return self.directory / "databases"


def _answers_ping(port: int) -> bool:
    """Whether the command `ping` is answered at all: the port opens a little earlier."""
    # BSON {ping: 1, $db: "admin"} in one OP_MSG (2013).
    fields = b"\x10ping\0\x01\0\0\0" + b"\x02$db\0\x06\0\0\0admin\0"
    document = struct.pack("<i", len(fields) + 5) + fields + b"\0"
    body = struct.pack("<i", 0) + b"\0" + document
    header = struct.pack("<iiii", len(body) + 16, 1, 0, 2013)
    try:
        with socket.create_connection((LOOPBACK, port), PROBE_S_MAX) as connection:
            connection.sendall(header + body)
            return len(connection.recv(16, socket.MSG_WAITALL)) == 16
    except OSError:
        return False
