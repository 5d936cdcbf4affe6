import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.servers import child as child_module
from tools.servers.child import Child
from tools.servers.errors import ServerError
from tools.servers.waiting import wait_until

STUBBORN = """
import pathlib, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(sys.argv[1]).touch()
while True:
    signal.pause()
"""
PARENT = """
import os, pathlib, signal, sys
from tools.servers import child as child_module
from tools.servers.child import Child
from tools.servers.waiting import wait_until
folder = pathlib.Path(sys.argv[1])
ready = folder / "ready"
child = Child("stubborn", [sys.executable, "-c", sys.argv[2], ready],
              log=folder / "log", environment=os.environ, directory=folder)
child.wait_until_ready(ready.exists, 20)
print(child.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def started(folder: Path, source: str, *arguments: str | Path) -> Child:
    return Child(
        "sample",
        [sys.executable, "-c", source, *arguments],
        log=folder / "log",
        environment=os.environ,
        directory=folder,
    )


def has_ended(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True
    return status.rpartition(")")[2].split()[0] == "Z"


def test_a_child_that_ignores_the_request_to_end_is_killed(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    child = started(tmp_path, STUBBORN, ready)
    child.wait_until_ready(ready.exists, 20)

    child.stop(grace_s=0.1)

    assert not child.alive
    child.stop(grace_s=0.1)  # Once more does no harm.


def test_a_child_that_dies_early_shows_its_last_lines(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("of an earlier run\n")
    child = started(tmp_path, "raise SystemExit('no disk today')")

    with pytest.raises(ServerError, match="status 1 before it was ready") as failure:
        child.wait_until_ready(lambda: False, 20)

    assert "no disk today" in str(failure.value)
    assert "earlier" not in str(failure.value)


def test_a_child_that_is_never_ready_is_ended(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    child = started(tmp_path, STUBBORN, ready)

    with pytest.raises(ServerError, match=r"not ready within 0\.\d+ s"):
        child.wait_until_ready(lambda: False, 0.1)

    assert not child.alive


def test_no_child_survives_a_parent_that_is_killed(tmp_path: Path) -> None:
    parent = subprocess.run(
        [sys.executable, "-c", PARENT, str(tmp_path), STUBBORN],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert parent.stdout, parent.stderr

    assert wait_until(lambda: has_ended(int(parent.stdout)), 10)


SHOW = """
import os, pathlib
pathlib.Path("/tmp/of-the-child").touch()
print(sorted(os.listdir("/tmp")), os.listdir("/dev/shm"), os.path.exists(os.environ["KEPT"]))
"""


def leashed(private: Path, kept: Path) -> subprocess.CompletedProcess[str]:
    leash = Path(child_module.__file__).with_name("leash.py")
    options = ["--private", private, kept, "--"]
    return subprocess.run(
        [sys.executable, "-I", "-S", leash, str(os.getpid()), *options, sys.executable, "-c", SHOW],
        env={**os.environ, "KEPT": str(kept / "there")},
        capture_output=True,
        text=True,
        check=True,
    )


def test_a_child_may_have_temporary_folders_and_shared_memory_to_itself(tmp_path: Path) -> None:
    private, kept = tmp_path / "private", tmp_path / "kept"
    private.mkdir()
    kept.mkdir()
    (kept / "there").touch()

    seen = leashed(private, kept)

    below = [tmp_path.parts[2]] if tmp_path.is_relative_to("/tmp") else []
    assert seen.stdout.strip() == f"{sorted(['of-the-child', *below])} [] True"
    assert seen.stderr == ""
    assert (private / "of-the-child").exists()
    assert not Path("/tmp/of-the-child").exists()


def test_a_child_that_may_have_none_runs_and_says_so(tmp_path: Path) -> None:
    try:
        seen = leashed(tmp_path / "missing", Path(sys.prefix))
        assert "those of this machine" in seen.stderr
        assert "of-the-child" in seen.stdout
    finally:
        Path("/tmp/of-the-child").unlink()
