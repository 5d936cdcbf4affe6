"""`make demo`: the whole loop on real parts, in one installation that is removed afterwards."""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape

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
WHAT_NEXT = (
    "[bold]make up[/], then [bold].venv/bin/basalt login[/]: the same platform, kept running",
    "docs/tutorial/: your own records, pipeline and model, step by step",
    "apps/hospital/: all of this story is a contract, a pipeline and a client to copy from",
)


async def tell(stage: Stage, home: Home) -> None:
    edition = lay_out(home)
    supervisor = Supervisor(home, edition, Board(edition).report)
    began = time.monotonic()
    with stage.console.status("Starting Kafka, Triton, Envoy and six services..."):
        await supervisor.start()
    stage.point(
        "[green]✓[/]", f"The platform is up in {time.monotonic() - began:.1f} s: {_names(edition)}"
    )
    flush_spans = telemetry.set_up("hospital", home.otlp, home.otlp_token("hospital"))
    try:
        patients, held_out = measurements.load()
        async with introduced(edition.door, home.first_login) as people:
            story = Story(stage, people, edition.door, edition.kafka, patients, held_out)
            for chapter in (records, training, release, serving, drift, ending):
                await chapter.tell(story)
    finally:
        await asyncio.to_thread(flush_spans)
        with stage.console.status("Stopping..."):
            await supervisor.stop()
    stage.point("[green]✓[/]", "Every step held; everything is stopped.")


def _names(edition: Edition) -> str:
    return ", ".join(process.name for process in edition.processes)


def main() -> int:
    # What goes wrong is raised and told; what libraries log besides would tear the tables.
    logging.getLogger().addHandler(logging.NullHandler())
    stage = Stage(Console())
    root = Path(tempfile.mkdtemp(prefix="basalt-demo-"))
    home = Home.at(root)
    try:
        asyncio.run(tell(stage, home))
    except KeyboardInterrupt:
        home.purge()
        stage.say("Interrupted; everything is stopped and removed.")
        return INTERRUPTED
    except StoryError as error:
        return _failed(stage, home, f"This step did not hold: {error}")
    except (BasaltError, ServerError) as error:
        return _failed(stage, home, str(error))
    home.purge()
    stage.say("\n[bold]What next[/]")
    for number, step in enumerate(WHAT_NEXT, 1):
        stage.point(f"  {number}.", step)
    return 0


def _failed(stage: Stage, home: Home, why: str) -> int:
    stage.point("[bold red]✗[/]", escape(why))
    stage.console.print(f"Logs: {home.logs}", soft_wrap=True, markup=False)
    return 1


if __name__ == "__main__":
    sys.exit(main())
