"""The command line as people and programs run it: a process of its own, piped or in a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMAND = (str(Path(sys.executable).with_name("basalt")),)
COMMAND_S_MAX = 60


@dataclass(frozen=True)
class Shown:
    status: int
    output: str
    complaint: str


def environment(given: Mapping[str, str]) -> dict[str, str]:
    hidden = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TERM")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return {**kept, **given}


def piped(*arguments: str, stdin: str | bytes = "", **given: str) -> Shown:
    """Standard output and error as a program reads them."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        input=stdin.encode() if isinstance(stdin, str) else stdin,
        capture_output=True,
        env=environment(given),
        timeout=COMMAND_S_MAX,
        check=False,
    )
    return Shown(done.returncode, done.stdout.decode(), done.stderr.decode())


def begun_in_terminal(*arguments: str, **given: str) -> tuple[subprocess.Popen[bytes], int]:
    """A command with a terminal of its own, and the descriptor of our end of that terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment({"COLUMNS": "80", "TERM": "xterm-256color", **given}),
        start_new_session=True,
    )
    os.close(theirs)
    return process, ours


def in_terminal(
    *arguments: str, columns: int = 80, typed: Sequence[tuple[str, str]] = (), **given: str
) -> Shown:
    """All that a terminal of so many columns gets, control codes too.

    `typed`: what somebody types, each line once the prompt before it has appeared.
    """
    process, ours = begun_in_terminal(*arguments, COLUMNS=str(columns), **given)
    shown, asked, waiting = b"", 0, list(typed)
    try:
        while part := os.read(ours, 4_096):
            shown += part
            while waiting and (place := shown.find(waiting[0][0].encode(), asked)) >= 0:
                asked = place + len(waiting[0][0])
                os.write(ours, f"{waiting.pop(0)[1]}\n".encode())
    except OSError:
        pass  # Linux ends a terminal that nobody holds any more with EIO.
    finally:
        os.close(ours)
    return Shown(process.wait(COMMAND_S_MAX), shown.decode().replace("\r\n", "\n"), "")


def failed(*arguments: str, status: int = 1, **more: Any) -> str:
    """What a command that fails says; never a traceback, and nothing on its standard output."""
    shown = piped(*arguments, **more)
    assert shown.status == status, shown
    assert "Traceback" not in shown.complaint
    assert shown.output == ""
    assert "\x1b" not in shown.complaint
    return shown.complaint
