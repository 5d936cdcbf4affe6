"""`python -m tools.servers.pin`: writes the locks anew after a version was raised.

Run it by hand, read the difference, and commit it: from then on nothing else is installed.
(The Go modules are pinned by `go mod tidy` in `ferretdb/` and `minio/`.)
"""

import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from jgo.maven import Artifact, MavenContext

from tools.servers import kafka, triton

# Kafka logs through SLF4J 1.7; without a binding, a broker that fails would not say why.
LOGGING = "org.slf4j:slf4j-simple:1.7.36"
RUNTIME_SCOPES = ("compile", "runtime")


def pin_kafka() -> None:
    with TemporaryDirectory() as scratch:
        context = MavenContext(repo_cache=Path(scratch), local_repos=[], timeout=60)
        broker = context.create_dependency(f"org.apache.kafka:kafka_2.13:{kafka.VERSION}")
        _, needed = context.resolver.resolve([broker])
        chosen = [broker, context.create_dependency(LOGGING)]
        chosen += [dependency for dependency in needed if dependency.scope in RUNTIME_SCOPES]
        with ThreadPoolExecutor(8) as pool:
            pinned = pool.map(_line, (dependency.artifact for dependency in chosen))
            lines = sorted(pinned, key=lambda line: line.split()[1])
    kafka.LOCK.write_text("".join(f"{line}\n" for line in lines))


def pin_triton() -> None:
    wanted = triton.LOCK.with_suffix(".in")
    # The wheel asks for a client and a web framework, which the server itself does not use.
    with TemporaryDirectory() as scratch:
        wheel = Path(scratch, "wheel.in")
        wheel.write_text(f"nvidia-pytriton=={triton.WHEEL_VERSION}\n")
        triton.LOCK.write_text(_compiled(wanted) + _compiled(wheel, "--no-deps"))


def _line(jar: Artifact) -> str:
    sha256 = hashlib.sha256(jar.resolve().read_bytes()).hexdigest()
    return f"{sha256}  {jar.groupId}:{jar.artifactId}:{jar.version}"


def _compiled(wanted: Path, *options: str) -> str:
    quiet = ["--quiet", "--no-header", "--no-annotate", "--generate-hashes", "--no-config"]
    uv = Path(sys.executable).with_name("uv")
    command = [uv, "pip", "compile", *quiet, "--python-version", "3.11", *options, wanted]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    pin_kafka()
    pin_triton()
