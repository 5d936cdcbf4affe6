"""Ctrl-C while a command starts, at a question, and in a terminal: always 130, never a fault."""

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest

from basalt.pb.basalt.v1 import trainer_pb2
from tests.support.answering import Answering
from tests.support.terminal import COMMAND, begun_in_terminal, environment

LOG = "basalt.v1.TrainerService/FollowJobLog"
READ_S, ENDED_S_MAX = 0.5, 60.0
WORDS = [f"measurement-{number}" for number in range(40)]

# Begins the command and gets the signal where a given module is about to be imported.
AT_IMPORT = """
import builtins, os, signal, sys
real = builtins.__import__
def interrupted(name, *rest):
    if name == {module!r}:
        builtins.__import__ = real
        os.kill(os.getpid(), signal.SIGINT)
    return real(name, *rest)
builtins.__import__ = interrupted
sys.argv = [{command!r}, "--version"]
exec(compile(open({command!r}).read(), {command!r}, "exec"))
"""


@pytest.mark.parametrize("module", ["basalt.cli", "typer", "grpc.aio", "numpy", "rich.console"])
def test_ctrl_c_among_the_imports_is_quiet(module: str) -> None:
    code = AT_IMPORT.format(module=module, command=COMMAND[0])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment({}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def interrupted(*arguments: str, once: str) -> tuple[int, str]:
    """The status, and what a terminal shows, of a command that gets a Ctrl-C once it shows that.

    As from somebody who has read it: Python does not notice a signal that comes in the moment
    between its last look and the system call in which it then waits.
    """
    command, ours = begun_in_terminal(*arguments, TERM="dumb")
    shown, sent = b"", False
    try:
        with contextlib.suppress(OSError):  # Linux ends a terminal that nobody holds with EIO.
            while True:
                asks = once.encode() in shown and not sent
                readable, _, _ = select.select([ours], [], [], READ_S if asks else ENDED_S_MAX)
                if readable:
                    shown += os.read(ours, 4_096)
                    continue
                assert asks, shown
                command.send_signal(signal.SIGINT)
                sent = True
        return command.wait(ENDED_S_MAX), shown.decode().replace("\r\n", "\n")
    finally:
        os.close(ours)
        command.kill()
        command.wait()


@pytest.mark.parametrize(
    ("arguments", "question"),
    [
        (("login",), "Tenant"),
        (("login", "--tenant", "acme", "--name", "ann"), "Password"),
        (("down", "--purge"), "Remove all data"),
    ],
)
def test_ctrl_c_at_a_question_ends_as_anywhere(
    server: Answering, arguments: tuple[str, ...], question: str
) -> None:
    status, shown = interrupted(*arguments, once=question)
    assert status == 130
    assert "Aborted" not in shown


def test_log_in_a_terminal_keeps_words_whole_and_ends_on_a_line_of_its_own(
    server: Answering,
) -> None:
    async def endless(*_: object) -> AsyncIterator[trainer_pb2.FollowJobLogResponse]:
        yield trainer_pb2.FollowJobLogResponse(line=" ".join(WORDS))
        await asyncio.Event().wait()

    server.handlers[LOG] = endless
    status, shown = interrupted("train", "log", "j1", once=WORDS[-1])
    assert status == 130
    log, _, notice = shown.partition("\n\nCtrl-C ends the watching, not the job j1.\n")
    assert notice
    assert log.split() == WORDS
    assert max(map(len, log.splitlines())) <= 80
