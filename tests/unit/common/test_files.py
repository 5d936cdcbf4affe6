from __future__ import annotations

import os
from pathlib import Path

import pytest

from libs.common.files import write_durably


def test_a_file_is_durable_before_its_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "secrets.json"
    synced: list[tuple[str, bool]] = []
    sync = os.fsync

    def noting(descriptor: int) -> None:
        sync(descriptor)
        # What is moved before it is synced may be there empty after a power cut.
        synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), file.exists()))

    monkeypatch.setattr(os, "fsync", noting)
    write_durably(file, b"{}")

    assert synced == [(f"{tmp_path}/.secrets.json.partial", False), (str(tmp_path), True)]
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "taken"
    folder.mkdir()

    with pytest.raises(IsADirectoryError):
        write_durably(folder, b"{}")

    assert list(tmp_path.iterdir()) == [folder]


def test_what_a_killed_writer_left_is_written_over(tmp_path: Path) -> None:
    (tmp_path / ".secrets.json.partial").write_bytes(b"half")

    write_durably(tmp_path / "secrets.json", b"whole")

    assert [each.read_bytes() for each in tmp_path.iterdir()] == [b"whole"]
