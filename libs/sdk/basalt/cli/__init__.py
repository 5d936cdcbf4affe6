"""The command line. `main` is the only place that turns an error into a message and a status."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from basalt import __version__
from basalt.cli import (
    auditing,
    data,
    identity,
    models,
    platform,
    prediction,
    quarantining,
    training,
    watching,
)
from basalt.cli.output import complain
from basalt.errors import BasaltError

app = typer.Typer(
    name="basalt",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    epilog="Begin with [bold]basalt up[/], then [bold]basalt login[/] and [bold]basalt status[/].",
)
for part in (
    platform,
    identity,
    data,
    quarantining,
    training,
    models,
    prediction,
    watching,
    auditing,
):
    part.add_to(app)

FAILED = 1
INTERRUPTED = 130


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"basalt {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """The Basalt AI platform: governed data, trained and signed models, served and watched."""


def _remedy(error: OSError) -> str:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "Correct the path, or make what is missing."
    if isinstance(error, IsADirectoryError):
        return "Name a file in it."
    if isinstance(error, PermissionError):
        return "Name a file that you may use, or ask its owner for it."
    return "Mend that, and run the command again."


def main() -> None:
    """Runs a command. Exits 0, 1 (it failed, and said why), 2 (used wrongly) or 130 (Ctrl-C)."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal of another encoding shows what it can.
        stream.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
    try:
        app()
    except BasaltError as error:
        complain(error.what, error.next_step)
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except OSError as error:
        names = " ".join(str(name) for name in (error.filename, error.filename2) if name)
        complain(f"{names}: {error.strerror or error}.".removeprefix(": "), _remedy(error))
    except Exception as error:
        if os.environ.get("BASALT_TRACEBACK"):
            raise
        complain(
            f"The command failed in a way that it should not: {type(error).__name__}: {error}.",
            "Set BASALT_TRACEBACK=1 to see where, and report it.",
        )
    raise SystemExit(FAILED)
