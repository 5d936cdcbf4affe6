"""Nothing happens at import: no connection, no process, no thread, no setting, no file."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.tidy.source import ROOT, SERVICES, name_of, python_files

# It runs inside Triton, whose modules only exist there.
OF_ANOTHER_PROCESS = "services.inference.outbound.triton_python_model"
PROGRAM = """
import importlib, json, sys, threading
done = []
def is_a_probe(event, arguments):
    # urllib3 looks whether the machine knows IPv6; ctypes asks ldconfig where a library lies.
    return (event, arguments[1:2]) == ("socket.bind", (("::1", 0),)) or (
        event == "subprocess.Popen" and "ldconfig" in str(arguments[0])
    )
def watch(event, arguments):
    watched = {"socket.connect", "socket.bind", "subprocess.Popen", "os.fork", "os.system"}
    if event in watched and not is_a_probe(event, arguments):
        done.append(f"{event} {arguments[:2]!r} while importing {name}")
sys.addaudithook(watch)
name = ""
for name in json.loads(sys.argv[1]):
    before = set(threading.enumerate())
    importlib.import_module(name)
    done += [f"{name} starts {each.name}" for each in set(threading.enumerate()) - before]
print(json.dumps(done))
"""


def modules(*folders: str) -> list[str]:
    names = (
        name_of(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for path in python_files(*folders)
    )
    return [name for name in names if not name.startswith(OF_ANOTHER_PROCESS)]


@pytest.mark.parametrize(
    "folder", ["libs/common", *(f"services/{service}" for service in SERVICES), "standalone"]
)
def test_importing_does_nothing(folder: str) -> None:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, json.dumps(modules(folder))],
        cwd=ROOT,
        env=kept,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )

    assert done.returncode == 0, done.stderr[-3_000:]
    assert json.loads(done.stdout) == []
    assert done.stderr == ""
