"""Ctrl-C while a command is still starting: it ends with 130, and without a word."""

import subprocess
import sys

import pytest

from tests.support.terminal import COMMAND, environment

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
