"""NVIDIA Triton from the wheel `nvidia-pytriton`: CPU, Python backend, an environment of its own.

The wheel is of 2024 and lacks newer security fixes. So it listens on loopback only, and the
control key guards what changes the server. The key is on Triton's command line, which has no
other way to take it: other users of the same machine can read it there.
"""

import contextlib
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from tools.servers.cache import Report, digest, obtain_once, silent
from tools.servers.errors import ServerError
from tools.servers.ports import LOOPBACK
from tools.servers.server import Server, answers_ok, plain_environment

VERSION = "2.51.0"
WHEEL_VERSION = "0.7.0"  # Of nvidia-pytriton, which carries this Triton.
LOCK = Path(__file__).with_name("triton.requirements.lock")
ENVIRONMENT_BYTES = 700 * 1024 * 1024
INSTALL_S_MAX = 1_200.0
CONTROL_KEY_NAME = "basalt-control"
RESTRICTED = "model-repository,shared-memory,trace,logging"
EXIT_S_MAX = 5  # What Triton grants requests in flight when it is stopped.
TRACES_DELAY_MS = 500
# One in so many calls begins a trace of its own. One that brings a trace is always traced.
TRACES_RATE = 2**31 - 1
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Triton's Python backend puts its regions.
LOADED_FILES = re.compile(r"/tmp/folder\w{6}(?=/)")  # noqa: S108 - Triton chose it.


class Triton(Server):
    """A Triton that loads models on request only.

    `control_key` guards the model repository, shared memory, trace and log calls: a gRPC client
    sends it as the metadata `control_header`, an HTTP client as the header `basalt-control`.
    """

    name: ClassVar[str] = "triton"
    control_header: ClassVar[str] = f"triton-grpc-protocol-{CONTROL_KEY_NAME}"

    def __init__(
        self,
        directory: Path,
        port: int | None = None,
        *,
        http_port: int | None = None,
        metrics_port: int | None = None,
        control_key: str | None = None,
        repository: Path | None = None,
        traces_url: str | None = None,
    ) -> None:
        super().__init__(directory, {"grpc": port, "http": http_port, "metrics": metrics_port})
        self.grpc_address = f"{LOOPBACK}:{self.ports['grpc']}"
        self.http_address = f"{LOOPBACK}:{self.ports['http']}"
        self.metrics_address = f"{LOOPBACK}:{self.ports['metrics']}"
        self.url = f"http://{self.http_address}"
        self.metrics_url = f"http://{self.metrics_address}/metrics"
        self.control_key = control_key
        self.repository = (repository or self.directory / "models").absolute()
        self.traces_url = traces_url
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
        return [
            f"--grpc-address={LOOPBACK}",
            f"--grpc-port={self.ports['grpc']}",
            f"--http-address={LOOPBACK}",
            f"--http-port={self.ports['http']}",
            f"--metrics-address={LOOPBACK}",
            f"--metrics-port={self.ports['metrics']}",
            "--allow-gpu-metrics=false",
        ]

    def _restrictions(self) -> list[str]:
        if self.control_key is None:
            return []
        rule = f"{RESTRICTED}:{CONTROL_KEY_NAME}={self.control_key}"
        return [f"--grpc-restricted-protocol={rule}", f"--http-restricted-api={rule}"]

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
        return plain

    def _ready(self) -> bool:
        return answers_ok(f"{self.url}/v2/health/ready")

    def kill(self) -> None:
        folders = self._folders_of_models()
        super().kill()
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)

    def _folders_of_models(self) -> set[Path]:
        """Where a load call's files lie: in /tmp, whatever TMPDIR says; each stub names its own.

        Triton removes them itself when it may; a killed one cannot.
        """
        if not self.alive:
            return set()
        words = [word for stub in _stubs(self.pid) for word in stub]
        found = (LOADED_FILES.match(word) for word in words)
        return {Path(match[0]) for match in found if match}

    def _clean(self) -> None:
        for region in SHARED_MEMORY.glob(f"{self._region_prefix}*"):
            region.unlink(missing_ok=True)


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
