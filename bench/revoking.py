"""Whether a revocation costs the same however many there are.

    python -m bench.revoking                        up to 100,000, a minute
    python -m bench.revoking --most 10000

One line a figure: with so many in force, what one more takes until it is durable and in force in
this process (its median), what verifying a token takes, and each beside what it took with none.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from libs.common.revocations import Revocation
from tests.support.security_core import World

YEAR_S = 365 * 86_400.0
SIZES = (0, 1_000, 10_000, 100_000)
PART = 1_000
REVOKED = 200
VERIFIED = 2_000


async def measured(folder: Path, most: int) -> None:
    world = World(folder)
    await world.access.begin()
    await world.access.add_tenant("acme", "admin")
    _, token = await world.keys.create("acme", "crm", ["application"], 365, "admin")
    world.clock.pass_s(1)
    until = world.clock.now().timestamp() + YEAR_S
    there = 0
    first: tuple[float, float] | None = None

    def another() -> Revocation:
        nonlocal there
        there += 1
        # Spread over the days of a year, as the keys' expiries are.
        return Revocation(until=until - there % 365 * 86_400.0, token_id=f"token-{there}")

    for size in (each for each in SIZES if each <= most):
        while there < size:
            rows = [another() for _ in range(min(PART, size - there))]
            await world.access.revoke(*rows, by="admin")
        shown, took = there, []
        for _ in range(REVOKED):
            row, began = another(), time.perf_counter()
            await world.access.revoke(row, by="admin")
            took.append(time.perf_counter() - began)
        began = time.perf_counter()
        for _ in range(VERIFIED):
            world.verifier.verify(token)
        now = (statistics.median(took) * 1e6, (time.perf_counter() - began) / VERIFIED * 1e6)
        first = first or now
        print(
            f"with {shown:>7,} in force   one more {now[0]:>7,.0f} µs  x{now[0] / first[0]:.2f}"
            f"   a token verified {now[1]:>6,.1f} µs  x{now[1] / first[1]:.2f}",
            flush=True,
        )
    await world.journal.store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="Revocations, by how many there are.")
    parser.add_argument("--most", type=int, default=SIZES[-1])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="basalt-bench-") as folder:
        asyncio.run(measured(Path(folder), options.most))


if __name__ == "__main__":
    main()
