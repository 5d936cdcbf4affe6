"""An installation is its user's alone, also where it was not so before."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from libs.common.files import keep_private
from standalone import privacy
from standalone.home import Home
from tools.servers.child import Child
from tools.servers.errors import ServerError


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: the sockets of an installation have to fit into it."""
    with tempfile.TemporaryDirectory(prefix="basalt-") as made:
        yield Path(made)


def modes(root: Path) -> dict[str, int]:
    paths = (root, *root.rglob("*"))
    return {path.relative_to(root).as_posix(): path.lstat().st_mode & 0o777 for path in paths}


def test_what_others_could_read_is_closed_when_the_installation_is_claimed(folder: Path) -> None:
    home = Home.at(folder / "home")
    elsewhere = folder / "elsewhere"
    elsewhere.write_text("not the platform's")
    elsewhere.chmod(0o644)
    (home.root / "kafka/records").mkdir(parents=True)
    (home.root / "kafka/records/0.log").write_text("a tenant's events")
    (home.root / "kafka/link").symlink_to(elsewhere)
    for path, mode in (("kafka/records/0.log", 0o666), ("kafka/records", 0o777), (".", 0o755)):
        (home.root / path).chmod(mode)

    with home.claimed():
        found = modes(home.root)

    assert [path for path, mode in found.items() if mode & 0o077 and path != "kafka/link"] == []
    assert found["kafka/records/0.log"] == 0o600
    assert elsewhere.stat().st_mode & 0o777 == 0o644


def test_a_look_is_bounded_and_begins_at_the_top(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("a/b/c", "d"):
        (folder / path).mkdir(parents=True)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    monkeypatch.setattr(privacy, "ENTRIES_MAX", 2)

    assert privacy.close(folder) == 3
    assert modes(folder) == {".": 0o700, "a": 0o700, "d": 0o700, "a/b": 0o755, "a/b/c": 0o755}


@pytest.mark.parametrize("mode", [0o757, 0o777])
def test_a_folder_in_one_that_others_may_write_is_refused(folder: Path, mode: int) -> None:
    shared = folder / "shared"
    (shared / "between").mkdir(parents=True)
    shared.chmod(mode)
    with pytest.raises(ServerError, match=f"{shared} may be written by every user") as raised:
        Home.at(shared / "between/home")
    assert f"chmod go-w {shared}" in raised.value.next_step
    # In one like /tmp nobody replaces what is another's.
    shared.chmod(mode | 0o1000)
    assert Home.at(shared / "between/home").root.exists()


def test_a_folder_that_a_link_leads_to_is_judged_where_it_is(folder: Path) -> None:
    shared = folder / "shared"
    (shared / "home").mkdir(parents=True)
    shared.chmod(0o777)
    (folder / "link").symlink_to(shared / "home")
    with pytest.raises(ServerError, match="every user"):
        Home.at(folder / "link")


def test_what_a_child_creates_is_private_whatever_the_umask_was(folder: Path) -> None:
    previous = os.umask(0)
    try:
        child = Child(
            "toucher",
            ["sh", "-c", "mkdir made && touch made/file; echo done"],
            log=folder / "logs/toucher.log",
            environment=dict(os.environ),
            directory=folder,
        )
        child.wait_until_ready(lambda: "done" in child.log_tail(), 30)
    finally:
        os.umask(previous)
    child.stop(5)
    assert (folder / "made").stat().st_mode & 0o777 == 0o700
    assert (folder / "made/file").stat().st_mode & 0o777 == 0o600
    assert (folder / "logs").stat().st_mode & 0o777 == 0o700
    assert (folder / "logs/toucher.log").stat().st_mode & 0o777 == 0o600


def test_what_a_process_creates_after_it_is_private(folder: Path) -> None:
    previous = os.umask(0)
    try:
        keep_private()
        (folder / "folder").mkdir()
        (folder / "file").touch()
    finally:
        os.umask(previous)
    assert (folder / "folder").stat().st_mode & 0o777 == 0o700
    assert (folder / "file").stat().st_mode & 0o777 == 0o600
