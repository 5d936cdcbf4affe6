"""How the command line speaks: tables for people, JSON for programs, errors that say what next.

What comes from the platform is shown as it is: never as markup, never as a terminal's commands.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, BinaryIO, TypeVar

import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from basalt.errors import InvalidInputError
from basalt.pb.basalt.v1.common_pb2 import Metric

DIGEST_CHARACTERS = 12
# A line that a program reads is never broken.
PIPE_COLUMNS = 100_000
# Line feeds and tabs may stay; the rest of C0, DEL and C1 could command a terminal.
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# What a table's frame takes of a line: at both ends together, and between two columns.
EDGES_CELLS, GAP_CELLS = 2, 2
COMMAND = re.compile(r"`[^`\n]+`")


def _console(*, stderr: bool = False) -> Console:
    made = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = PIPE_COLUMNS
    return made


console = _console()
errors = _console(stderr=True)


class Found(list[Any]):
    """What a listing gave; `more` where it was cut off at as many as were asked for."""

    more = False


Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Limit = Annotated[int, typer.Option(help="How many to list at the most.", min=1)]

Cell = object  # Shown as text; a rich Text keeps its style.
M = TypeVar("M", bound=Message)


def plain(value: Cell) -> str:
    """The value as text without control characters; those are written as \\x1b."""
    return CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", str(value))


def text(value: Cell) -> Text:
    return value if isinstance(value, Text) else Text(plain(value))


def mark(holds: bool) -> Text:
    return Text("✓", style="green") if holds else Text("✗", style="red")


def _sentence(words: str) -> Text:
    """A message of ours, in which `commands` stand out."""
    shown = Text(plain(words))
    shown.highlight_regex(COMMAND, "bold")
    return shown


def complain(what: str, next_step: str) -> None:
    errors.print(Text.assemble(("Error: ", "bold red"), _sentence(what)), soft_wrap=True)
    if next_step:
        errors.print(Text.assemble(("Next: ", "bold"), _sentence(next_step)), soft_wrap=True)


def done(message: str) -> None:
    console.print(Text.assemble(("✓ ", "green"), _sentence(message)), soft_wrap=True)


def say(message: str) -> None:
    console.print(_sentence(message), soft_wrap=True)


def note(message: str) -> None:
    """A word beside the output, which may be for a program."""
    errors.print(_sentence(message), soft_wrap=True)


def told(answer: Message | Mapping[str, Any], as_program: bool, message: str) -> None:
    """What a command did: the answer for programs, a sentence for people."""
    if as_program:
        as_json(answer)
    else:
        done(message)


def progress_bar(quiet: bool) -> Progress:
    """For work that somebody waits for; nothing where it is for a program."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    )


def as_json(answer: Message | Mapping[str, Any] | Iterable[Message]) -> None:
    """One JSON value: an object, or an array of them. Bytes are base64, as protobuf's JSON says."""
    if isinstance(answer, Message):
        value: Any = _plain(answer)
    elif isinstance(answer, Mapping):
        value = answer
    else:
        value = [_plain(each) for each in answer]
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _plain(message: Message) -> dict[str, Any]:
    return MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def require_terminal(question: str, option: str, next_step: str) -> None:
    """Raises InvalidInputError where nobody can be asked."""
    if not sys.stdin.isatty():
        raise InvalidInputError(
            f"{question}, and there is no terminal to ask at.", which=option, next_step=next_step
        )


def asked(
    question: str,
    option: str,
    default: str | None = None,
    *,
    secret: bool = False,
    twice: bool = False,
) -> str:
    """What somebody types. Raises InvalidInputError where nobody can be asked."""
    require_terminal(f"{question} is needed", option, f"Give it with {option}.")
    with question_open():
        answer: str = typer.prompt(
            question, default=default, hide_input=secret, confirmation_prompt=twice
        )
    return answer


@contextmanager
def question_open() -> Iterator[None]:
    """Ctrl-C at a question of typer's ends the command as it does anywhere else."""
    try:
        yield
    except typer.Abort as error:
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        fresh_line()
        raise KeyboardInterrupt from None


def fresh_line() -> None:
    """Below the ^C that a terminal shows."""
    if errors.is_terminal:
        errors.print()


def listed(
    found: Sequence[M],
    json: bool,
    title: str,
    columns: Sequence[str],
    row: Callable[[M], Sequence[Cell]],
) -> None:
    """What a list command answers: an array of all that is known, or a table of what matters."""
    if json:
        as_json(found)
    else:
        table(title, columns, map(row, found))
    if isinstance(found, Found) and found.more:
        note(f"There are more: `--limit {len(found) * 10}` shows up to {len(found) * 10}.")


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """A table; a title alone when there is nothing to list.

    Where a terminal is too narrow for the longest words, each row becomes a list of its fields,
    with a blank line before the next.
    """
    cells = [[text(cell) for cell in row] for row in rows]
    if not cells:
        say(f"{title}: none.")
        return
    if not console.is_terminal:
        _lines([[Text(column) for column in columns], *cells])
        return
    whole = [
        [column, *(cell.plain for cell in below)]
        for column, below in zip(columns, zip(*cells, strict=True), strict=True)
    ]
    least = [_widest(word for each in column for word in each.split()) for column in whole]
    most = [_widest(line for each in column for line in each.splitlines()) for column in whole]
    room = console.width - EDGES_CELLS - GAP_CELLS * (len(columns) - 1)
    if sum(least) > room:
        for number, row in enumerate(cells, 1):
            fields(f"{title}, {number} of {len(cells)}", zip(columns, row, strict=True))
            if number < len(cells):
                console.print()
        return
    # Above the table, as rich would fold it to the width of a narrow one.
    console.print(text(title), style="bold")
    shown = Table(
        header_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for column, width in zip(columns, _fitted(least, most, room), strict=True):
        shown.add_column(column, width=width, overflow="fold")
    for row in cells:
        shown.add_row(*row)
    console.print(shown)


def _widest(parts: Iterable[str]) -> int:
    return max(map(cell_len, parts), default=1) or 1


def _fitted(least: Sequence[int], most: Sequence[int], room: int) -> list[int]:
    """Widths of columns for so much room: the widest give way, but none breaks a word.

    rich would break some to spare others, and cut off what still does not fit.
    """
    widths = [min(width, room) for width in most]
    while sum(widths) > room:
        wide = (place for place, width in enumerate(widths) if width > least[place])
        widths[max(wide, key=widths.__getitem__)] -= 1
    return widths


def fields(title: str, values: Iterable[tuple[str, Cell]]) -> None:
    """Names and values, one a line, under a title; what is empty is left out."""
    cells = [(name, text("" if value is None else value)) for name, value in values]
    known = [[Text(name), value] for name, value in cells if value.plain]
    console.print(Text(plain(title), style="bold"))
    if not console.is_terminal:
        _lines(known)
        return
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for row in known:
        grid.add_row(*row)
    console.print(grid)


def _lines(rows: Sequence[Sequence[Text]]) -> None:
    """For programs: a line a row, cells in columns that are two blanks apart."""
    written = [[cell.plain.replace("\n", " ") for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*written, strict=True)]
    for row in written:
        padded = (
            cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)
        )
        console.print("  ".join(padded).rstrip(), soft_wrap=True)


def when(stamp: Any) -> str:
    """A protobuf timestamp in the reader's own time zone; "" when it is unset."""
    if stamp is None or (stamp.seconds == 0 and stamp.nanos == 0):
        return ""
    return stamp.ToDatetime(UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


@contextmanager
def written_whole(to: Path) -> Iterator[BinaryIO]:
    """A file that is there under its name once all of it is written, or not at all."""
    partial = to.with_name(to.name + ".partial")
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(to)
    finally:
        partial.unlink(missing_ok=True)


def assignments(given: Iterable[str] | None) -> Iterator[tuple[str, str]]:
    """What NAME=VALUE options say, in their order. Raises InvalidInputError."""
    for each in given or ():
        name, equals, value = each.partition("=")
        if not equals:
            raise InvalidInputError(
                f"{each!r} sets nothing.", which=each, next_step="Write NAME=VALUE."
            )
        yield name, value


def timestamp(text: str) -> datetime:
    """ISO 8601; without a time zone it is the reader's own. Raises BadParameter."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(f"{text!r} is no time: write it like 2026-03-01T14:30.") from error


def measured(metrics: Iterable[Metric]) -> str:
    """Counts as they are, all else to four decimals: accuracy 0.9737, evaluation_rows 42."""
    return ", ".join(
        f"{each.name} {each.value:.{0 if each.name.endswith('_rows') else 4}f}" for each in metrics
    )


def word(enum: Any, value: int) -> str:
    """JOB_STATE_RUNNING as "running"; a value that this client does not know as its number."""
    try:
        name: str = enum.Name(value)
    except ValueError:
        return str(value)
    prefix = enum.DESCRIPTOR.values[0].name.removesuffix("UNSPECIFIED")
    return name.removeprefix(prefix).lower().replace("_", " ")


def short(digest: str) -> str:
    return digest[:DIGEST_CHARACTERS]


def read_text(path: Path) -> str:
    """A file that people write. Raises InvalidInputError when it cannot be read as text."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInputError(
            f"{path} is no text in UTF-8.",
            which=str(path),
            next_step="Name another file, or save this one as UTF-8.",
        ) from error
