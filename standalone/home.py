"""Where an installation lives: its folder, its secrets, its ports, and who runs it."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from libs.common import senders, unix
from libs.common.files import write_durably
from libs.common.settings import SERVICES
from standalone import privacy
from tools.servers.errors import ServerError
from tools.servers.ports import LOOPBACK, earlier_ports, remember_ports, settled_ports

DOOR_PORT = 7080
KAFKA_PORT = 7092
MASTER_KEY_BYTES = 32
CREDENTIAL_BYTES = 32
# A Unix socket's path has 108 bytes in Linux; those in the home have up to 25 more.
HOME_BYTES_MAX = 75
# What means something else in a gRPC address.
ODD = "%?#"
# What a new installation takes with a first small model; a start with less would end half done.
FREE_BYTES_MIN = 512 * 1024 * 1024
# Each keeps the ports that nobody else needs to know in its own folder.
SERVERS = ("kafka",)
SOCKETS = "sockets"
BEGAN = "began"
# The listeners that others than our own processes reach, and Triton, which posts its spans by HTTP
# and to no Unix socket.
PORTS = ("door", "kafka", "metrics", "otlp_http")
# Everything that lies in the folder. What is not listed here is not ours, and is never removed.
CONTENTS = (
    "basalt.pid",
    BEGAN,
    "checkpoints",
    "door",
    "envoy",
    "first-login.txt",
    "history",
    "journals",
    "kafka",
    "logs",
    "objects",
    "ports.json",
    "secrets.json",
    SOCKETS,
    "traces",
    "triton",
    "work",
)
# What is sealed with the master key, or came into being with what is.
SEALED = ("checkpoints", "first-login.txt", "journals", "objects")


def default_root() -> Path:
    chosen = os.environ.get("BASALT_HOME")
    return Path(chosen).expanduser() if chosen else Path.home() / ".basalt"


@dataclass(frozen=True)
class Secrets:
    """Random, made at the first start, readable by their owner alone."""

    master_key: str
    service_credentials: dict[str, str]
    otlp_key: str
    metrics_key: str
    # Of the broker itself, of Kafka's administrator, and of each service there.
    kafka_broker_password: str
    kafka_administrator_password: str
    kafka_passwords: dict[str, str]
    # Of an installation from when Triton listened on a port; nobody asks for it any more.
    triton_control_key: str = ""


@dataclass(frozen=True)
class Home:
    """An installation's folder; every path of the edition is named here."""

    root: Path

    @classmethod
    def at(cls, root: Path) -> Home:
        """Raises ServerError when the folder cannot be used."""
        root = root.expanduser().absolute()
        if len(os.fsencode(root)) > HOME_BYTES_MAX:
            raise ServerError(
                "basalt",
                f"the folder {root} has too long a path for the sockets in it",
                f"choose one of at most {HOME_BYTES_MAX} characters in BASALT_HOME",
            )
        if odd := sorted(set(str(root)) & set(ODD)):
            raise ServerError(
                "basalt",
                f"the folder {root} has {' and '.join(map(repr, odd))} in its path, by which no"
                " socket can be reached",
                "choose another one in BASALT_HOME",
            )
        try:
            privacy.require_safe_parents(root)
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Somebody may have been quicker.
            privacy.require_safe_parents(root)
            for folder in cls(root).shared:
                folder.mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise ServerError(
                "basalt",
                f"the folder {root} cannot be used: {error.strerror}",
                "choose another one in BASALT_HOME",
            ) from error
        return cls(root)

    @property
    def shared(self) -> tuple[Path, ...]:
        """The folders that several processes use, and none makes by itself."""
        return self.door, self.root / SOCKETS

    @property
    def pid_file(self) -> Path:
        """Holds the number of the process that runs the installation, and is locked by it."""
        return self.root / "basalt.pid"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def history(self) -> Path:
        """What happened to the installation, a file for each who writes of it."""
        return self.root / "history"

    @property
    def door(self) -> Path:
        """Envoy's configuration, the dispatcher's routes, and the sockets between them."""
        return self.root / "door"

    @property
    def first_login(self) -> Path:
        return self.root / "first-login.txt"

    def ports(self, door: int | None = None, kafka: int | None = None) -> dict[str, int]:
        """The port of each listener: a chosen one, else the remembered one, else a free one.

        They are not remembered yet. Raises ServerError when two listeners would have the same,
        those that the servers keep for themselves included.
        """
        chosen: dict[str, int | None] = dict.fromkeys(PORTS)
        chosen |= {"door": door, "kafka": kafka}
        settled = settled_ports(self.root, chosen)
        self._require_unlike_the_servers(settled)
        return settled

    def _require_unlike_the_servers(self, settled: Mapping[str, int]) -> None:
        role_of = {port: role for role, port in settled.items()}
        for server in SERVERS:
            for role, port in earlier_ports(self.root / server).items():
                # Kafka's broker is the one listener of a server that has its port from here.
                if port in role_of and (server, role) != ("kafka", "broker"):
                    raise ServerError(
                        "ports",
                        f"{role_of[port]} and {server}'s {role} would both have the port {port}",
                        f"choose another port for {role_of[port]}, or remove"
                        f" {self.root / server / 'ports.json'}; new ones are chosen then",
                    )

    def remember(self, ports: Mapping[str, int]) -> None:
        """From now on each start has these ports, where no others are chosen."""
        remember_ports(self.root, ports)

    def has_ports(self) -> bool:
        """Whether an earlier start found its ports free and remembered them."""
        return (self.root / "ports.json").exists()

    def socket(self, name: str) -> str:
        """The address of a listener that our own processes alone reach."""
        return f"{unix.PREFIX}{self.root / SOCKETS / name}"

    @property
    def otlp(self) -> str:
        """Where spans are taken in."""
        return self.socket("otlp")

    def otlp_token(self, sender: str) -> str:
        """What `sender` says there that its spans are its own."""
        return senders.token(self.secrets.otlp_key, sender)

    @cached_property
    def secrets(self) -> Secrets:
        file = self.root / "secrets.json"
        if not file.exists():
            self._require_nothing_sealed(file)
            made: dict[str, Any] = {
                "master_key": base64.b64encode(secrets.token_bytes(MASTER_KEY_BYTES)).decode(),
                "service_credentials": {
                    service: secrets.token_urlsafe(CREDENTIAL_BYTES) for service in SERVICES
                },
            }
            # What the first start seals with it must not outlive it.
            write_durably(file, json.dumps(made | _later(made)).encode())
        try:
            known: dict[str, Any] = json.loads(file.read_text())
            if missing := _later(known):
                write_durably(file, json.dumps(known | missing).encode())
            return Secrets(**(known | missing))
        except (ValueError, TypeError) as error:
            raise ServerError(
                "basalt",
                f"{file} is damaged; without its master key the platform's own keys are lost",
                "restore the file from a backup, or begin anew: `basalt down --purge`",
            ) from error

    def _require_nothing_sealed(self, missing: Path) -> None:
        """New secrets are for a new installation: they open nothing of an earlier one."""
        sealed = [name for name in SEALED if _holds_something(self.root / name)]
        if sealed:
            raise ServerError(
                "basalt",
                f"{missing} is missing; without its master key the platform's own keys are lost,"
                f" and {self.root} still holds {', '.join(sealed)}",
                "restore the file from a backup, or begin anew: `basalt down --purge`",
            )

    def require_whole(self) -> None:
        """Raises ServerError when the journals of an installation that ran are gone altogether."""
        if self._began.exists() and not (self.root / "journals").exists():
            raise ServerError(
                "basalt",
                f"{self.root / 'journals'} is missing, and the installation has run: what it knows"
                " is in there",
                "put the folder back, or begin anew: `basalt down --purge`",
            )

    def has_begun(self) -> None:
        """From now on its journals have to be there."""
        self._began.touch()

    @property
    def _began(self) -> Path:
        return self.root / BEGAN

    def require_space(self) -> None:
        """Raises ServerError where a start would end in the middle for want of room."""
        free = shutil.disk_usage(self.root).free
        if free < FREE_BYTES_MIN:
            raise ServerError(
                "basalt",
                f"{self.root} has {free >> 20} MiB free, and {FREE_BYTES_MIN >> 20} are needed",
                "make room, or choose a folder on a larger disk in BASALT_HOME",
            )

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Makes this process the only one that runs the installation, as long as it lives.

        An installation of a time when others could read it is closed to them first. The locks end
        with the process, however it ends. Raises ServerError when another has one.
        """
        with self._locked(), self.pid_file.open("a+") as file:
            self._lock(file.fileno())
            privacy.close(self.root)
            self._clear_work()
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            try:
                yield
            finally:
                file.truncate(0)

    def _clear_work(self) -> None:
        """Of what jobs of killed processes left, also where earlier releases had them."""
        for left in (self.root / "work").glob("*"):
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """The folder itself: nobody can take the lock away by removing a file."""
        folder = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._lock(folder)
            yield
        finally:
            os.close(folder)

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ServerError(
                "basalt",
                f"this installation runs already (process {self.running_pid() or 'unknown'},"
                f" folder {self.root})",
                "use it, end it with `basalt down`, or choose another folder in BASALT_HOME",
            ) from error

    def is_claimed(self) -> bool:
        """Whether somebody runs it, be it that their number is not known."""
        try:
            with self._locked():
                return False
        except ServerError:
            return True
        except OSError:
            return False

    def running_pid(self) -> int | None:
        """The supervisor that runs this installation, if one does."""
        try:
            with self.pid_file.open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            # It is locked: what stands in it is true, once its owner has written it.
            number = self.pid_file.read_text()
            return int(number) if number.isdecimal() else None
        except OSError:
            return _locker(self.root)
        return _locker(self.root)

    def purge(self) -> tuple[str, ...]:
        """Removes the installation for good; the names of what else lies there and stays."""
        for name in CONTENTS:
            path = self.root / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        others = tuple(sorted(path.name for path in self.root.iterdir()))
        if not others:
            self.root.rmdir()
        return others


def _later(known: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that an installation lacks because it is older than they are, made now.

    They seal nothing, so that new ones do as well as those that were.
    """
    names = ("otlp_key", "metrics_key", "kafka_broker_password", "kafka_administrator_password")
    made: dict[str, Any] = {name: secrets.token_hex(CREDENTIAL_BYTES) for name in names}
    made["kafka_passwords"] = {service: secrets.token_hex(CREDENTIAL_BYTES) for service in SERVICES}
    return {name: key for name, key in made.items() if name not in known}


def _locker(folder: Path) -> int | None:
    """The process of this machine that holds the lock of a folder: proc(5), locks."""
    try:
        status = folder.stat()
        locks = Path("/proc/locks").read_text()
    except OSError:
        return None
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    for line in locks.splitlines():
        words = line.split()
        if words[1:2] == ["FLOCK"] and words[3:4] == ["WRITE"] and words[5:6] == [place]:
            return int(words[4])
    return None


def _holds_something(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists()


def address(port: int) -> str:
    return f"{LOOPBACK}:{port}"
