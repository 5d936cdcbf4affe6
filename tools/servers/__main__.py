"""`python -m tools.servers obtain|start`: for set-up, images' caches and trying by hand."""

import argparse
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column

from tools.servers import Envoy, FerretDB, Kafka, MinIO, Server, ServerError, Triton

LAPTOP = ("kafka", "envoy", "triton")  # What pip alone can bring.
MAKERS: dict[str, Callable[[Path], Server]] = {
    "kafka": Kafka,
    "envoy": lambda directory: Envoy(directory / "envoy.json", directory),
    "triton": Triton,
    "minio": MinIO,
    "ferretdb": FerretDB,
}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        if options.command == "obtain":
            obtain(options.names or LAPTOP)
        else:
            start(options.name, options.directory)
    except ServerError as error:
        Console(stderr=True).print(str(error), style="red", markup=False, highlight=False)
        return 1
    return 0


def obtain(names: Sequence[str]) -> None:
    """Bring each server into the cache, with a bar for each."""
    whole = Column(no_wrap=True, min_width=9)
    columns = (
        TextColumn("{task.fields[server]}", table_column=whole),
        BarColumn(bar_width=16),
        TimeElapsedColumn(table_column=whole),
        TextColumn("{task.description}", markup=False, table_column=Column(overflow="fold")),
    )
    with (
        TemporaryDirectory() as scratch,
        Progress(*columns) as progress,
    ):
        for name in names:
            maker = _maker(name)
            task = progress.add_task("looking", server=name, total=None)

            def show(step: str, done: int, total: int, task=task) -> None:
                progress.update(task, description=step, completed=done, total=total)

            maker(Path(scratch, name)).obtain(show)
            progress.update(task, description="ready", completed=1, total=1)


def start(name: str, directory: Path) -> None:
    """Run one server until Ctrl-C or SIGTERM, its addresses printed."""
    directory.mkdir(parents=True, exist_ok=True)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with _maker(name)(directory) as server:
        console = Console()
        console.print(f"{name} is ready: process {server.pid}, log {server.log}", highlight=False)
        for role, port in server.ports.items():
            console.print(f"  {role}: 127.0.0.1:{port}", highlight=False)
        while server.alive and not ended.wait(1.0):
            pass
    if not ended.is_set():
        raise ServerError(name, "ended by itself", f"read its log: {server.log}")


def _maker(name: str) -> Callable[[Path], Server]:
    if name not in MAKERS:
        raise ServerError(name, "is no server known here", f"choose of: {', '.join(MAKERS)}")
    return MAKERS[name]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.servers", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    bring = commands.add_parser("obtain", help=f"fill the cache (default: {' '.join(LAPTOP)})")
    bring.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MAKERS))
    run = commands.add_parser("start", help="run one server until Ctrl-C")
    run.add_argument("name", metavar="NAME", help=", ".join(MAKERS))
    run.add_argument("--directory", type=Path, required=True, help="its data, log and ports")
    return parser


if __name__ == "__main__":
    sys.exit(main())
