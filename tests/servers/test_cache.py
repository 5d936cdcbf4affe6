import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tools.servers import cache
from tools.servers.errors import ServerError


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BASALT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def obtain(build, key: str = "thing-1", bytes_needed: int = 0) -> Path:
    return cache.obtain_once(key, build, which="thing", bytes_needed=bytes_needed)


def test_of_many_at_once_one_builds(empty_cache: Path) -> None:
    builds: list[Path] = []
    together = threading.Barrier(4)

    def build(folder: Path) -> None:
        builds.append(folder)
        (folder / "part").write_text("whole")

    def hurry(_: int) -> Path:
        together.wait(10)
        return obtain(build)

    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(hurry, range(4)))

    assert folders == {empty_cache / "thing-1"}
    assert len(builds) == 1
    assert (empty_cache / "thing-1/part").read_text() == "whole"


def test_a_build_that_fails_leaves_nothing_that_counts(empty_cache: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "part").write_text("half")
        raise OSError("the network is gone")

    with pytest.raises(OSError, match="network is gone"):
        obtain(fail)

    assert [entry.name for entry in empty_cache.iterdir()] == [".thing-1.lock"]
    assert obtain(lambda folder: None).exists()


def test_a_full_disk_is_told_before_the_build() -> None:
    with pytest.raises(ServerError, match=r"MiB are free\nNext: make room"):
        obtain(lambda folder: None, bytes_needed=2**62)


def test_a_cache_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BASALT_CACHE", str(tmp_path / "file" / "cache"))

    with pytest.raises(ServerError, match=r"cannot be written.*\n.*set BASALT_CACHE"):
        obtain(lambda folder: None)


def test_altered_bytes_are_refused(tmp_path: Path) -> None:
    jar = tmp_path / "kafka.jar"
    jar.write_bytes(b"as released")
    pinned = hashlib.sha256(b"as released").hexdigest()

    cache.verify(jar, pinned, which="kafka")
    jar.write_bytes(b"altered")

    with pytest.raises(ServerError, match="pinned"):
        cache.verify(jar, pinned, which="kafka")
