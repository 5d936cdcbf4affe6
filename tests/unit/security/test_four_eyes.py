"""Four eyes are two people: no key, colleague, second account or fresh role is a way around it.

ann writes the pipeline, amy is an administrator, rob has been a reviewer for long.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from libs.common.errors import ForbiddenError, InvalidInputError, PreconditionError
from libs.common.journal import Change
from services.security.core.accounts import UserState
from services.security.core.grants import ASKED, FRESH, GRANTS_MAX, Grant, with_grant
from services.security.core.roles import Confirmation
from tests.support.security_core import LoginWorld

DAY_S = FRESH.total_seconds()


class Office(LoginWorld):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.confirmation = Confirmation(self.users)
        self.versions = 0

    async def signed(self, responsible: Sequence[str], reviewer: str, author: str = "zoe") -> None:
        """Raises what the signature is refused with."""
        self.versions += 1
        content = {"model": "fraud", "author": author, "responsible": list(responsible)}
        manifest = json.dumps(content).encode()
        await self.signing.sign(
            "acme", "fraud", self.versions, manifest, reviewer, "service:inference"
        )

    async def key(self, name: str, by: str) -> str:
        """As it answers for what is done with it."""
        made, _ = await self.keys.create("acme", name, ("engineer",), 1, by)
        return f"key:{name}/{made.state.id}"

    async def refused(self, responsible: Sequence[str], reviewer: str, why: str) -> None:
        with pytest.raises(ForbiddenError, match=why) as refusal:
            await self.signed(responsible, reviewer)
        assert refusal.value.which == "approved_by"
        assert refusal.value.next_step


@pytest.fixture
async def office(tmp_path: Path) -> Office:
    office = Office(tmp_path)
    await office.access.begin()
    await office.access.add_tenant("acme", "admin")
    for name, roles in (
        ("ann", ("engineer", "reviewer")),
        ("amy", ("administrator", "reviewer")),
        ("adam", ("administrator",)),
        ("rob", ("reviewer",)),
    ):
        await office.users.create("acme", name, roles, "platform/admin")
    await office.users.create("platform", "root", ("administrator",), "security")
    office.clock.pass_s(2 * DAY_S)
    return office


# Who approves.


async def test_a_colleague_runs_it_and_neither_approves(office: Office) -> None:
    for reviewer in ("ann", "amy"):
        await office.refused(["ann", "amy"], reviewer, "nobody approves their own work")
    await office.signed(["ann", "amy"], "rob")


async def test_who_made_the_key_that_ran_or_wrote_it_does_not_approve(office: Office) -> None:
    key = await office.key("ci", by="amy")
    await office.refused([key], "amy", "amy made the key ci")
    await office.signed([key], "rob")
    # Another key of that name, made by somebody else, is no excuse and no accusation.
    await office.key("ci", by="adam")
    await office.refused([key], "amy", "amy made the key ci")


async def test_a_revoked_or_expired_key_still_has_its_maker(office: Office) -> None:
    key = await office.key("ci", by="amy")
    await office.keys.revoke("acme", key.rpartition("/")[2], "adam")
    office.clock.pass_s(3 * DAY_S)
    await office.refused([key], "amy", "amy made the key ci")


@pytest.mark.parametrize("key", ["key:ci/01unknown", "key:ci", "key:", "key:ci/../x", "key:ci/"])
async def test_a_key_whose_maker_nobody_knows_signs_nothing(office: Office, key: str) -> None:
    with pytest.raises(PreconditionError, match="Nobody knows who made"):
        await office.signed([key], "rob")


async def test_a_key_of_another_tenant_is_not_looked_up(office: Office) -> None:
    await office.access.add_tenant("other", "admin")
    made, _ = await office.keys.create("other", "ci", ("engineer",), 1, "amy")
    with pytest.raises(PreconditionError, match="Nobody knows"):
        await office.signed([f"key:ci/{made.state.id}"], "rob")


async def test_a_reviewer_made_by_an_author_is_none_for_a_day(office: Office) -> None:
    await office.users.create("acme", "amys-second", ("reviewer",), "amy")
    for responsible in (["amy"], [await office.key("ci", by="amy")]):
        await office.refused(responsible, "amys-second", "less than 24 hours ago")
    # It is about what amy answers for, and for a day.
    await office.signed(["ann"], "amys-second")
    office.clock.pass_s(DAY_S + 1)
    await office.signed(["amy"], "amys-second")


async def test_an_author_who_hands_out_the_role_in_any_way_is_seen(office: Office) -> None:
    users = office.users
    await users.create("acme", "carl", ("engineer",), "platform/admin")
    await users.create("acme", "dora", ("reviewer",), "platform/admin")
    await users.set("acme", "dora", ("reviewer",), True, "adam")
    office.clock.pass_s(2 * DAY_S)
    # By giving the role, by enabling the account, by a password that the giver sees.
    await users.set("acme", "carl", ("engineer", "reviewer"), False, "amy")
    await users.set("acme", "dora", ("reviewer",), False, "amy")
    await users.reset_password("acme", "rob", "amy")
    for reviewer in ("carl", "dora", "rob"):
        await office.refused(["amy"], reviewer, "less than 24 hours ago")
        await office.signed(["adam"], reviewer)


async def test_a_role_by_way_of_an_administrator_of_their_own_is_seen(office: Office) -> None:
    await office.users.create("acme", "puppet", ("administrator",), "amy")
    await office.users.create("acme", "puppets-own", ("reviewer",), "puppet")
    await office.refused(["amy"], "puppets-own", "less than 24 hours ago")
    await office.signed(["ann"], "puppets-own")


async def test_what_gives_no_review_takes_none_away(office: Office) -> None:
    await office.users.set("acme", "rob", ("reviewer", "operator"), False, "amy")
    await office.signed(["amy"], "rob")
    await office.users.create("acme", "olga", ("reviewer",), "adam")
    # Logins and a password of one's own hand nothing on.
    _, one_time = await office.users.reset_password("acme", "rob", "adam")
    await office.logins.change_password("acme", "rob", one_time, "four random words here")
    await office.logins.login("acme", "rob", "four random words here")
    await office.signed(["amy"], "rob")


async def test_a_key_and_an_account_by_the_platforms_administrator(office: Office) -> None:
    key = await office.key("ci", by="platform/root")
    await office.users.create("acme", "their-own", ("reviewer",), "platform/root")
    await office.refused([key], "their-own", "less than 24 hours ago")
    await office.signed([key], "rob")


@pytest.mark.parametrize(
    "reviewer", ["nobody", "adam", "service:inference", "key:ci", "platform/root"]
)
async def test_only_a_reviewer_of_the_tenant_approves(office: Office, reviewer: str) -> None:
    await office.refused(["ann"], reviewer, "is no reviewer of acme")


async def test_a_reviewer_who_is_one_no_more_does_not_approve(office: Office) -> None:
    await office.users.set("acme", "rob", ("reviewer",), True, "adam")
    await office.refused(["ann"], "rob", "is no reviewer")


async def test_a_model_from_before_has_its_author_only(office: Office) -> None:
    old = json.dumps({"model": "fraud", "author": "ann"}).encode()
    with pytest.raises(PreconditionError, match="ann is the author"):
        await office.signing.sign("acme", "fraud", 1, old, "ann", "service:inference")
    await office.signing.sign("acme", "fraud", 1, old, "rob", "service:inference")


@pytest.mark.parametrize("responsible", ["ann", {"ann": 1}, [1], None])
async def test_what_is_no_list_of_names_is_not_signed(office: Office, responsible: object) -> None:
    content = {"model": "fraud", "author": "ann", "responsible": responsible}
    with pytest.raises(InvalidInputError, match="responsible"):
        await office.signing.sign(
            "acme", "fraud", 1, json.dumps(content).encode(), "rob", "service:inference"
        )


async def test_a_user_from_before_grants_were_kept(office: Office) -> None:
    entry = await office.journal.latest("acme/user/rob")
    assert entry is not None
    old = {key: value for key, value in entry.state.items() if key not in ("grants", "asked")}
    await office.journal.append(
        entry.aggregate, entry.version, "old", Change("UserSet", old), "amy"
    )
    assert UserState.model_validate(old).grants is None
    await office.refused(["amy"], "rob", "less than 24 hours ago")
    await office.signed(["ann"], "rob")
    office.clock.pass_s(DAY_S + 1)
    await office.signed(["amy"], "rob")


# Who gives themselves a role.


async def roles(office: Office, name: str, tenant: str = "acme") -> tuple[str, ...]:
    return (await office.users.known(tenant, name)).state.roles


async def test_a_role_for_oneself_waits_for_a_second_administrator(office: Office) -> None:
    wanted = ("administrator", "reviewer", "auditor")
    asked = await office.users.set("acme", "amy", wanted, False, "amy")
    assert asked.state.roles == ("administrator", "reviewer")
    assert asked.state.asked is not None
    assert asked.state.asked.roles == wanted
    with pytest.raises(ForbiddenError, match="they asked for it"):
        await office.confirmation.confirm("acme", "amy", wanted, "amy")
    with pytest.raises(PreconditionError, match="is asked for amy, not"):
        await office.confirmation.confirm("acme", "amy", (*wanted, "operator"), "adam")

    confirmed = await office.confirmation.confirm("acme", "amy", wanted, "adam")

    assert confirmed.state.roles == wanted
    assert confirmed.state.asked is None
    with pytest.raises(PreconditionError, match="No roles of amy wait"):
        await office.confirmation.confirm("acme", "amy", wanted, "adam")


async def test_a_second_account_of_the_same_administrator_is_no_second_one(office: Office) -> None:
    wanted = ("administrator", "reviewer", "auditor")
    await office.users.create("acme", "puppet", ("administrator",), "amy")
    await office.users.create("acme", "puppets-own", ("administrator",), "puppet")
    await office.users.reset_password("acme", "adam", "amy")
    for other in ("puppet", "puppets-own", "adam"):
        # Neither by confirming, nor by giving it at once.
        asked = await office.users.set("acme", "amy", wanted, False, other)
        assert asked.state.roles == ("administrator", "reviewer")
        with pytest.raises(ForbiddenError):
            await office.confirmation.confirm("acme", "amy", wanted, other)
    await office.confirmation.confirm("acme", "amy", wanted, "platform/root")
    assert await roles(office, "amy") == wanted


async def test_the_platforms_administrator_confirms_where_there_is_no_second(
    office: Office,
) -> None:
    await office.users.set("acme", "adam", ("administrator",), True, "amy")
    wanted = ("administrator", "reviewer", "auditor")
    await office.users.set("acme", "amy", wanted, False, "amy")
    await office.confirmation.confirm("acme", "amy", wanted, "platform/root")
    assert await roles(office, "amy") == wanted


async def test_giving_roles_away_and_leaving_ones_own_need_nobody(office: Office) -> None:
    assert (
        await office.users.set("acme", "amy", ("administrator",), False, "amy")
    ).state.roles == ("administrator",)
    await office.users.set("acme", "rob", ("auditor",), False, "amy")
    assert await roles(office, "rob") == ("auditor",)


async def test_what_nobody_confirmed_lapses_and_a_change_drops_it(office: Office) -> None:
    wanted = ("administrator", "reviewer", "auditor")
    await office.users.set("acme", "amy", wanted, False, "amy")
    office.clock.pass_s(ASKED.total_seconds())
    with pytest.raises(PreconditionError, match="wait for a second"):
        await office.confirmation.confirm("acme", "amy", wanted, "adam")
    await office.users.set("acme", "amy", wanted, False, "amy")
    await office.users.set("acme", "amy", ("administrator",), False, "adam")
    with pytest.raises(PreconditionError, match="wait for a second"):
        await office.confirmation.confirm("acme", "amy", wanted, "adam")


async def test_confirmed_roles_are_both_administrators_work(office: Office) -> None:
    await office.users.set("acme", "adam", ("administrator", "reviewer"), False, "adam")
    await office.confirmation.confirm("acme", "adam", ("administrator", "reviewer"), "amy")
    await office.refused(["amy"], "adam", "less than 24 hours ago")
    await office.signed(["ann"], "adam")


def test_grants_stay_few_and_the_latest_of_each_giver_stays() -> None:
    grants: tuple[Grant, ...] = ()
    for number in range(3 * GRANTS_MAX):
        grants = with_grant(grants, Grant(by="acme/amy", at=float(number), roles=("reviewer",)))
    assert grants == (Grant(by="acme/amy", at=3.0 * GRANTS_MAX - 1, roles=("reviewer",)),)
    late = with_grant(grants, Grant(by="acme/adam", at=2 * DAY_S + 1_000, roles=("auditor",)))
    assert [each.by for each in late] == ["acme/adam"]
