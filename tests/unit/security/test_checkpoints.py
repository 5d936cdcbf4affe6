"""Whoever keeps a checkpoint notices that the log was cut, rewritten or put in another order."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import pytest

from basalt import audit as reader
from basalt import checkpoint as checkpoints
from basalt.errors import InvalidInputError as ClientInputError
from basalt.pb.basalt.v1 import security_pb2 as sdk_pb
from libs.common.auditing import Happening
from libs.common.errors import DependencyError, IntegrityError, NotFoundError
from libs.common.journal import Change, Journal
from libs.common.stores.ports import Entry
from libs.common.stores.sqlite import SqliteJournal
from services.security.core.audit import GENESIS, AuditLog, Record, log_of
from services.security.core.checkpoint_keys import CheckpointKeys
from services.security.core.checkpoints import RECORDS_MAX, Checkpoints
from services.security.inbound.rpc import _record
from services.security.outbound.checkpoint_folder import CheckpointFolder
from services.security.outbound.ed25519_notes import Ed25519Notes
from services.security.outbound.sealing import AesGcmSeal
from tests.support.clock import HeldClock
from tests.support.security_core import MASTER_KEY


class Log:
    """An audit log on a real journal, with whoever holds its database."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = HeldClock()
        self.store = SqliteJournal(folder / "journal.db")
        self.journal = Journal(self.store, self.clock)
        self.audit = AuditLog(self.journal, self.clock)
        self.keys = CheckpointKeys(self.journal, self.clock, AesGcmSeal(MASTER_KEY), Ed25519Notes())
        self.kept = CheckpointFolder(folder / "kept")
        self.checkpoints = Checkpoints(self.journal, self.clock, self.keys, self.kept)

    async def grow(self, count: int, tenant: str = "acme") -> None:
        for number in range(count):
            await self.audit.append(
                Happening(tenant, "ann", "Deploy", f"model/{number}", "permitted", "{}", "")
            )

    async def records(self) -> list[Record]:
        return [Record.model_validate(e.state) for e in await self.journal.history(log_of("acme"))]

    async def checkpoint(self) -> checkpoints.Checkpoint:
        return checkpoints.read((await self.checkpoints.newest("acme")).note)

    async def rewritten(self, change: Callable[[list[Record]], list[Record]]) -> Log:
        """The same, after somebody with the database wrote the whole chain anew."""
        other = Log(self.folder / f"rewritten-{len(list(self.folder.iterdir()))}")
        previous = GENESIS
        for sequence, record in enumerate(change(await self.records()), 1):
            record = record.model_copy(update={"sequence": sequence}).chained(previous)
            previous = record.hash
            state = Change("Recorded", record.model_dump())
            await other.journal.append(log_of("acme"), sequence - 1, f"c{sequence}", state, "ann")
        return other


def told(records: list[Record]) -> list[sdk_pb.AuditRecord]:
    return [sdk_pb.AuditRecord.FromString(_record(each).SerializeToString()) for each in records]


@pytest.fixture
async def log(tmp_path: Path) -> Log:
    log = Log(tmp_path)
    await log.keys.begin()
    return log


async def test_a_checkpoint_is_signed_and_of_all_there_is(log: Log) -> None:
    await log.grow(13)
    made = await log.checkpoint()
    assert (made.tenant, made.size) == ("acme", 13)
    assert made.signed_by(log.keys.verifier_keys())
    tree = checkpoints.Tree()
    for record in told(await log.records()):
        tree.add(record)
    assert tree.head == made.head
    # Asked again it is the same, and it grows with the log.
    assert await log.checkpoint() == made
    await log.grow(1)
    assert (await log.checkpoint()).size == 14


async def test_a_log_without_records_has_one_too(log: Log) -> None:
    made = await log.checkpoint()
    assert (made.size, made.head) == (0, checkpoints.EMPTY)
    await log.grow(2)
    assert checkpoints.consistent(
        made, await log.checkpoint(), await log.checkpoints.consistency("acme", 0, 2)
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda records: records[:9],
        lambda records: records[3:],
        lambda records: [*records[:4], *records[5:]],
        lambda records: [records[1], records[0], *records[2:]],
        lambda records: [*records[:8], records[9], records[8], *records[10:]],
        lambda records: [records[0].model_copy(update={"actor": "eve"}), *records[1:]],
        lambda records: [*records[:9], records[9].model_copy(update={"actor": "eve"})],
        lambda records: [*records[:5], records[0], *records[5:]],
        lambda records: [],
    ],
)
async def test_every_rewriting_before_it_is_noticed(
    log: Log, change: Callable[[list[Record]], list[Record]]
) -> None:
    await log.grow(10)
    kept = await log.checkpoint()
    await log.grow(4)
    assert reader.verify(told(await log.records()), checkpoints=[kept]) == []

    other = await log.rewritten(change)
    await other.grow(5)

    # The chain alone is in order; the checkpoint tells.
    records = told(await other.records())
    assert reader.verify(records) == []
    assert reader.verify(records, checkpoints=[kept])
    await other.keys.begin()
    now = await other.checkpoint()
    if now.size >= kept.size:
        proof = await other.checkpoints.consistency("acme", kept.size, now.size)
        assert not checkpoints.consistent(kept, now, proof)


async def test_what_came_after_it_may_still_change_unseen(log: Log) -> None:
    await log.grow(10)
    kept = await log.checkpoint()
    await log.grow(2)
    other = await log.rewritten(lambda records: records[:-1])
    assert reader.verify(told(await other.records()), checkpoints=[kept]) == []


async def test_security_itself_makes_none_over_a_log_that_was_changed(log: Log) -> None:
    await log.grow(10)
    await log.checkpoints.newest("acme")
    await log.grow(3)
    entries = await log.journal.history(log_of("acme"))
    other = Log(log.folder / "other")
    latest = await log.journal.latest("acme/checkpoint/log")
    assert latest is not None
    await other.keys.begin()
    await other.journal.append(latest.aggregate, 0, "c", Change("Made", latest.state), "security")
    # Record 12 says something else, and its hash was not made anew.
    for entry in entries:
        state = dict(entry.state) | ({"actor": "eve"} if entry.version == 12 else {})
        await other.journal.append(
            entry.aggregate, entry.version - 1, entry.cause, Change("Recorded", state), "ann"
        )
    with pytest.raises(IntegrityError, match=r"Record 12 of .* does not continue"):
        await other.checkpoints.newest("acme")


async def test_security_notices_a_log_that_was_cut(log: Log) -> None:
    await log.grow(10)
    await log.checkpoints.newest("acme")
    cut = await log.rewritten(lambda records: records[:-3])
    latest = await log.journal.latest("acme/checkpoint/log")
    assert latest is not None
    await cut.keys.begin()
    await cut.journal.append(latest.aggregate, 0, "c", Change("Made", latest.state), "security")
    with pytest.raises(IntegrityError, match="Record 8 of the audit log of acme is missing"):
        await cut.checkpoints.newest("acme")


async def test_the_log_is_compared_with_what_was_kept_elsewhere(log: Log) -> None:
    await log.grow(10)
    await log.checkpoints.newest("acme")
    other = await log.rewritten(lambda records: records[1:])
    await other.keys.begin()
    await other.grow(5)
    other.checkpoints.store = log.kept
    with pytest.raises(IntegrityError, match="was cut or rewritten before its record 11"):
        await other.checkpoints.look()


async def test_a_log_that_was_put_back_is_noticed_before_a_checkpoint_is_due(log: Log) -> None:
    """By who begins anew on it, with the checkpoints of before still in its journal."""
    await log.grow(10)
    await log.checkpoints.newest("acme")
    made = await log.journal.latest("acme/checkpoint/log")
    assert made is not None
    for change in (lambda all_: all_[1:], lambda all_: all_[:-3], lambda _: []):
        other = await log.rewritten(change)
        await other.keys.begin()
        await other.journal.append(made.aggregate, 0, "c", Change("Made", made.state), "security")
        other.checkpoints.store = log.kept
        for grown in (0, 5):
            await other.grow(grown)
            for _ in range(2):
                with pytest.raises(IntegrityError, match="cut or rewritten before its record 11"):
                    await other.checkpoints.look()
            with pytest.raises(IntegrityError, match="cut or rewritten before its record 11"):
                await other.checkpoints.newest("acme")


async def test_checkpoints_come_each_hour_and_each_thousand_records(log: Log) -> None:
    async def sizes() -> list[int]:
        history = await log.journal.history("acme/checkpoint/log")
        return sorted({entry.state["size"] for entry in history})

    await log.grow(3)
    await log.checkpoints.look()
    await log.grow(3)
    await log.checkpoints.look()
    assert await sizes() == [3]
    log.clock.pass_s(3_600)
    await log.checkpoints.look()
    await log.checkpoints.look()
    assert await sizes() == [3, 6]
    log.clock.pass_s(3_600)
    await log.checkpoints.look()
    assert await sizes() == [3, 6], "Nothing changed."
    assert RECORDS_MAX == 1_000
    note = await log.kept.newest("acme")
    assert note is not None
    assert checkpoints.read(note).size == 6


async def test_what_is_kept_is_never_written_again(log: Log) -> None:
    await log.kept.keep("acme", 3, "first")
    await log.kept.keep("acme", 3, "second")
    assert await log.kept.newest("acme") == "first"
    await log.kept.keep("acme", 12, "larger")
    assert await log.kept.newest("acme") == "larger"
    assert await log.kept.newest("other") is None
    file = log.folder / "kept" / "acme"
    assert {each.stat().st_mode & 0o777 for each in file.iterdir()} == {0o600}


async def test_without_the_place_for_them_they_are_tried_again(log: Log) -> None:
    await log.grow(2)
    (log.folder / "kept").write_text("no folder")
    with pytest.raises(DependencyError, match="cannot be used"):
        await log.checkpoints.look()
    (log.folder / "kept").unlink()
    await log.checkpoints.look()
    assert await log.kept.newest("acme") is not None


async def test_tiles_spare_reading_the_log(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    await log.grow(600)
    now = await log.checkpoint()
    tree = checkpoints.Tree([100, 512])
    for record in told(await log.records()):
        tree.add(record)
    read: list[str] = []
    history = log.store.history

    async def counted(aggregate: str, after_version: int = 0, limit: int = 500) -> list[Entry]:
        read.append(aggregate)
        return await history(aggregate, after_version, limit)

    monkeypatch.setattr(log.store, "history", counted)
    assert await log.checkpoints.head("acme", 512) == tree.heads[512]
    assert read == ["acme/audit-tile/level-1"]
    for first in (1, 100, 256, 511, 512, 599, 600):
        older = checkpoints.Checkpoint(
            "acme", first, await log.checkpoints.head("acme", first), "", ()
        )
        proof = await log.checkpoints.consistency("acme", first, 600)
        assert checkpoints.consistent(older, now, proof)


async def test_more_than_there_is_cannot_be_proven(log: Log) -> None:
    await log.grow(2)
    with pytest.raises(NotFoundError, match="has 2 records, not 3"):
        await log.checkpoints.consistency("acme", 1, 3)


async def test_keys_are_rotated_and_old_checkpoints_hold(log: Log) -> None:
    await log.grow(1)
    old = await log.checkpoint()
    await log.keys.rotate("admin")
    await log.grow(1)
    new = await log.checkpoint()
    first, second = log.keys.verifier_keys()
    assert (old.signed_by([first, second]), new.signed_by([first, second])) == (first, second)
    assert not old.signed_by([second])
    state = await log.journal.latest("platform/checkpoint-keys/state")
    assert state is not None
    assert [bool(key["sealed"]) for key in state.state["keys"]] == [False, True]


async def test_a_note_that_was_changed_is_signed_by_nobody(log: Log) -> None:
    await log.grow(9)
    note = (await log.checkpoints.newest("acme")).note
    keys = log.keys.verifier_keys()
    assert checkpoints.read(note).signed_by(keys)
    other_head = base64.b64encode(bytes(32)).decode()
    lines = note.split("\n")
    for place, text in ((0, "basalt/audit/other"), (1, "8"), (2, other_head)):
        forged = "\n".join([*lines[:place], text, *lines[place + 1 :]])
        assert not checkpoints.read(forged).signed_by(keys)
    stranger = Ed25519Notes()
    private, _ = stranger.new_key()
    _, signature = stranger.sign(private, note.partition("\n\n")[0].encode() + b"\n")
    name, key_hash = keys[0].split("+")[:2]
    forged = base64.b64encode(bytes.fromhex(key_hash) + signature).decode()
    text = note.partition("\n\n")[0]
    assert not checkpoints.read(f"{text}\n\n— {name} {forged}\n").signed_by(keys)


@pytest.mark.parametrize(
    "odd",
    [
        "",
        "basalt/audit/acme\n",
        "basalt/audit/acme\n-1\nAAAA\n\n",
        "other.example/log\n1\n" + base64.b64encode(bytes(32)).decode() + "\n\n",
        "basalt/audit/acme\n٣\n" + base64.b64encode(bytes(32)).decode() + "\n\n",
        "basalt/audit/acme\n1\n" + base64.b64encode(bytes(31)).decode() + "\n\n",
        "basalt/audit/acme\n1\n" + base64.b64encode(bytes(32)).decode() + "\n\nno signature",
        "x" * 100_000,
    ],
)
def test_what_is_no_checkpoint(odd: str) -> None:
    with pytest.raises(ClientInputError, match="no checkpoint"):
        checkpoints.read(odd)


def test_the_published_note_is_read_and_its_key_is_named_alike() -> None:
    """Of https://c2sp.org/signed-note, whose key is published with the Go package `note`."""
    key = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    text = (
        "If you think cryptography is the answer to your problem,\n"
        "then you don't know what your problem is.\n"
    )
    signature = (
        "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZIn"
        "NIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
    )
    content = base64.b64decode(signature)
    note = checkpoints.Checkpoint("", 0, b"", text, (("PeterNeumann", content[:4], content[4:]),))
    assert note.signed_by([key]) == key
    with pytest.raises(ClientInputError, match="no key"):
        note.signed_by([key.replace("c74f20a3", "c74f20a4")])
