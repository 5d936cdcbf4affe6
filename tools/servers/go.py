"""Builds servers from Go modules whose go.sum is committed beside them."""

import os
import shutil
import subprocess
from pathlib import Path

from tools.servers.cache import Report, digest, obtain_once
from tools.servers.errors import ServerError

BUILD_S_MAX = 1_500.0
BUILD_BYTES = 3 * 1024 * 1024 * 1024  # Go's own caches of modules and objects included.


def build(module: Path, package: str, *, version: str, report: Report, tags: str = "") -> Path:
    """The folder of the binary, named like the module's folder; built once for each go.sum."""
    name = module.name
    sources = sorted(file for file in module.iterdir() if file.suffix in (".go", ".mod", ".sum"))
    return obtain_once(
        f"{name}-{version}-{digest(*sources, package, tags)}",
        lambda folder: _build(module, package, tags, folder, report),
        which=name,
        bytes_needed=BUILD_BYTES,
    )


def _build(module: Path, package: str, tags: str, folder: Path, report: Report) -> None:
    report("building with Go, which takes minutes", 0, 1)
    name = module.name
    shrink = ["-trimpath", "-ldflags=-s -w", "-buildvcs=false"]
    command = [_go(name), "build", *shrink, f"-tags={tags}", "-o", str(folder / name), package]
    # Read-only: what go.sum does not pin is refused, not added. No workspace, no compiler.
    fixed = {"GOFLAGS": "-mod=readonly", "GOWORK": "off", "CGO_ENABLED": "0"}
    done = subprocess.run(
        command,
        cwd=module,
        env={**os.environ, **fixed},
        capture_output=True,
        text=True,
        timeout=BUILD_S_MAX,
        check=False,
    )
    if done.returncode != 0:
        raise ServerError(
            name,
            f"could not be built; go says:\n{done.stderr.strip()}",
            f"it needs the network once and the Go that {module / 'go.mod'} names; then run "
            f"`python -m tools.servers obtain {name}` again",
        )
    report("ready", 1, 1)


def _go(name: str) -> str:
    found = shutil.which("go")
    if found is None:
        raise ServerError(
            name,
            "is built from source, and there is no Go on PATH",
            "install Go 1.25 or newer (only `make test-real` needs it; the laptop edition does "
            f"not), then run `python -m tools.servers obtain {name}`",
        )
    return found
