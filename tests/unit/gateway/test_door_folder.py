"""The door's folder on a disk, where anything may become of a file: it is as it was within moments,
and the history says so."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from libs.common.clock import SystemClock
from libs.common.errors import PreconditionError
from libs.common.history import HistoryFile, Mended, read
from libs.common.revocations import Revocation, Revocations
from services.gateway.core.door import Door
from services.gateway.core.table import RoutedModel, RoutedVariant, Table
from services.gateway.dispatcher.app import Serving
from services.gateway.dispatcher.recording import Sampler, SpanBuffer
from services.gateway.outbound.folder import DiskDoorFolder
from services.gateway.outbound.revocations import RevocationFile
from tests.support.eventually import eventually
from tests.unit.gateway.test_configuration import ACCESS, the_site
from tests.unit.gateway.test_door import Judge

FILES = (
    "access.json",
    "cds.json",
    "ecds-rates.json",
    "ecds-roles.json",
    "ecds-tokens.json",
    "envoy.json",
    "lds.json",
    "rds.json",
    "routes.json",
)


def taken(file: Path) -> None:
    file.unlink()


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def a_full_folder(file: Path) -> None:
    a_folder(file)
    (file / "notes").write_text("mine")


def a_pipe(file: Path) -> None:
    """Whoever opens it waits for a writer."""
    file.unlink()
    os.mkfifo(file)


def a_link_to_nothing(file: Path) -> None:
    file.unlink()
    file.symlink_to("nothing")


def a_link_to_itself(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.name)


def says(content: bytes) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        file.write_bytes(content)

    return write


DAMAGES: dict[str, Callable[[Path], None]] = {
    "taken": taken,
    "a folder": a_folder,
    "a full folder": a_full_folder,
    "a pipe": a_pipe,
    "a link to nothing": a_link_to_nothing,
    "a link to itself": a_link_to_itself,
    "empty": says(b""),
    "cut": says(b"{"),
    "not UTF-8": says(b"\xff\xfe{}"),
    "half a character": says(b'{"version": "\xc3'),
    "zeros": says(b"\0" * 4_096),
    "deep": says(b"[" * 100_000),
    "a surrogate": says(b'"\\ud800"'),
    "a long number": says(b'{"version": ' + b"9" * 5_000 + b"}"),
    "another shape": says(b'{"version": [], "routes": 1, "keys": {}, "tenants": null}'),
    "null": says(b"null"),
}


def table(version: int) -> Table:
    variant = RoutedVariant(
        internal_name="acme--m--v1", version=1, manifest_sha256="aa", weight=100
    )
    route = RoutedModel(tenant="acme", model="m", revision=version, variants=(variant,))
    return Table(version=version, routes=(route,))


class Site:
    """The door's control plane, and the dispatcher beside it."""

    def __init__(self, root: Path) -> None:
        self.folder, self.history = root / "door", root / "history"
        disk = DiskDoorFolder(self.folder)
        disk.prepare()
        mended = Mended("gateway", SystemClock(), HistoryFile(self.history, "gateway"))
        self.door = Door(the_site(), Judge(), disk, mended)
        spans = SpanBuffer()
        self.serving = Serving(
            "unix:/nowhere", self.folder, Sampler(samples_max=1), spans, Revocations()
        )

    async def start(self) -> None:
        await self.door.start()
        await self.serving.start()
        self.door.take_access(ACCESS)
        self.door.take_table(table(1))
        await self.door.settled(5)
        await eventually(lambda: self.serving.table.version == 1)

    async def stop(self) -> None:
        await self.serving.stop()
        await self.door.stop()

    def files(self) -> dict[str, bytes]:
        return {
            name: (self.folder / name).read_bytes()
            for name in FILES
            if (self.folder / name).is_file()
        }

    async def follows(self, version: int) -> None:
        """What is deployed now is in force."""
        self.door.take_table(table(version))
        await eventually(lambda: self.serving.table.version == version)


@pytest.fixture
def root() -> Iterator[Path]:
    """A short path: a socket has to fit into it."""
    with tempfile.TemporaryDirectory(prefix="basalt-") as folder:
        yield Path(folder)


@pytest.fixture
async def site(root: Path) -> AsyncIterator[Site]:
    site = Site(root)
    await site.start()
    yield site
    await site.stop()


def test_these_are_all_the_files(site: Site) -> None:
    assert sorted(file.name for file in site.folder.glob("*.json*")) == sorted(FILES)


@pytest.mark.parametrize("damage", DAMAGES)
async def test_whatever_becomes_of_the_files_they_are_put_back(site: Site, damage: str) -> None:
    before = site.files()
    for name in FILES:
        DAMAGES[damage](site.folder / name)
        # The dispatcher sees it as it is, before it is put back.
        site.serving._look()  # pyright: ignore[reportPrivateUsage]

    await eventually(lambda: site.files() == before)

    told = {each.detail.split()[0] for each in read(site.history, 50)}
    assert told == set(FILES)
    await site.follows(2)


async def test_a_folder_that_has_gone_is_made_anew(site: Site) -> None:
    before = site.files()
    site.folder.rename(site.folder.with_name("elsewhere"))

    await eventually(lambda: site.files() == before)

    assert site.folder.stat().st_mode & 0o777 == 0o700
    await site.follows(2)


@pytest.mark.parametrize("refused", FILES)
async def test_one_that_cannot_be_put_back_keeps_no_other_from_it(site: Site, refused: str) -> None:
    before = site.files()
    replace = site.door._folder.replace  # pyright: ignore[reportPrivateUsage]

    def refuse(name: str, content: str) -> None:
        if name == refused:
            (site.folder / "no" / name).write_text(content)
        replace(name, content)

    site.door._folder.replace = refuse  # pyright: ignore
    for name in FILES:
        (site.folder / name).unlink()
    await eventually(lambda: sorted(site.files()) == sorted(set(before) - {refused}))


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_start_finds_its_way_whatever_it_finds(root: Path, damage: str) -> None:
    first = Site(root)
    await first.start()
    before = first.files()
    await first.stop()
    for name in FILES:
        DAMAGES[damage](first.folder / name)

    again = Site(root)
    await again.start()
    assert again.files() == before
    await again.follows(2)
    await again.stop()


async def test_what_was_put_in_a_files_place_is_set_aside(site: Site) -> None:
    a_full_folder(site.folder / "routes.json")
    await eventually(lambda: (site.folder / "routes.json").is_file())
    assert (site.folder / "routes.json.aside/notes").read_text() == "mine"
    assert json.loads((site.folder / "routes.json").read_bytes())["version"] == 1
    shutil.rmtree(site.folder / "routes.json.aside")
    await asyncio.to_thread(a_folder, site.folder / "routes.json")
    await eventually(lambda: (site.folder / "routes.json").is_file())


# What the dispatcher remembers of revocations.

KEPT = [Revocation(until=4e9 + n, token_id=f"t{n}") for n in range(5)]


def kept_in(path: Path) -> set[Revocation]:
    known = Revocations()
    RevocationFile(path, known).begin()
    return set(known)


@pytest.mark.parametrize("damage", DAMAGES)
async def test_revocations_are_written_anew_from_what_is_in_force(root: Path, damage: str) -> None:
    path, known = root / "revocations.jsonl", Revocations()
    file = RevocationFile(path, known)
    file.begin()
    known.add(*KEPT)
    file.append(KEPT)
    DAMAGES[damage](path)
    await file.look()
    assert kept_in(path) == set(KEPT)
    # Or by the next one that comes, if it comes first.
    more = Revocation(until=5e9, token_id="more")
    file.begin()
    DAMAGES[damage](path)
    known.add(more)
    file.append([more])
    assert kept_in(path) == {*KEPT, more}


def test_a_line_that_is_no_text_costs_itself_alone(root: Path) -> None:
    path, known = root / "revocations.jsonl", Revocations()
    file = RevocationFile(path, known)
    file.begin()
    known.add(*KEPT)
    file.append(KEPT)
    file.close()
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = b'{"until": \xff}\n'
    path.write_bytes(b"".join(lines))
    assert kept_in(path) == {*KEPT[:2], *KEPT[3:]}


async def test_a_start_without_anybody_who_knows_the_keys_closes_a_broken_door(root: Path) -> None:
    first = Site(root)
    await first.start()
    await first.stop()
    for name in ("access.json", "rds.json"):
        says(b"{")(first.folder / name)
    a_folder(first.folder / "envoy.json")

    again = Site(root)
    await again.door.start()
    whole = again.files()
    assert "503" in whole["rds.json"].decode()
    assert json.loads(whole["envoy.json"])
    await again.door.stop()


async def test_what_could_not_be_written_is_not_in_force(root: Path) -> None:
    site = Site(root)
    replace, full = site.door._folder.replace, True  # pyright: ignore[reportPrivateUsage]

    def refuse(name: str, content: str) -> None:
        if full and content:
            raise OSError("no room")
        replace(name, content)

    site.door._folder.replace = refuse  # pyright: ignore
    with pytest.raises(PreconditionError):
        await site.door.start()
    site.door._restore()  # pyright: ignore[reportPrivateUsage]
    assert site.files() == {}
    full = False
    await site.door.start()
    assert json.loads(site.files()["envoy.json"])
    await site.door.stop()
