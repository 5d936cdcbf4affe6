"""Tries many seeds and prints a table: `python -m tests.chaos --seeds 50 --edition real`."""

from __future__ import annotations

import argparse
import asyncio
import sys

from apps.hospital.chapters import records, release, training
from tests.chaos.run import Outcome, run
from tests.support.laptop import Laptop, running
from tests.support.telling import told_on

HARM_S = 120.0


async def outcomes(platform: Laptop, seeds: range, harm_s: float) -> list[Outcome]:
    found: list[Outcome] = []
    async with told_on(platform) as story:
        for chapter in (records, training, release):
            await chapter.tell(story)
        for seed in seeds:
            outcome = await run(platform, story, seed, harm_s)
            found.append(outcome)
            print(outcome, flush=True)
            if outcome.wrong:
                print(*outcome.harms, sep="\n    ", flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--seconds", type=float, default=HARM_S, help="of harm for each")
    parser.add_argument("--edition", choices=("laptop", "real"), default="laptop")
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.seeds)
    with running(options.edition) as platform:
        found = asyncio.run(outcomes(platform, seeds, options.seconds))
    return 1 if any(each.wrong for each in found) else 0


if __name__ == "__main__":
    sys.exit(main())
