"""A tampered chain is found, at the record where it was tampered with."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from basalt import audit as reader
from basalt.pb.basalt.v1 import security_pb2 as sdk_pb
from libs.common.clock import SystemClock
from libs.common.errors import DependencyError, InvalidInputError
from libs.common.identity import PLATFORM
from libs.common.journal import Journal
from libs.common.stores.ports import Entry
from libs.common.stores.sqlite import SqliteJournal
from services.security.core.audit import GENESIS, AuditLog, Happening, Record
from services.security.inbound.rpc import _record
from tests.support.eventually import eventually


def happening(number: int = 1, tenant: str = "acme") -> Happening:
    return Happening(
        tenant, "ann", "basalt.v1.DeploymentService/Deploy", f"model/m{number}", "permitted",
        '{"model":"größe"}', "0" * 32,
    )  # fmt: skip


def log_at(folder: Path) -> AuditLog:
    return AuditLog(Journal(SqliteJournal(folder / "journal.db"), SystemClock()), SystemClock())


def as_read(record: Record) -> sdk_pb.AuditRecord:
    """The record as it comes to a client: over the wire."""
    return sdk_pb.AuditRecord.FromString(_record(record).SerializeToString())


async def chain_of(log: AuditLog, tenant: str = "acme") -> list[sdk_pb.AuditRecord]:
    records: list[Record] = []
    while part := await log.part(tenant, len(records)):
        records += part
    return [as_read(record) for record in records]


@pytest.fixture
def chain(tmp_path: Path) -> list[sdk_pb.AuditRecord]:
    async def write() -> list[sdk_pb.AuditRecord]:
        log = log_at(tmp_path)
        for number in range(1, 8):
            await log.append(happening(number))
        return await chain_of(log)

    return asyncio.run(write())


def test_untouched_chain_holds(chain: list[sdk_pb.AuditRecord]) -> None:
    assert reader.verify(chain) == []
    assert chain[0].previous_hash == GENESIS


@pytest.mark.parametrize(
    "field", ["actor", "action", "resource", "decision", "request_json", "trace_id", "tenant"]
)
def test_changed_field_is_found(chain: list[sdk_pb.AuditRecord], field: str) -> None:
    setattr(chain[3], field, "other")
    assert [problem.sequence for problem in reader.verify(chain)] == [4]


def test_changed_time_is_found(chain: list[sdk_pb.AuditRecord]) -> None:
    chain[2].at.nanos = (chain[2].at.nanos + 1_000) % 1_000_000_000
    assert [problem.sequence for problem in reader.verify(chain)] == [3]


def test_record_written_anew_is_found_where_the_chain_breaks(
    chain: list[sdk_pb.AuditRecord],
) -> None:
    chain[3].actor = "somebody else"
    chain[3].hash = reader.hash_of(chain[3].previous_hash, chain[3])
    problems = reader.verify(chain)
    assert [problem.sequence for problem in problems] == [5]
    assert "does not continue" in str(problems[0])


def test_removed_record_is_found(chain: list[sdk_pb.AuditRecord]) -> None:
    del chain[4]
    problems = reader.verify(chain)
    assert problems[0].sequence == 5
    assert "missing" in str(problems[0])


def test_reordered_records_are_found(chain: list[sdk_pb.AuditRecord]) -> None:
    chain[2], chain[3] = chain[3], chain[2]
    assert {problem.sequence for problem in reader.verify(chain)} >= {3}


def test_repeated_record_is_found(chain: list[sdk_pb.AuditRecord]) -> None:
    chain.insert(3, chain[2])
    assert reader.verify(chain)[0].sequence == 3


def test_cut_end_is_found_with_a_noted_hash(chain: list[sdk_pb.AuditRecord]) -> None:
    noted = {7: chain[6].hash}
    assert reader.verify(chain, noted) == []
    assert reader.verify(chain[:6]) == []
    assert [problem.sequence for problem in reader.verify(chain[:6], noted)] == [7]


def test_record_of_another_tenant_is_found(chain: list[sdk_pb.AuditRecord]) -> None:
    chain[5].tenant = "other"
    chain[5].hash = reader.hash_of(chain[5].previous_hash, chain[5])
    assert reader.verify(chain)[0].sequence == 6


@given(st.text(max_size=40), st.text(max_size=40), st.datetimes())
def test_both_sides_hash_alike(actor: str, request: str, at: object) -> None:
    """Two implementations that share nothing: what they must share is docs/reference/audit.md."""
    record = Record(
        tenant="acme", sequence=1, at="2026-01-31T08:15:00.000123Z", actor=actor, action="a",
        resource="r", decision="permitted", request_json=request, trace_id="",
    ).chained(GENESIS)  # fmt: skip
    try:
        read = as_read(record)
    except UnicodeEncodeError:
        return
    assert reader.hash_of(GENESIS, read) == record.hash


def test_hash_is_the_documented_one() -> None:
    """The worked example of docs/reference/audit.md."""
    record = Record(
        tenant="acme", sequence=1, at="2026-01-31T08:15:00.000123Z", actor="ann",
        action="basalt.v1.DeploymentService/Deploy", resource="model/fraud", decision="permitted",
        request_json='{"model":"fraud"}', trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
    ).chained(GENESIS)  # fmt: skip
    page = (Path(__file__).parents[3] / "docs/reference/audit.md").read_text()
    assert record.hash in page


async def test_many_appends_at_once_make_one_chain(tmp_path: Path) -> None:
    """Two logs on one journal are two replicas that race."""
    one, two = log_at(tmp_path), log_at(tmp_path)
    await asyncio.gather(*(log.append(happening(n)) for n in range(60) for log in (one, two)))
    chain = await chain_of(one)
    assert len(chain) == 120
    assert reader.verify(chain) == []


async def test_same_key_is_recorded_once(tmp_path: Path) -> None:
    log = log_at(tmp_path)
    first = await log.append(happening(), key="k")
    await log.append(happening(2))
    assert await log.append(happening(3), key="k") == first
    assert len(await chain_of(log)) == 2


async def test_tenants_have_chains_of_their_own(tmp_path: Path) -> None:
    log = log_at(tmp_path)
    await log.append(happening(1))
    await log.append(happening(1, "other"))
    assert [record.sequence for record in await chain_of(log, "other")] == [1]


async def test_pages_are_newest_first_and_meet_without_a_gap(tmp_path: Path) -> None:
    log = log_at(tmp_path)
    for number in range(1, 12):
        await log.append(happening(number))
    first, token = await log.newest("acme", 4, "", "")
    second, token = await log.newest("acme", 4, token, "")
    third, token = await log.newest("acme", 4, token, "")
    assert [r.sequence for r in first + second + third] == list(range(11, 0, -1))
    assert token == ""
    assert await log.newest("acme", 4, "", "nothing of the kind") == ([], "")
    assert await log.newest("nobody", 4, "", "") == ([], "")
    with pytest.raises(InvalidInputError):
        await log.newest("acme", 4, "what", "")


async def test_long_texts_are_cut_not_refused(tmp_path: Path) -> None:
    record = await log_at(tmp_path).append(
        Happening("acme", "ann", "a", "x" * 100_000, "refused", "y" * 100_000, "")
    )
    assert len(record.resource) == 512
    assert len(record.request_json) == 16_000


async def test_unknown_decision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError):
        await log_at(tmp_path).append(Happening("acme", "ann", "a", "r", "perhaps", "{}", ""))


async def test_without_the_journal_nothing_may_take_effect(tmp_path: Path) -> None:
    store = SqliteJournal(tmp_path / "journal.db")
    log = AuditLog(Journal(store, SystemClock()), SystemClock())
    await store.close()
    with pytest.raises(DependencyError) as refused:
        await log.before(happening())
    assert refused.value.which == "audit"


class Slow(SqliteJournal):
    """Found to be away after a while."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.asked = 0
        self.found_out = asyncio.Event()

    async def latest(self, aggregate: str) -> Entry | None:
        self.asked += 1
        await self.found_out.wait()
        raise DependencyError("The journal cannot be reached.", which="journal")


async def test_whoever_waits_while_the_journal_is_found_away_hears_it_at_once(
    tmp_path: Path,
) -> None:
    store = Slow(tmp_path / "journal.db")
    log = AuditLog(Journal(store, SystemClock()), SystemClock())
    waiting = [asyncio.create_task(log.append(happening(number))) for number in range(20)]
    await eventually(lambda: store.asked == 1)
    store.found_out.set()

    told = await asyncio.gather(*waiting, return_exceptions=True)
    assert [getattr(each, "which", each) for each in told] == ["journal"] * 20
    assert store.asked == 1
    with pytest.raises(DependencyError):
        await log.append(happening())
    assert store.asked == 2
    await store.close()


def test_call_that_names_another_tenant_is_in_both_logs() -> None:
    tenants = ("acme", "other", PLATFORM)
    root = replace(happening(), tenant=PLATFORM, actor="root", decision="permitted")
    seen = root.seen_by("other", tenants)
    assert [(each.tenant, each.actor) for each in seen] == [
        (PLATFORM, "root"),
        ("other", f"{PLATFORM}/root"),
    ]
    # Nobody else writes into another's log, whatever they name, nor does what is refused.
    for alone in (replace(root, decision="refused"), replace(root, tenant="acme")):
        assert alone.seen_by("other", tenants) == [alone]
    assert root.seen_by("nobody", tenants) == [root]
    assert root.seen_by(PLATFORM, tenants) == [root]
