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
work.begin(Path(sys.argv[1]))
ours = Path(tempfile.mkdtemp(prefix="upload-"))
(ours / "rows").write_text("secret")
makes = "import tempfile; print(tempfile.mkstemp()[1])"
subprocess.run([sys.executable, "-c", makes], check=True)
print(ours, flush=True)
sys.stdin.read()
"""


def left_by_a_killed_one(folder: Path) -> list[Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    left = [Path(process.stdout.readline().strip()) for _ in range(2)]
    process.kill()
    process.communicate()
    return left


def test_what_a_killed_process_left_is_gone_at_the_next_start(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("somebody's")
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (outside / "kept").write_text("")
    first = left_by_a_killed_one(tmp_path)
    assert all(path.is_relative_to(tmp_path) and path.exists() for path in first)
    (tmp_path / work.TEMPORARY / "link").symlink_to(outside)
    (tmp_path / work.JOBS / "acme/job/1").mkdir(parents=True)

    left_by_a_killed_one(tmp_path)

    assert not any(path.exists() for path in first)
    assert not (tmp_path / work.JOBS / "acme").exists()
    assert not (tmp_path / work.TEMPORARY / "link").is_symlink()
    assert (tmp_path / work.TEMPORARY).stat().st_mode & 0o777 == 0o700
    # What is not ours stays.
    assert (outside / "kept").exists()
    assert (tmp_path / "notes").read_text() == "somebody's"


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DependencyError, match="temporary files cannot be used") as raised:
        work.begin(tmp_path / "file")
    assert "BASALT_WORK" in raised.value.next_step
