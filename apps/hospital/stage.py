"""How the story is told: steps, progress, tables, and checks that end it when one fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from basalt.errors import BasaltError

T = TypeVar("T")
POLL_S = 0.1


class StoryError(Exception):
    """A step did not hold."""


class Stage:
    def __init__(self, console: Console) -> None:
        self.console = console
        self._began = time.monotonic()

    def chapter(self, number: int, title: str) -> None:
        elapsed = time.monotonic() - self._began
        self.console.rule(f"[bold]{number}. {title}[/] [dim]{elapsed:.0f} s[/]", align="left")

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False)

    def point(self, mark: str, text: str) -> None:
        """Text beside its mark: what does not fit in a line goes on below its first word."""
        line = Table.grid(padding=(0, 1))
        line.add_column(no_wrap=True)
        line.add_column(overflow="fold")
        line.add_row(mark, text)
        self.console.print(line)

    def check(self, holds: bool, claim: str) -> None:
        """Shows the claim with a tick. Raises StoryError when it does not hold."""
        if not holds:
            raise StoryError(claim)
        self.point("  [green]✓[/]", claim)

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        table = Table(title=title, title_justify="left", header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(str(cell) for cell in row))
        self.console.print(table)

    @contextmanager
    def progress(self, title: str, total: float) -> Iterator[Callable[[float], object]]:
        """A bar; call what it gives with how far the work is."""
        bar = Progress(
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn() if total > 1 else TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            console=self.console,
        )
        with bar:
            task = bar.add_task(title, total=total)
            yield lambda done: bar.update(task, completed=done)

    async def until(
        self, what: str, look: Callable[[], Awaitable[T | None]], *, within_s: float
    ) -> T:
        """What `look` answers once it answers something; NOT_FOUND is "not yet" as well.

        Raises StoryError when time is over.
        """
        give_up_at = time.monotonic() + within_s
        with self.console.status(f"  waiting until {what}"):
            while (found := await _if_found(look)) is None:
                if time.monotonic() > give_up_at:
                    raise StoryError(f"Within {within_s:.0f} s: {what}.")
                await asyncio.sleep(POLL_S)
        return found

    async def refused(self, claim: str, work: Awaitable[Any], code: str) -> None:
        """Shows how a call is refused. Raises StoryError when it is not, or not with `code`."""
        try:
            await work
        except BasaltError as error:
            self.check(error.code == code, f"{claim}: [yellow]{error.code}[/] {escape(str(error))}")
        else:
            raise StoryError(f"{claim} was not refused.")


async def _if_found(look: Callable[[], Awaitable[T | None]]) -> T | None:
    try:
        return await look()
    except BasaltError as error:
        if error.code != "NOT_FOUND":
            raise
        return None
