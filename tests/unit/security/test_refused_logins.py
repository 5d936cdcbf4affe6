"""Refused logins are in the log, and strangers cannot fill it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from basalt import audit as reader
from basalt.pb.basalt.v1 import security_pb2 as sdk_pb
from libs.common.auditing import WINDOW_S
from libs.common.errors import DependencyError, LimitError, UnauthenticatedError
from libs.common.identity import set_caller_address
from services.security.core.audit import AuditLog, Record
from services.security.core.refused_logins import NAMES_MAX, WINDOWS_MAX, RefusedLogins
from services.security.inbound.rpc import _record
from tests.support.security_core import World

LOGIN = "basalt.v1.IdentityService/Login"
WRONG = UnauthenticatedError("The tenant, the name or the password is wrong.")
THROTTLED = LimitError("Too many wrong passwords.")


class Door(World):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.log = AuditLog(self.journal, self.clock)
        self.refused = RefusedLogins(self.log, self.access, self.clock)

    async def records(self, tenant: str = "acme") -> list[Record]:
        return await self.log.part(tenant, 0)


@pytest.fixture
async def door(tmp_path: Path) -> Door:
    door = Door(tmp_path)
    await door.access.begin()
    await door.access.add_tenant("acme", "admin")
    set_caller_address("203.0.113.7", "")
    return door


async def test_known_unknown_and_throttled_names_are_recorded(door: Door) -> None:
    await door.refused.note("acme", "ann", LOGIN, WRONG)
    await door.refused.note("acme", "ann", LOGIN, THROTTLED)
    await door.refused.note("nowhere", "eve", LOGIN, WRONG)
    known = [(r.actor, r.decision, json.loads(r.request_json)) for r in await door.records()]
    assert known == [
        ("ann", "refused", {"code": "UNAUTHENTICATED"}),
        ("ann", "refused", {"code": "RESOURCE_EXHAUSTED"}),
    ]
    (unknown,) = await door.records("platform")
    assert (unknown.actor, unknown.address) == ("nowhere/eve", "203.0.113.7")


async def test_a_flood_from_one_address_is_two_records_a_minute(door: Door) -> None:
    for number in range(500):
        await door.refused.note("acme", f"name-{number}", LOGIN, WRONG)
    await door.refused.flush()
    assert len(await door.records()) == 1
    door.clock.pass_s(WINDOW_S)
    await door.refused.flush()
    first, rest = await door.records()
    said = json.loads(rest.request_json)
    assert (rest.outcome_of, said["repeated"]) == (first.sequence, 499)
    assert len(said["names"]) == NAMES_MAX
    await door.refused.flush()
    assert len(await door.records()) == 2


async def test_a_flood_from_everywhere_is_bounded(door: Door) -> None:
    for number in range(WINDOWS_MAX + 300):
        set_caller_address(f"2001:db8::{number:x}", "")
        await door.refused.note("acme", "ann", LOGIN, WRONG)
    assert len(await door.records()) <= WINDOWS_MAX + 1
    records = [record async for record in every(door)]
    assert len(records) == WINDOWS_MAX + 1
    said = [sdk_pb.AuditRecord.FromString(_record(each).SerializeToString()) for each in records]
    assert reader.verify(said) == []


async def every(door: Door) -> AsyncIterator[Record]:
    last = 0
    while page := await door.log.part("acme", last):
        for record in page:
            last = record.sequence
            yield record


async def test_endless_names_are_cut(door: Door) -> None:
    await door.refused.note("t" * 100_000, "n" * 100_000, LOGIN, WRONG)
    (record,) = await door.records("platform")
    assert len(record.actor) < 200


async def test_what_cannot_be_recorded_is_no_answer_about_the_password(door: Door) -> None:
    await door.journal.store.close()
    with pytest.raises(DependencyError) as refusal:
        await door.refused.note("acme", "ann", LOGIN, WRONG)
    assert refusal.value.which == "audit"
