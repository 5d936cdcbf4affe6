"""What a process leaves when it is killed is gone at its next start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from libs.common import work
from libs.common.errors import DependencyError

# A service that holds a tenant's rows when it is killed, and its child.
HOLDS = """
import subprocess, sys, tempfile
from pathlib import Path
from libs.common import work
work.begin(work.place(Path(sys.argv[1])))
ours = Path(tempfile.mkdtemp(prefix="upload-"))
(ours / "rows").write_text("secret")
makes = "import tempfile; print(tempfile.mkstemp()[1])"
subprocess.run([sys.executable, "-c", makes], check=True)
print(ours, flush=True)
sys.stdin.read()
"""


class Working:
    """A process with files in its folder, until it is killed."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", HOLDS, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout
        self.files = [Path(self._process.stdout.readline().strip()) for _ in range(2)]

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


def test_what_a_killed_process_left_is_gone_at_the_next_start(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("somebody's")
    (tmp_path / "others").mkdir()
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (outside / "kept").write_text("")
    first = Working(tmp_path)
    own = first.files[0].parents[1]
    assert own.parent == tmp_path
    assert (own / work.TEMPORARY).stat().st_mode & 0o777 == 0o700
    assert all(path.is_relative_to(own) and path.exists() for path in first.files)
    (own / work.JOBS / "acme/job/1").mkdir(parents=True)
    (own / "link").symlink_to(outside)
    # As releases before left it.
    (tmp_path / "upload-abc").mkdir()
    first.kill()

    second = Working(tmp_path)

    assert not own.exists()
    assert not (tmp_path / "upload-abc").exists()
    # What is not ours stays.
    assert (outside / "kept").exists()
    assert (tmp_path / "notes").read_text() == "somebody's"
    assert (tmp_path / "others").exists()
    second.kill()


def test_replicas_leave_each_others_alone(tmp_path: Path) -> None:
    replicas = [Working(tmp_path) for _ in range(3)]
    assert all(path.exists() for each in replicas for path in each.files)
    replicas[0].kill()
    last = Working(tmp_path)
    assert not any(path.exists() for path in replicas[0].files)
    assert all(path.exists() for each in replicas[1:] for path in each.files)
    for each in (*replicas[1:], last):
        each.kill()


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DependencyError, match="temporary files cannot be used") as raised:
        work.begin(work.place(tmp_path / "file" / "in it"))
    assert "BASALT_WORK" in raised.value.next_step
