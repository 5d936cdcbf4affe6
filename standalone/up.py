"""`basalt up`: start everything, say where it is and what to do next, run until Ctrl-C."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from shlex import quote

from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from libs.common.files import keep_private
from standalone.home import DOOR_PORT, KAFKA_PORT, Home, default_root
from standalone.processes import Edition, lay_out
from standalone.supervisor import Supervisor, told_to_stop
from tools.servers.errors import ServerError

INTERRUPTED = 130
# Of the first screen: a line and a blank at either side.
FRAME_CELLS = 4
STATES = {
    "": Text("○ waiting", style="dim"),
    "getting": Text("◌ getting", style="yellow"),
    "starting": Text("◌ starting", style="yellow"),
    "ready": Text("● ready", style="green"),
    "died": Text("● died, coming back", style="red"),
    "silent": Text("● does not answer, coming back", style="red"),
    "failed": Text("● did not come back", style="red"),
    "stopped": Text("○ stopped", style="dim"),
}


def run(
    root: Path | None,
    *,
    door_port: int | None = None,
    kafka_port: int | None = None,
    as_program: bool = False,
) -> int:
    """Runs an installation in the foreground. Returns the exit status; raises ServerError.

    The ports are remembered: without an argument they are what they were. `as_program`: one line
    of JSON when it is ready, and nothing else on the standard output.
    """
    keep_private()
    console = Console(stderr=as_program, highlight=False)
    home = Home.at(root or default_root())
    try:
        home.require_space()
        home.require_whole()
        with home.claimed():
            if not home.has_ports():
                door_port, kafka_port = door_port or DOOR_PORT, kafka_port or KAFKA_PORT
            edition = lay_out(home, door_port, kafka_port)
            return asyncio.run(_live(home, edition, console, as_program))
    except OSError as error:
        raise ServerError(
            "basalt",
            f"{error.filename or home.root} cannot be used: {error.strerror or error}",
            "look whether the disk is full and the folder is yours, or choose another in"
            " BASALT_HOME",
        ) from error


async def _live(home: Home, edition: Edition, console: Console, as_program: bool) -> int:
    board = Board(edition, console)
    supervisor = Supervisor(home, edition, board.report)
    stopping = told_to_stop(again=supervisor.kill)
    begun = time.monotonic()
    with board.shown():
        starting = asyncio.create_task(supervisor.start())
        told = asyncio.create_task(stopping.wait())
        await asyncio.wait({starting, told}, return_when=asyncio.FIRST_COMPLETED)
        if told.done() and not starting.done():
            starting.cancel()
            await asyncio.wait({starting})
    if starting.cancelled():
        _below_the_echo(console)
        console.print("It was stopped before it was up; nothing is left running.")
        return INTERRUPTED
    starting.result()
    if as_program:
        print(json.dumps(_as_dict(home, edition)), flush=True)
    else:
        show_first_screen(console, home, edition, time.monotonic() - begun)
    board.announce()
    await told
    _below_the_echo(console)
    console.print("Stopping... (Ctrl-C again ends everything at once)")
    begun = time.monotonic()
    await supervisor.stop()
    took = f"within {time.monotonic() - begun:.1f} s"
    console.print(Text.assemble(("✓", "green"), f" Everything is stopped {took}."))
    return 0


def _below_the_echo(console: Console) -> None:
    """A terminal shows ^C where the cursor is; what is said next begins on a line of its own."""
    if console.is_terminal:
        console.print()


class Board:
    """The processes and what became of them: a table that redraws itself, or lines for a log."""

    def __init__(self, edition: Edition, console: Console | None = None) -> None:
        self._states = {process.name: "" for process in edition.processes}
        self._details = dict(self._states)
        self._processes = {process.name: process for process in edition.processes}
        self._console = console
        self._announces = console is not None and not console.is_terminal

    def shown(self) -> Live:
        """The table, as long as the start takes; a log gets lines instead."""
        return Live(
            get_renderable=self.__rich__,
            console=self._console if not self._announces else Console(quiet=True),
            refresh_per_second=8,
            transient=True,
        )

    def announce(self) -> None:
        """From now on each change is a line."""
        self._announces = True

    def report(self, name: str, state: str, detail: str = "") -> None:
        if self._announces and self._console and state != self._states[name] != "stopped":
            clock = time.strftime("%H:%M:%S  ")
            line = Text.assemble((clock, "dim"), f"{name:<11} ", STATES[state])
            if state == "failed":
                line.append(f": {detail}")
            self._console.print(line, soft_wrap=True)
        self._states[name] = state
        self._details[name] = detail

    def __rich__(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for name, state in self._states.items():
            running = state == "ready" and self._processes[name].alive
            detail = f"process {self._processes[name].pid}" if running else self._details[name]
            table.add_row(name, STATES[state], Text(detail, style="dim", overflow="ellipsis"))
        return table


def _as_dict(home: Home, edition: Edition) -> dict[str, object]:
    return {
        "door": edition.door,
        "kafka": edition.kafka,
        "home": str(home.root),
        "pid": os.getpid(),
        "first_login": str(home.first_login) if home.first_login.exists() else None,
    }


def show_first_screen(console: Console, home: Home, edition: Edition, seconds: float) -> None:
    """In a frame where every line fits into one, else without: a path is there to be copied."""
    screen = _first_screen(home, edition, seconds)
    if max(map(cell_len, screen.plain.splitlines())) + FRAME_CELLS <= console.width:
        console.print(Panel(screen, title="Basalt is up", border_style="green", expand=False))
    else:
        console.print(Text("Basalt is up", style="green"), screen, sep="\n", soft_wrap=True)


def _first_screen(home: Home, edition: Edition, seconds: float) -> Text:
    login = "basalt login"
    if edition.ports["door"] != DOOR_PORT:
        login += f" --endpoint {edition.door}"
    if home.first_login.exists():
        steps = (
            "Read the administrator's one-time password:\n"
            f"     [bold]cat {escape(quote(str(home.first_login)))}[/]",
            f"[bold]{login} --tenant platform --name admin[/]",
            "[bold]basalt status[/], then docs/tutorial/README.md",
        )
    else:
        steps = (f"[bold]{login}[/]", "[bold]basalt status[/]", "[bold]basalt --help[/]")
    numbered = (f"  {number}. {step}" for number, step in enumerate(steps, 1))
    wide = max(len(edition.door), len(edition.kafka))
    return Text.from_markup(
        f"Ready in {seconds:.1f} s. Ctrl-C stops it; everything is kept in its home.\n\n"
        f"door   {edition.door:<{wide}}  gRPC and REST: inference and every service\n"
        f"Kafka  {edition.kafka:<{wide}}  where upstream systems publish\n"
        f"home   {escape(str(home.root))}\n\n"
        "[bold]What next[/], in another terminal:\n" + "\n".join(numbered)
    )
