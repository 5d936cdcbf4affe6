"""Tries many seeds and prints a table: `python -m tests.chaos --seeds 50 --edition real`.

With `--recovery` it measures instead how soon everything answers again after each harm.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import logging
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from rich.console import Console

from apps.hospital.stage import Stage
from tests.chaos.recovery import measured, table
from tests.chaos.run import run
from tests.support.laptop import Laptop, running
from tests.support.telling import served_on

HARM_S = 120.0
DISK = "4G"
# A tmpfs in a mount namespace of its own: nothing outside sees it, and it goes with the process.
ON_A_SMALL_DISK = """
mount -t tmpfs -o "size=$1" tmpfs "$2" && export TMPDIR="$2" && shift 2 && exec "$@"
"""


def unheard() -> Stage:
    """The story is told for what it leaves behind."""
    return Stage(Console(file=io.StringIO()))


async def try_seeds(platform: Laptop, options: argparse.Namespace) -> bool:
    """Whether all hold."""
    all_hold, kinds = True, Counter[str]()
    async with served_on(platform, unheard()) as story:
        for seed in range(options.first, options.first + options.seeds):
            outcome = await run(
                platform,
                story,
                seed,
                options.seconds,
                small_disk=True,
                clock=options.faketime is not None,
            )
            all_hold = all_hold and not outcome.wrong
            kinds += outcome.kinds
            print(outcome, flush=True)
            if outcome.wrong:
                print(*outcome.harms, sep="\n    ", flush=True)
    print("harms:", ", ".join(f"{kind} {count}" for kind, count in kinds.most_common()))
    return all_hold


async def measure(platform: Laptop, options: argparse.Namespace) -> bool:
    async with served_on(platform, unheard()) as story:
        print(*table(await measured(platform, story, options.recovery)), sep="\n", flush=True)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--seconds", type=float, default=HARM_S, help="of harm for each")
    parser.add_argument("--recovery", type=int, default=0, help="rounds of measuring instead")
    parser.add_argument("--edition", choices=("laptop", "real"), default="laptop")
    parser.add_argument("--faketime", type=Path, help="libfaketimeMT.so.1, to set the clock too")
    parser.add_argument("--on-small-disk", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    # Recovery is measured where an installation is, on a real disk.
    if not (options.on_small_disk or options.recovery):
        return _again_on_a_small_disk()
    logging.getLogger().addHandler(logging.NullHandler())
    work = measure if options.recovery else try_seeds
    with running(options.edition, options.faketime) as platform:
        return 0 if asyncio.run(work(platform, options)) else 1


def _again_on_a_small_disk() -> int:
    """The same, where the disk can be filled."""
    with tempfile.TemporaryDirectory(prefix="basalt-chaos-") as folder:
        arguments = [sys.executable, "-m", "tests.chaos", *sys.argv[1:], "--on-small-disk"]
        return subprocess.run(
            [
                *("unshare", "--map-root-user", "--mount", "sh", "-c", ON_A_SMALL_DISK, "sh"),
                *(DISK, folder, *arguments),
            ],
            check=False,
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
