"""Turns protos/ into Python, and refuses contracts that are stale, badly named or breaking.

`python -m tools.protos generate` writes libs/common/pb and libs/sdk/basalt/pb, and copies what else
the client has of the platform; `check` fails when they differ from what they are made from, when a
name breaks the rules, or when a change would break callers that were built against
protos/released.binpb (see CONTRIBUTING.md).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
RELEASED = PROTOS / "released.binpb"
# The platform and the client each carry the generated code, so that neither needs the other.
PACKAGES = {"libs.common.pb": ROOT / "libs/common/pb", "basalt.pb": ROOT / "libs/sdk/basalt/pb"}
# So do they of what both must read alike: the first is written, the second is copied.
SHARED = {ROOT / "libs/common/rowfile.py": ROOT / "libs/sdk/basalt/rowfile.py"}


def proto_files() -> list[str]:
    return sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))


def _protoc(*arguments: str) -> None:
    well_known = str(resources.files("grpc_tools") / "_proto")
    command = ["protoc", f"-I{PROTOS}", f"-I{well_known}", *arguments, *proto_files()]
    if protoc.main(command) != 0:
        raise SystemExit("protoc refused the contracts in protos/: see its message above.")


def generate(package: str, target: Path) -> None:
    """Writes the generated modules of `package` into the folder `target`."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    _protoc(f"--python_out={target}", f"--pyi_out={target}", f"--grpc_python_out={target}")
    for path in sorted([*target.rglob("*.py"), *target.rglob("*.pyi")]):
        path.write_text(_adapted(path.read_text(), package, path))
    for folder in [target, *(path for path in target.rglob("*") if path.is_dir())]:
        (folder / "__init__.py").write_text("")


def _adapted(text: str, package: str, path: Path) -> str:
    # protoc assumes that protos/ is on the path; ours live inside a package.
    text = re.sub(
        r"^from (basalt\.v1|inference) import", rf"from {package}.\1 import", text, flags=re.M
    )
    if path.parent.name == "inference":
        # Triton's client registers the same protocol; a pool of our own keeps the two apart.
        text = text.replace("_descriptor_pool.Default()", "_descriptor_pool.DescriptorPool()")
    return text


def stale() -> Iterator[str]:
    for written, copied in SHARED.items():
        if not copied.exists() or copied.read_bytes() != written.read_bytes():
            yield f"{copied.relative_to(ROOT)} is stale: run `make protos`."
    for package, target in PACKAGES.items():
        with tempfile.TemporaryDirectory() as folder:
            fresh = Path(folder) / "pb"
            generate(package, fresh)
            names = {path.relative_to(fresh) for path in fresh.rglob("*.py*")}
            names |= {path.relative_to(target) for path in target.rglob("*.py*")}
            for name in sorted(name for name in names if "__pycache__" not in name.parts):
                here, there = target / name, fresh / name
                if (
                    not here.exists()
                    or not there.exists()
                    or here.read_bytes() != there.read_bytes()
                ):
                    yield f"{here.relative_to(ROOT)} is stale: run `make protos`."


def refused_by_buf() -> Iterator[str]:
    """What buf says against names and layout, and against changes that would break callers."""
    against = ["breaking", "--against", str(RELEASED)] if RELEASED.exists() else None
    for arguments in filter(None, (["lint"], against)):
        command = [str(Path(sys.executable).with_name("buf")), *arguments]
        done = subprocess.run(command, cwd=PROTOS, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            yield (done.stdout + done.stderr).strip()


def main(arguments: list[str]) -> int:
    match arguments:
        case ["generate"]:
            for package, target in PACKAGES.items():
                generate(package, target)
            for written, copied in SHARED.items():
                shutil.copyfile(written, copied)
        case ["check"]:
            found = [*stale(), *refused_by_buf()]
            print(
                "\n".join(found)
                or "protos: generated code is fresh, names are good, nothing breaks."
            )
            return 1 if found else 0
        case ["release"]:
            _protoc(f"--descriptor_set_out={RELEASED}", "--include_imports")
        case _:
            print("usage: python -m tools.protos generate|check|release", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
