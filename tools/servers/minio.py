"""MinIO, built from its Go module: the object store of the tests against real servers."""

import json
import secrets
from pathlib import Path
from typing import ClassVar

from tools.servers import go
from tools.servers.cache import Report, silent
from tools.servers.ports import LOOPBACK
from tools.servers.server import Server, answers_ok

VERSION = "20260212"
MODULE = Path(__file__).with_name("minio")


class MinIO(Server):
    """One node on one folder. The root user's secret is random and kept with the data."""

    name: ClassVar[str] = "minio"

    def __init__(
        self, directory: Path, port: int | None = None, *, console_port: int | None = None
    ) -> None:
        super().__init__(directory, {"s3": port, "console": console_port})
        self.address = f"{LOOPBACK}:{self.ports['s3']}"
        self.url = f"http://{self.address}"
        self.metrics_address = self.address
        self.access_key, self.secret_key = self._credentials()

    def obtain(self, report: Report = silent) -> Path:
        return go.build(MODULE, "github.com/minio/minio", version=VERSION, report=report)

    def _prepare(self) -> None:
        self._objects().mkdir(parents=True, exist_ok=True)

    def _command(self) -> list[str | Path]:
        return [
            self.obtain() / "minio",
            "server",
            "--quiet",
            f"--address={self.address}",
            f"--console-address={LOOPBACK}:{self.ports['console']}",
            f"--certs-dir={self.directory / 'certificates'}",
            self._objects(),
        ]

    def _environment(self) -> dict[str, str]:
        return super()._environment() | {
            "MINIO_ROOT_USER": self.access_key,
            "MINIO_ROOT_PASSWORD": self.secret_key,
            "MINIO_BROWSER": "off",
            "MINIO_UPDATE": "off",
        }

    def _ready(self) -> bool:
        return answers_ok(self.address, "/minio/health/ready")

    def _objects(self) -> Path:
        return self.directory / "objects"

    def _credentials(self) -> tuple[str, str]:
        file = self.directory / "credentials.json"
        if not file.exists():
            file.touch(mode=0o600)
            file.write_text(json.dumps([secrets.token_hex(10), secrets.token_hex(20)]))
        access_key, secret_key = json.loads(file.read_text())
        return access_key, secret_key
