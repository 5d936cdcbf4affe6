"""`make demo`: the whole loop on real parts, in one installation that is removed afterwards."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from apps.hospital import measurements
from apps.hospital.chapters import drift, ending, records, release, serving, training
from apps.hospital.people import introduced
from apps.hospital.stage import Stage, StoryError
from apps.hospital.story import Story
from basalt.errors import BasaltError
from libs.common import telemetry
from standalone.home import Home
from standalone.processes import Edition, lay_out
from standalone.supervisor import Supervisor
from standalone.up import Board
from tools.servers.errors import ServerError

INTERRUPTED = 130
WHAT_NEXT = """
[bold]What next[/]
  1. [bold]make up[/], then [bold].venv/bin/basalt login[/]: the same platform, kept running for you
  2. docs/tutorial/: your own records, pipeline and model, step by step
  3. apps/hospital/: all of this story is a contract, a pipeline and a client to copy from
"""


async def tell(console: Console, home: Home) -> None:
    stage = Stage(console)
    edition = lay_out(home)
    supervisor = Supervisor(home, edition, Board(edition).report)
    began = time.monotonic()
    with console.status("Starting Kafka, Triton, Envoy and six services..."):
        await supervisor.start()
    stage.say(
        f"[green]✓[/] The platform is up in {time.monotonic() - began:.1f} s: {_names(edition)}"
    )
    flush_spans = telemetry.set_up("hospital", home.otlp)
    try:
        patients, held_out = measurements.load()
        async with introduced(edition.door, home.first_login) as people:
            story = Story(stage, people, edition.door, edition.kafka, patients, held_out)
            for chapter in (records, training, release, serving, drift, ending):
                await chapter.tell(story)
    finally:
        await asyncio.to_thread(flush_spans)
        with console.status("Stopping..."):
            await supervisor.stop()
    stage.say("[green]✓[/] Every step held; everything is stopped.")


def _names(edition: Edition) -> str:
    return ", ".join(process.name for process in edition.processes)


def main() -> int:
    console = Console()
    root = Path(tempfile.mkdtemp(prefix="basalt-demo-"))
    home = Home.at(root)
    try:
        asyncio.run(tell(console, home))
    except KeyboardInterrupt:
        home.purge()
        console.print("Interrupted; everything is stopped and removed.")
        return INTERRUPTED
    except StoryError as error:
        console.print(f"[bold red]✗ This step did not hold:[/] {error}\nLogs: {home.logs}")
        return 1
    except (BasaltError, ServerError) as error:
        console.print(f"[bold red]✗[/] {error}\nLogs: {home.logs}")
        return 1
    home.purge()
    console.print(WHAT_NEXT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
