"""Builds our images, runs them beside real servers, and tells a story on them.

    python -m deploy.verify                          # needs Docker with compose 2.24 or newer
    python -m deploy.verify --without-training       # without the trainer's 6 GB image

Kafka, MinIO, a MongoDB-wire server and Triton run natively, as `tools/servers` brings them: so it
works where no registry of images is reached (give --base an image that you made). What runs in
containers does so with everything that docker-compose.yml confines it with, mutual TLS included.
Nothing stays: containers, volumes and folders are removed; images are kept.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml
from rich.console import Console

from apps.hospital.stage import StoryError
from basalt.errors import BasaltError
from deploy.first_start import make
from deploy.verify.story import Site, tell
from libs.common import senders
from libs.common.settings import SERVICES
from tools.servers import FerretDB, Kafka, KafkaIdentity, MinIO, ServerError, Triton
from tools.servers.ports import free_ports

REPOSITORY = Path(__file__).parents[2]
DOCKERFILE = "deploy/images/Dockerfile"
TAG = "verify"
READY_S_MAX = 300
ROLES = (
    *SERVICES, "door", "slow_grpc", "slow_rest", "envoy", "metrics", "otlp", "otlp_http",
)  # fmt: skip
CONTAINERS = (*SERVICES, "dispatcher", "envoy")
FIRST_LOGIN = "/var/lib/basalt/first-login.txt"


class Compose:
    """The project as docker compose knows it: our file, with the one beside this laid over it."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._command = [
            *command,
            *("--project-name", "basalt-verify", "--project-directory", str(REPOSITORY)),
            *("--file", str(REPOSITORY / "docker-compose.yml")),
            *("--file", str(Path(__file__).with_name("compose.yml"))),
        ]
        self._environment = {**os.environ, **environment, "BASALT_VERSION": TAG}

    def run(self, *words: str) -> None:
        subprocess.run([*self._command, *words], env=self._environment, check=True)

    def output(self, *words: str) -> str:
        done = subprocess.run(
            [*self._command, *words], env=self._environment, check=True, stdout=subprocess.PIPE
        )
        return done.stdout.decode()


def build(services: Sequence[str], base: str, ca: Path | None, network: str) -> None:
    """One image a service; the trainer's last, as it is by far the largest."""
    for service in sorted(services, key=lambda each: (each == "trainer", each)):
        secret = ["--secret", f"id=ca,src={ca}"] if ca else []
        arguments = [f"SERVICE={service}", *([f"BASE={base}"] if base else [])]
        subprocess.run(
            [
                *("docker", "build", "--quiet", "--network", network, *secret),
                *(word for each in arguments for word in ("--build-arg", each)),
                *("--tag", f"basalt-{service}:{TAG}", "--file", DOCKERFILE, "."),
            ],
            cwd=REPOSITORY,
            env={**os.environ, "DOCKER_BUILDKIT": "1"},
            check=True,
        )


@contextlib.contextmanager
def servers(folder: Path, secrets: Path, otlp_http: int) -> Iterator[dict[str, str]]:
    """The servers that are not ours, with the secrets of this installation: their addresses."""
    make(secrets)
    platform = json.loads((secrets / "platform.json").read_bytes())
    (folder / "minio").mkdir()
    (folder / "minio/credentials.json").write_text(
        json.dumps(["root", platform["minio_root_password"]])
    )
    traces = f"http://127.0.0.1:{otlp_http}/v1/traces"
    with (
        Kafka(folder / "kafka", identity=_identity(platform, secrets)) as kafka,
        MinIO(folder / "minio") as minio,
        FerretDB(folder / "ferretdb") as ferretdb,
        # Containers run as other users, who may not look into the folder of its socket.
        Triton(
            folder / "triton",
            tcp=True,
            control_key=platform["triton_control_key"],
            tls=secrets / "triton/tls",
            traces_url=traces,
            traces_token=senders.token(platform["otlp_key"], "triton"),
        ) as triton,
    ):
        yield {
            "VERIFY_KAFKA": kafka.bootstrap,
            "VERIFY_MINIO": minio.address,
            "VERIFY_MONGODB": ferretdb.address,
            "VERIFY_TRITON": f"tls:{triton.grpc_address}",
        }


def _files_max() -> int:
    """As many as docker-compose.yml gives Envoy, unless this user may not have so many."""
    compose = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
    given = compose["services"]["envoy"]["ulimits"]["nofile"]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return given if hard == resource.RLIM_INFINITY else min(given, hard)


def _identity(platform: Mapping[str, str], secrets: Path) -> KafkaIdentity:
    """As the container has it, with its own certificate."""
    return KafkaIdentity(
        platform["kafka_broker_password"],
        platform["kafka_administrator_password"],
        keystore=secrets / "kafka/tls/keystore.pem",
        authority=secrets / "kafka/tls/ca.pem",
    )


def verify(options: argparse.Namespace, console: Console, folder: Path) -> None:
    left_out = {"trainer"} if options.without_training else set[str]()
    if not options.no_build:
        build(
            [each for each in SERVICES if each not in left_out],
            options.base,
            options.ca,
            options.network,
        )
    ports = dict(zip(ROLES, free_ports(len(ROLES)), strict=True))
    secrets = folder / "secrets"
    with servers(folder, secrets, ports["otlp_http"]) as addresses:
        told = {f"VERIFY_{role.upper()}": str(port) for role, port in ports.items()}
        for role in ("otlp", "otlp_http"):
            told[f"VERIFY_{role.upper()}"] = f"127.0.0.1:{ports[role]}"
        told["VERIFY_NOFILE"] = str(_files_max())
        compose = Compose(
            shlex.split(options.compose), told | addresses | {"VERIFY_SECRETS": str(secrets)}
        )
        containers = [each for each in CONTAINERS if each not in left_out]
        try:
            compose.run(
                *("up", "--detach", "--no-build", "--pull", "never", "--wait"),
                *("--wait-timeout", str(READY_S_MAX), *containers),
            )
            compose.run("ps")
            platform = json.loads((secrets / "platform.json").read_bytes())
            first_login = folder / "first-login.txt"
            first_login.write_text(compose.output("exec", "-T", "security", "cat", FIRST_LOGIN))
            site = Site(
                door=f"127.0.0.1:{ports['door']}",
                kafka=addresses["VERIFY_KAFKA"],
                metrics=f"127.0.0.1:{ports['metrics']}",
                metrics_key=platform["metrics_key"],
                otlp=f"127.0.0.1:{ports['otlp']}",
                otlp_token=senders.token(platform["otlp_key"], "hospital"),
                services={
                    each: f"127.0.0.1:{ports[each]}" for each in SERVICES if each not in left_out
                },
                first_login=first_login,
                certificates=secrets / "ingest/tls",
            )
            asyncio.run(tell(site, console, with_training=not left_out))
        except BaseException:
            compose.run("logs", "--tail", "40")
            raise
        finally:
            compose.run("down", "--volumes", "--timeout", "20")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.verify", description=__doc__)
    parser.add_argument("--base", default="", help="an image with python3.11 to build on")
    parser.add_argument("--ca", type=Path, help="a bundle that pip trusts while building")
    parser.add_argument("--network", default="default", help="the network of builds")
    parser.add_argument("--compose", default="docker compose", help="the command of compose")
    parser.add_argument("--no-build", action="store_true", help="take the images of the last run")
    parser.add_argument("--without-training", action="store_true", help="leave the trainer out")
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="basalt-verify-") as folder:
        # Containers run as other users: they must be able to walk to their own secrets.
        Path(folder).chmod(0o755)
        try:
            verify(options, console, Path(folder))
        except (OSError, subprocess.SubprocessError, ServerError, StoryError, BasaltError) as error:
            console.print(f"[bold red]✗[/] {error}")
            return 1
    console.print("[green]✓[/] The containers hold.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
