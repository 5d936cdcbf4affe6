"""NVIDIA Triton from the wheel `nvidia-pytriton`: CPU, Python backend, an environment of its own.

The wheel is of 2024 and lacks newer security fixes, and whoever reaches Triton may run code as its
user. So nobody else reaches it: it listens on a Unix socket in a folder of mode 0700, and has /tmp
and /dev/shm to itself where the kernel lets it (`leash.py`).
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Iterator, Set
from pathlib import Path
from typing import ClassVar

import grpc

from tools.servers.cache import Report, digest, obtain_once, silent
from tools.servers.child import Privacy
from tools.servers.errors import ServerError
from tools.servers.ports import LOOPBACK
from tools.servers.server import PROBE_S_MAX, Server, plain_environment

VERSION = "2.51.0"
WHEEL_VERSION = "0.7.0"  # Of nvidia-pytriton, which carries this Triton.
LOCK = Path(__file__).with_name("triton.requirements.lock")
ENVIRONMENT_BYTES = 700 * 1024 * 1024
INSTALL_S_MAX = 1_200.0
CONTROL_KEY_NAME = "basalt-control"
RESTRICTED = "model-repository,model-config,shared-memory,trace,logging"
EXIT_S_MAX = 5  # What Triton grants requests in flight when it is stopped.
SERVER_READY = "/inference.GRPCInferenceService/ServerReady"
READY = b"\x08\x01"  # ServerReadyResponse(ready=True) on the wire.
TRACES_DELAY_MS = 500
# One in so many calls begins a trace of its own. One that brings a trace is always traced.
TRACES_RATE = 2**31 - 1
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Triton's Python backend puts its regions.
TEMPORARY = Path("/tmp")  # noqa: S108 - where Triton puts a load call's files, whatever TMPDIR says.
LOADED_FILES = re.compile(r"/tmp/folder\w{6}(?=/)")  # noqa: S108 - Triton chose it.
# Younger copies of models may belong to a load that another Triton of this user is busy with.
STALE_S_MIN = 600.0
# A Unix socket's path, with the byte that ends it, in Linux.
SOCKET_BYTES_MAX = 107


class Triton(Server):
    """A Triton that loads models on request only.

    `grpc_address` is what a gRPC client takes: of the Unix socket, or of a loopback port with
    `tcp`, for clients that are not of this user, as containers are. `control_key` guards the model
    repository, shared memory, trace and log calls: a client sends it as the metadata
    `control_header`. It is on Triton's command line, so it is for tests and for containers. `tls`
    is a folder with ca.pem, triton.pem and triton.key.
    """

    name: ClassVar[str] = "triton"
    control_header: ClassVar[str] = f"triton-grpc-protocol-{CONTROL_KEY_NAME}"

    def __init__(
        self,
        directory: Path,
        *,
        tcp: bool = False,
        control_key: str | None = None,
        repository: Path | None = None,
        tls: Path | None = None,
        traces_url: str | None = None,
        traces_token: str = "",
    ) -> None:
        super().__init__(directory, {"grpc": None} if tcp else {})
        # Triton wants a port beside each address, and gRPC makes it a part of the socket's name.
        self.socket = self.directory / "socket" / "t:1"
        self.grpc_address = f"{LOOPBACK}:{self.ports['grpc']}" if tcp else f"unix:{self.socket}"
        self.control_key = control_key
        self.tls = tls
        self.repository = (repository or self.directory / "models").absolute()
        self.traces_url = traces_url
        self._traces_token = traces_token
        self._region_prefix = f"basalt_{digest(str(self.directory))}_"

    def obtain(self, report: Report = silent) -> Path:
        # A virtual environment is bound to the Python that made it.
        python = f"{sys.version} {sys.base_prefix}"
        return obtain_once(
            f"triton-{VERSION}-{digest(LOCK, python)}",
            lambda folder: _install(folder, report),
            which=self.name,
            bytes_needed=ENVIRONMENT_BYTES,
        )

    def _prepare(self) -> None:
        self.repository.mkdir(parents=True, exist_ok=True)
        if len(os.fsencode(self.socket)) > SOCKET_BYTES_MAX:
            raise ServerError(
                self.name,
                f"the path of its socket, {self.socket}, is over {SOCKET_BYTES_MAX} bytes",
                "choose a folder with a shorter path",
            )
        # Whoever may look into it may connect: the socket itself takes everybody.
        _private_folder(self.socket.parent)
        self.socket.unlink(missing_ok=True)
        _private_folder(self._temporary)

    def _command(self) -> list[str | Path]:
        folder = self.obtain()
        return [
            _packages(folder) / "pytriton/tritonserver/bin/tritonserver",
            f"--model-repository={self.repository}",
            f"--backend-directory={folder / 'backends'}",
            "--model-control-mode=explicit",
            # A model that fails to load is that model's failure, not the server's.
            "--exit-on-error=false",
            "--strict-readiness=false",
            # Whoever loads a model gives its whole configuration. To ask the model for it takes
            # a stub of its own, which made a load 13 times slower.
            "--disable-auto-complete-config",
            f"--exit-timeout-secs={EXIT_S_MAX}",
            *self._addresses(),
            # A prefix of its own, so that the regions a killed server leaves can be told apart.
            f"--backend-config=python,shm-region-prefix-name={self._region_prefix}",
            *self._restrictions(),
            *self._tracing(),
        ]

    def _addresses(self) -> list[str]:
        if self.ports:
            grpc_at = [f"--grpc-address={LOOPBACK}", f"--grpc-port={self.ports['grpc']}"]
        else:
            address, _, port = self.grpc_address.rpartition(":")
            grpc_at = [f"--grpc-address={address}", f"--grpc-port={port}"]
        # HTTP takes no Unix socket. What its metrics tell is asked by gRPC, as statistics.
        return [*grpc_at, *self._mutual_tls(), "--allow-http=false", "--allow-metrics=false"]

    def _mutual_tls(self) -> list[str]:
        """Clients prove themselves by a certificate of the authority that signed this one's."""
        if self.tls is None:
            return []
        return [
            "--grpc-use-ssl-mutual=true",
            f"--grpc-server-cert={self.tls / 'triton.pem'}",
            f"--grpc-server-key={self.tls / 'triton.key'}",
            f"--grpc-root-cert={self.tls / 'ca.pem'}",
        ]

    def _restrictions(self) -> list[str]:
        if self.control_key is None:
            return []
        return [f"--grpc-restricted-protocol={RESTRICTED}:{CONTROL_KEY_NAME}={self.control_key}"]

    def _tracing(self) -> list[str]:
        if self.traces_url is None:
            return []
        settings = (
            "mode=opentelemetry",
            f"opentelemetry,url={self.traces_url}",
            f"opentelemetry,resource=service.name={self.name}",
            f"opentelemetry,bsp_schedule_delay={TRACES_DELAY_MS}",
            f"rate={TRACES_RATE}",
            "level=TIMESTAMPS",
        )
        return [f"--trace-config={setting}" for setting in settings]

    def _environment(self) -> dict[str, str]:
        folder = self.obtain()
        plain = plain_environment()
        # The backend's stub takes the environment of the first `python3` on PATH.
        plain["PATH"] = f"{folder / 'environment/bin'}:{plain.get('PATH', '')}"
        libraries = (_libpython().parent, _packages(folder) / "nvidia_pytriton.libs")
        plain["LD_LIBRARY_PATH"] = ":".join(map(str, libraries))
        if self._traces_token:
            plain["OTEL_EXPORTER_OTLP_HEADERS"] = f"authorization=Bearer {self._traces_token}"
        return plain

    def _ready(self) -> bool:
        with self._channel() as channel:
            ask = channel.unary_unary(
                SERVER_READY, request_serializer=None, response_deserializer=None
            )
            try:
                return ask(b"", timeout=PROBE_S_MAX) == READY
            except grpc.RpcError:
                return False

    def _channel(self) -> grpc.Channel:
        if self.tls is None:
            return grpc.insecure_channel(self.grpc_address)
        files = ("ca.pem", "triton.key", "triton.pem")
        pems = (self.tls.joinpath(file).read_bytes() for file in files)
        credentials = grpc.ssl_channel_credentials(*pems)
        return grpc.secure_channel(self.grpc_address, credentials)

    # What a Triton leaves behind: copies of models in /tmp, and regions in /dev/shm. Where both are
    # its own, they end with it; elsewhere they are told apart and removed.

    @property
    def _temporary(self) -> Path:
        return self.directory / "tmp"

    def _privacy(self) -> Privacy | None:
        folders = (self.directory, self.repository, self.obtain(), _libpython().parent)
        return Privacy(
            temporary=self._temporary,
            kept=(
                *folders,
                *([self.tls.absolute()] if self.tls else []),
                Path(sys.base_prefix),
                Path(sys.prefix),
            ),
        )

    def kill(self) -> None:
        folders = self._folders_of_models()
        super().kill()
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)

    def _folders_of_models(self) -> set[Path]:
        """Where a load call's files lie in the /tmp that others see; each stub names its own.

        Triton removes them itself when it may; a killed one cannot.
        """
        if not self.alive or self.has_own_mounts:
            return set()
        return _named_folders(word for stub in _stubs(self.pid) for word in stub)

    @property
    def has_own_mounts(self) -> bool:
        """Whether its /tmp and /dev/shm are its own."""
        return _mounts(self.pid) not in ("", _mounts(os.getpid()))

    def _clean(self) -> None:
        for region in SHARED_MEMORY.glob(f"{self._region_prefix}*"):
            region.unlink(missing_ok=True)
        if self._temporary.is_dir():
            for left in self._temporary.iterdir():
                if left.is_dir() and not left.is_symlink():
                    shutil.rmtree(left, ignore_errors=True)
                else:
                    left.unlink(missing_ok=True)
        for folder in _stale_folders():
            shutil.rmtree(folder, ignore_errors=True)


def _private_folder(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)


def _mounts(pid: int) -> str:
    """The mount namespace of a process of ours; "" when it has gone."""
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt")
    except OSError:
        return ""


def _named_folders(words: Iterator[str]) -> set[Path]:
    return {Path(match[0]) for word in words if (match := LOADED_FILES.match(word))}


def _stale_folders() -> Set[Path]:
    """Copies of models that no process names any more, of this user, in the /tmp that all see."""
    found = {
        folder
        for folder in TEMPORARY.glob("folder" + "?" * 6)
        if (folder / "1/model.onnx").exists() and _is_stale(folder)
    }
    return found - _named_folders(_words()) if found else found


def _is_stale(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        stat = folder.lstat()
        return stat.st_uid == os.geteuid() and time.time() - stat.st_mtime > STALE_S_MIN
    return False


def _words() -> Iterator[str]:
    """The words of every command line that this user may read."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            yield from (process / "cmdline").read_text(errors="replace").split("\0")


def _stubs(pid: int) -> Iterator[list[str]]:
    """The command lines of the process's children."""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            with contextlib.suppress(OSError):  # It may have ended meanwhile.
                yield Path(f"/proc/{child}/cmdline").read_text().split("\0")


def _packages(folder: Path) -> Path:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return folder / "environment/lib" / version / "site-packages"


def _libpython() -> Path:
    """The shared library of the running Python, which the backend's stub needs."""
    found = next((file for file in _libpython_candidates() if file.exists()), None)
    if found is None:
        raise ServerError(
            "triton",
            f"its Python backend needs the shared library of Python "
            f"{sys.version_info.major}.{sys.version_info.minor}, and this Python has none",
            "on Debian: apt-get install libpython3.11; with pyenv: build it with "
            "PYTHON_CONFIGURE_OPTS=--enable-shared",
        )
    return found


def _libpython_candidates() -> Iterator[Path]:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    named = sysconfig.get_config_var("INSTSONAME")
    for name in (named, f"libpython{version}.so.1.0"):
        if name and ".so" in name:
            yield Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib") / name
            yield Path(sys.base_prefix) / "lib" / name
            yield Path("/usr/lib/x86_64-linux-gnu") / name


def _install(folder: Path, report: Report) -> None:
    report("creating an environment", 0, 3)
    environment = folder / "environment"
    uv = _uv()
    if uv is None:
        venv.create(environment, with_pip=True)
    else:
        _run([uv, "venv", "--quiet", "--no-config", "--python", sys.executable, environment])
    report("installing nvidia-pytriton, numpy, onnxruntime", 1, 3)
    _run(_install_command(uv, environment / "bin/python"))
    report("laying out the Python backend", 2, 3)
    _lay_out_backend(folder)
    report("ready", 3, 3)


def _uv() -> Path | None:
    beside = Path(sys.executable).with_name("uv")
    if beside.exists():
        return beside
    found = shutil.which("uv")
    return Path(found) if found else None


def _install_command(uv: Path | None, python: Path) -> list[str | Path]:
    # The lock is complete, so nothing needs to be resolved, and nothing that is unpinned comes.
    locked: list[str | Path] = ["--quiet", "--no-deps", "--require-hashes", "-r", LOCK]
    if uv is None:
        return [python, "-m", "pip", "install", "--only-binary=:all:", *locked]
    return [uv, "pip", "install", "--only-binary", ":all:", "--python", python, *locked]


def _run(command: list[str | Path]) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=INSTALL_S_MAX, check=False
    )
    if done.returncode != 0:
        raise ServerError(
            "triton",
            f"its environment could not be made; {Path(command[0]).name} says:\n"
            f"{(done.stderr or done.stdout).strip()}",
            "the wheel exists for Linux x86_64 and Python 3.9 to 3.13 and needs the network "
            "once; then run `python -m tools.servers obtain triton` again",
        )


def _lay_out_backend(folder: Path) -> None:
    """The stub of this Python beside the backend: Triton looks for it nowhere else."""
    shipped = _packages(folder) / "pytriton/tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    backend = folder / "backends/python"
    shutil.copytree(shipped / "backends/python", backend)
    stub = shipped / "python_backend_stubs" / version / "triton_python_backend_stub"
    shutil.copy2(stub, backend)
    (backend / stub.name).chmod(0o755)
