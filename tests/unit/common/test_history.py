"""The history survives what it tells of, stays small, and is read whoever wrote it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from libs.common import disk, history
from libs.common.disk import Disk
from libs.common.errors import BasaltError, DependencyError, LimitError
from libs.common.history import Happening, HistoryFile, read

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)


def happening(minute: int, component: str = "kafka", **more: object) -> Happening:
    return Happening(NOON + timedelta(minutes=minute), component, "died", **more)  # pyright: ignore[reportArgumentType]


def test_writers_are_merged_newest_first(tmp_path: Path) -> None:
    supervisor, monitoring = (
        HistoryFile(tmp_path, "supervisor"),
        HistoryFile(tmp_path, "monitoring"),
    )
    for minute in range(0, 10, 2):
        supervisor.note(happening(minute))
        monitoring.note(happening(minute + 1, "triton", detail="x", mended_by="y", took_s=1.5))

    found = supervisor.newest(4)

    assert [each.at.minute for each in found] == [9, 8, 7, 6]
    assert found[0] == happening(9, "triton", detail="x", mended_by="y", took_s=1.5)
    assert read(tmp_path, 100) == monitoring.newest(100)
    assert read(tmp_path / "nowhere", 5) == []


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_line_that_a_crash_cut_harms_no_other(tmp_path: Path, cut: int) -> None:
    file = HistoryFile(tmp_path, "supervisor")
    for minute in range(3):
        file.note(happening(minute))
    path = tmp_path / "supervisor.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])

    file.note(happening(3))

    minutes = [each.at.minute for each in read(tmp_path, 10)]
    assert minutes in ([3, 1, 0], [3, 2, 1, 0])
    assert minutes[0] == 3


def test_what_is_no_line_of_ours_is_left_out(tmp_path: Path) -> None:
    file = HistoryFile(tmp_path, "supervisor")
    file.note(happening(0))
    with (tmp_path / "supervisor.jsonl").open("ab") as to:
        to.write(
            b"\xff\xfe\n[]\n7\n{}\n" + b'{"at": "2026-07-01", "component": "x", "kind": "y"}\n'
        )
        to.write(b'{"at": "2026-07-01T13:00:00+00:00", "component": "a", "kind": "b", "new": 1}\n')

    assert [each.component for each in read(tmp_path, 10)] == ["a", "kafka"]


def test_it_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "FILE_BYTES_MAX", 2_000)
    file = HistoryFile(tmp_path, "supervisor")
    for minute in range(500):
        file.note(happening(minute, detail="d" * 10_000))

    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 6_000
    assert read(tmp_path, 1)[0].at == NOON + timedelta(minutes=499)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_a_disk_that_takes_no_line_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    HistoryFile(tmp_path / "file", "supervisor").note(happening(0))


@pytest.mark.parametrize(
    ("free", "kind"),
    [
        (disk.FREE_BYTES_LOW, None),
        (disk.FREE_BYTES_LOW - 1, LimitError),
        (disk.FREE_BYTES_LAST, LimitError),
        (disk.FREE_BYTES_LAST - 1, DependencyError),
        (0, DependencyError),
    ],
)
async def test_a_disk_is_told_to_be_full_before_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, kind: type[BasaltError] | None
) -> None:
    monkeypatch.setattr(disk, "free_bytes", lambda _: free)
    ping = Disk.under([f"sqlite:{tmp_path}", "mongodb://x/y"], [tmp_path / "spool"]).ping
    if kind is None:
        await ping()
        return
    with pytest.raises(kind, match=f"{free >> 20} MiB free") as raised:
        await ping()
    assert str(tmp_path) not in str(raised.value)


def test_what_is_on_no_disk_of_ours_is_not_looked_at(tmp_path: Path) -> None:
    assert Disk.under(["mongodb://x/y", "s3:http://x/y"]).folders == ()
    assert Disk.under([f"directory:{tmp_path}"]).folders == (tmp_path,)
    assert disk.free_bytes(tmp_path / "not/made/yet") > 0
