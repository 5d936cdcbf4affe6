"""`python -m bench [name...]`: every measurement in turn, one line a figure.

A benchmark compares two sides in one run, in turns, and prints their ratio: an absolute time of a
busy machine proves little.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent
# In the order of the figures' page, docs/reference/performance.md.
BENCHMARKS = {
    "gateway": "the door against raw Triton",
    "ingest": "streaming ingest against a bare Kafka consumer",
    "journal": "journal appends against raw SQLite inserts",
    "training": "training through the platform against a bare script",
    "revoking": "a revocation among 100,000 against the first",
    "up": "from nothing to the first prediction, and what each process holds",
}


def main(names: list[str]) -> int:
    console = Console()
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"No benchmark {', '.join(unknown)}; there are: {', '.join(BENCHMARKS)}.")
        return 2
    failed = []
    for name in names or BENCHMARKS:
        console.rule(f"{name}: {BENCHMARKS[name]}", align="left")
        command = [sys.executable, "-m", f"bench.{name}"]
        if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
            failed.append(name)
    if failed:
        print(f"These did not finish: {', '.join(failed)}.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
