"""Whatever happened before, a revocation is possible, costs the same, and holds."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from libs.common.errors import InvalidInputError, LimitError, UnauthenticatedError
from libs.common.identity import PLATFORM
from libs.common.journal import Change
from libs.common.revocations import CLOCK_SKEW_S, Revocation, Revocations
from services.security.core import api_keys, followers
from services.security.core.access import AGGREGATE
from services.security.core.followers import Follower, Followers, Keys, News
from services.security.core.revoking import KIND
from tests.support.security_core import PASSWORD, LoginWorld

DAY_S = 86_400.0
KEYS = Keys('{"keys": []}', ("platform",), 1)


@pytest.fixture
def world(tmp_path: Path) -> LoginWorld:
    world = LoginWorld(tmp_path)
    asyncio.run(world.begin())
    # What choosing a password revoked, too.
    world.clock.pass_s(3_600)
    world.verifier.revocations.forget_expired()
    return world


def rows(world: LoginWorld, count: int, days: float = 300) -> list[Revocation]:
    until = world.clock.now().timestamp() + days * DAY_S
    return [Revocation(until=until, token_id=f"token-{number}") for number in range(count)]


def refused(world: LoginWorld, token: str) -> bool:
    try:
        world.verifier.verify(token)
    except UnauthenticatedError:
        return True
    return False


async def entries(world: LoginWorld) -> list[int]:
    """The size of each entry that holds revocations, in the order in which they were made."""
    found = await world.journal.heads(KIND, PLATFORM)
    history = [entry for head in found for entry in await world.journal.history(head.aggregate)]
    return [len(str(entry.state)) for entry in sorted(history, key=lambda each: each.at)]


# Always possible, at the same cost.


async def test_there_is_no_most_of_revocations_and_each_costs_the_same(world: LoginWorld) -> None:
    key, secret = await world.keys.create("acme", "crm", ["application"], 365, "admin")
    world.clock.pass_s(1)
    await world.access.revoke(rows(world, 1)[0], by="eve")
    first = (await entries(world))[-1]
    await world.access.revoke(*rows(world, 12_000), by="eve")
    world.clock.pass_s(1)
    await world.keys.revoke("acme", key.state.id, "admin")
    assert refused(world, secret)
    assert (await entries(world))[-1] < first + 100
    state = await world.journal.latest(AGGREGATE)
    assert state is not None
    assert len(str(state.state)) < 4_000


async def test_revocations_outlive_a_restart_and_reach_another_replica(
    world: LoginWorld, tmp_path: Path
) -> None:
    replica = LoginWorld(tmp_path)
    replica.clock.at = world.clock.at
    await replica.access.begin()
    key, secret = await world.keys.create("acme", "crm", ["application"], 365, "admin")
    login = await world.log_in()
    await world.access.revoke(*rows(world, 5_000), by="eve")
    await world.keys.revoke("acme", key.state.id, "admin")
    await world.logins.log_out(world.caller(login))
    await replica.access.refresh()
    restarted = LoginWorld(tmp_path)
    restarted.clock.at = world.clock.at
    await restarted.access.begin()
    for other in (replica, restarted):
        assert len(other.verifier.revocations) == 5_002
        assert refused(other, secret)
        assert refused(other, login.issued.token)


async def test_what_has_expired_is_neither_kept_nor_read_again(
    world: LoginWorld, tmp_path: Path
) -> None:
    await world.access.revoke(*rows(world, 10, days=1), *rows(world, 20, days=3), by="ann")
    assert len(world.verifier.revocations) == 20
    await world.access.revoke(*rows(world, 10, days=30)[5:], by="ann")
    world.clock.pass_s(4 * DAY_S)
    world.verifier.revocations.forget_expired()
    assert len(world.verifier.revocations) == 5
    later = LoginWorld(tmp_path)
    later.clock.at = world.clock.at
    await later.access.begin()
    assert len(later.verifier.revocations) == 5


async def test_a_clock_that_ran_ahead_and_is_set_right_makes_nothing_valid_again(
    world: LoginWorld,
) -> None:
    key, secret = await world.keys.create("acme", "crm", ["application"], 30, "admin")
    await world.keys.revoke("acme", key.state.id, "admin")
    await world.access.refresh()
    world.clock.pass_s(365 * DAY_S)
    await world.access.refresh()
    world.verifier.revocations.forget_expired()
    assert len(world.verifier.revocations) == 0
    world.clock.pass_s(-365 * DAY_S)
    assert not refused(world, secret), "It is forgotten until it is read again."
    await world.access.refresh()
    assert refused(world, secret)


async def test_revocations_of_a_state_from_before_rows_hold(tmp_path: Path) -> None:
    world = LoginWorld(tmp_path)
    await world.begin()
    key, secret = await world.keys.create("acme", "crm", ["application"], 365, "admin")

    async def of_old(latest: object) -> Change:
        state = world.access.state.model_dump()
        return Change("TokensRevoked", {**state, "revoked": {key.state.id: key.state.expires_at}})

    await world.journal.decide(AGGREGATE, "of-old", "admin", of_old)
    assert not refused(world, secret)
    await world.access.refresh()
    assert refused(world, secret)
    restarted = LoginWorld(tmp_path)
    await restarted.access.begin()
    assert refused(restarted, secret)


async def test_a_repeat_costs_nothing(world: LoginWorld) -> None:
    key, _ = await world.keys.create("acme", "crm", ["application"], 365, "admin")
    before = len(await entries(world))
    for _ in range(5):
        await world.keys.revoke("acme", key.state.id, "admin")
    assert len(await entries(world)) == before + 1


# Create and revoke in a loop.


async def test_a_tenant_that_makes_and_revokes_without_end_stops_itself_alone(
    world: LoginWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_keys, "KEYS_UNEXPIRED_MAX", 6)
    await world.access.add_tenant("other", "admin")
    kept, kept_secret = await world.keys.create("acme", "kept", ["application"], 365, "eve")
    for _ in range(5):
        made, _ = await world.keys.create("acme", "loop", ["application"], 2, "eve")
        await world.keys.revoke("acme", made.state.id, "eve")
    with pytest.raises(LimitError) as limit:
        await world.keys.create("acme", "loop", ["application"], 2, "eve")
    assert limit.value.which == "KEYS_UNEXPIRED_MAX"
    others, secret = await world.keys.create("other", "crm", ["application"], 365, "bob")
    await world.keys.revoke("other", others.state.id, "bob")
    await world.keys.revoke("acme", kept.state.id, "eve")
    assert refused(world, secret)
    assert refused(world, kept_secret)
    world.clock.pass_s(3 * DAY_S)
    await world.keys.create("acme", "again", ["application"], 1, "eve")


async def test_keys_in_force_are_limited_and_those_from_before_they_were_counted_count(
    world: LoginWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_keys, "QUOTA_KIND", "not-yet")
    first, _ = await world.keys.create("acme", "one", ["application"], 9, "ann")
    await world.keys.create("acme", "two", ["application"], 9, "ann")
    monkeypatch.setattr(api_keys, "QUOTA_KIND", "key-quota")
    monkeypatch.setattr(api_keys, "KEYS_LIVE_MAX", 3)
    await world.keys.create("acme", "three", ["application"], 9, "ann")
    with pytest.raises(LimitError, match="in force"):
        await world.keys.create("acme", "four", ["application"], 9, "ann")
    await world.keys.revoke("acme", first.state.id, "ann")
    await world.keys.create("acme", "four", ["application"], 9, "ann")


async def test_a_key_rarely_changes_what_all_verifiers_follow(world: LoginWorld) -> None:
    await world.keys.create("acme", "one", ["application"], 90, "ann")
    version = world.access.published.version
    for _ in range(20):
        await world.keys.create("acme", "many", ["application"], 90, "ann")
    assert world.access.published.version == version


async def test_however_often_a_user_changes_one_row_says_so(world: LoginWorld) -> None:
    tokens: list[str] = []
    for number in range(30):
        tokens.append((await world.log_in()).issued.token)
        await world.users.set("acme", "ann", (), number % 2 == 0, "admin")
        await world.users.set("acme", "ann", ("engineer",), False, "admin")
    assert all(refused(world, token) for token in tokens)
    assert len(world.verifier.revocations) == 1
    assert not refused(world, (await world.log_in()).issued.token)


# A user's keys go with what the user may.


async def test_keys_of_a_disabled_user_are_disabled_with_them(world: LoginWorld) -> None:
    await world.access.add_tenant("other", "admin")
    await world.user("amy", "administrator")
    await world.user("bob", "administrator")
    secrets = {
        (tenant, by): (await world.keys.create(tenant, "crm", ["application"], 9, by))[1]
        for tenant, by in (
            ("acme", "amy"), ("acme", "bob"), ("acme", "platform/amy"), ("other", "amy"),
        )
    }  # fmt: skip
    user = await world.users.set("acme", "amy", ("administrator",), True, "bob")
    assert len(user.revoked_keys) == 1
    assert {each for each, secret in secrets.items() if refused(world, secret)} == {("acme", "amy")}
    # Enabled again, they stay revoked: whoever needs them makes others.
    await world.users.set("acme", "amy", ("administrator",), False, "bob")
    assert refused(world, secrets[("acme", "amy")])


async def test_keys_of_who_may_make_none_any_more_go_too(world: LoginWorld) -> None:
    await world.user("amy", "administrator", "engineer")
    await world.user("bob", "administrator")
    _, secret = await world.keys.create("acme", "crm", ["application"], 9, "amy")
    await world.users.set("acme", "amy", ("administrator",), False, "bob")
    assert not refused(world, secret)
    await world.users.set("acme", "amy", ("engineer",), False, "bob")
    assert refused(world, secret)


async def test_keys_that_the_platforms_administrator_made_elsewhere_go_with_them(
    world: LoginWorld,
) -> None:
    await world.users.begin()
    for name in ("root", "second"):
        await world.users.create(PLATFORM, name, ("administrator",), "admin")
    _, theirs = await world.keys.create("acme", "crm", ["application"], 9, "platform/root")
    _, own = await world.keys.create(PLATFORM, "own", ["application"], 9, "root")
    _, others = await world.keys.create("acme", "crm", ["application"], 9, "root")
    user = await world.users.set(PLATFORM, "root", (), True, "second")
    assert len(user.revoked_keys) == 2
    assert refused(world, theirs)
    assert refused(world, own)
    assert not refused(world, others), "Made by acme's own root."


async def test_a_repeat_does_what_a_crash_left_out(
    world: LoginWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.user("amy", "administrator")
    await world.user("bob", "administrator")
    _, secret = await world.keys.create("acme", "crm", ["application"], 9, "amy")
    login = await world.log_in("amy")

    async def crash(*_: object, **__: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as broken:
        broken.setattr(type(world.access), "revoke", crash)
        with pytest.raises(RuntimeError):
            await world.users.set("acme", "amy", (), True, "bob")
    assert not refused(world, login.issued.token)
    await world.users.set("acme", "amy", (), True, "bob")
    assert refused(world, login.issued.token)
    assert refused(world, secret)


# What verifiers remember.


def test_a_row_refuses_what_it_names_and_nothing_else() -> None:
    at = [1_000.0]
    known = Revocations(lambda: at[0])
    assert not known.refuses("t", "l", "acme/ann", 0)
    added = known.add(
        Revocation(until=2_000, token_id="t"),
        Revocation(until=3_000, login_id="l"),
        Revocation(until=4_000, subject="acme/ann", generation=2),
        Revocation(until=900, token_id="gone"),
    )
    assert len(added) == 3
    assert known.refuses("t", "", "", 0)
    assert known.refuses("x", "l", "acme/ben", 0)
    assert known.refuses("x", "x", "acme/ann", 1)
    assert not known.refuses("x", "x", "acme/ann", 2)
    assert not known.refuses("l", "t", "acme/ben", 0)
    assert not known.refuses("x", "", "acme/anna", 0)
    # An older one changes nothing; a newer one holds longer and refuses more.
    assert not known.add(Revocation(until=3_500, subject="acme/ann", generation=1))
    assert known.add(Revocation(until=5_000, subject="acme/ann", generation=3))
    assert known.refuses("x", "", "acme/ann", 2)
    for until, left in ((2_000, 2), (3_000, 1), (4_000, 1), (5_000, 0)):
        at[0] = until + CLOCK_SKEW_S + 1
        known.forget_expired()
        assert len(known) == left
    assert not known.refuses("t", "l", "acme/ann", 0)


# Who has it in force.


async def take(news: AsyncIterator[News]) -> News:
    async with asyncio.timeout(5):
        return await anext(news)


async def test_a_change_is_confirmed_by_all_who_follow() -> None:
    known = Followers(frozenset({"dispatcher", "ingest"}))
    row = Revocation(until=9e9, token_id="t")
    assert (await known.settled()).waiting_for == ("dispatcher", "ingest")
    with (
        known.following("dispatcher", KEYS, list) as door,
        known.following("ingest", KEYS, list) as ingest,
    ):
        heard = {each.name: known.news(each) for each in (door, ingest)}
        for each in (door, ingest):
            known.confirm(each, (await take(heard[each.name])).sequence)
        assert (await known.settled()).confirmed
        known.publish(None, [row])
        settling = asyncio.ensure_future(known.settled(within_s=30))
        told = await take(heard["dispatcher"])
        assert list(told.revocations) == [row]
        known.confirm(door, told.sequence)
        known.confirm(ingest, told.sequence - 1)
        assert not settling.done()
        known.confirm(ingest, 10**9)
        assert (await settling).confirmed
        known.publish(None, [row])
        known.confirm(door, 10**9)
        assert (await known.settled(within_s=0.01)).waiting_for == ("ingest",)
    assert (await known.settled()).waiting_for == ("dispatcher", "ingest")


async def test_all_there_is_comes_in_parts_and_only_the_last_can_be_confirmed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(followers, "ROWS_MAX", 2)
    known = Followers(frozenset())
    there = [Revocation(until=9e9, token_id=str(number)) for number in range(5)]
    with known.following("dispatcher", KEYS, lambda: there) as door:
        news = known.news(door)
        parts = [await take(news) for _ in range(3)]
        assert [row for part in parts for row in part.revocations] == there
        assert [part.sequence for part in parts[:2]] == [0, 0]
        assert [part.keys for part in parts] == [None, None, KEYS]
        for part in parts[:2]:
            known.confirm(door, part.sequence)
        assert not (await known.settled(within_s=0.01)).confirmed
        known.confirm(door, parts[2].sequence)
        assert (await known.settled()).confirmed


async def test_who_is_too_slow_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followers, "WAITING_MAX", 3)
    known = Followers(frozenset())

    async def heard(door: Follower) -> int:
        return len([each async for each in known.news(door)])

    with known.following("dispatcher", KEYS, list) as door:
        for _ in range(10):
            known.publish(None, [Revocation(until=9e9, token_id="t")])
        async with asyncio.timeout(5):
            assert await heard(door) == 0


@pytest.mark.parametrize("name", ["", "x" * 33])
def test_a_follower_says_who_it_is(name: str) -> None:
    with pytest.raises(InvalidInputError), Followers(frozenset()).following(name, KEYS, list):
        pass


async def test_a_login_during_a_change_of_the_user_is_refused_or_new(world: LoginWorld) -> None:
    login, user = await asyncio.gather(
        world.logins.login("acme", "ann", PASSWORD),
        world.users.set("acme", "ann", ("auditor",), False, "admin"),
    )
    if not refused(world, login.issued.token):
        assert world.caller(login).roles == set(user.state.roles)
