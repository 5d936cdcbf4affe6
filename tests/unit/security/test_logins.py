"""A login gives one token after another, until it is too old, ended, or the user has changed."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from libs.common.errors import PreconditionError, UnauthenticatedError
from libs.common.revocations import CLOCK_SKEW_S
from services.security.core import logins as logins_module
from services.security.core.accounts import ONE_TIME_PASSWORD_S
from services.security.core.logins import LOGIN_S_MAX
from services.security.core.tokens import TOKEN_LIFE_S, LoggedIn
from tests.support.security_core import PASSWORD, LoginWorld

ANOTHER = "five other random words here"


@pytest.fixture
def world(tmp_path: Path) -> LoginWorld:
    world = LoginWorld(tmp_path)
    asyncio.run(world.begin())
    return world


async def test_renewed_token_is_the_same_persons_and_the_old_one_goes_on(world: LoginWorld) -> None:
    first = await world.log_in()
    world.clock.pass_s(600)
    second = await world.logins.renew("acme", "ann", first.login.id)
    assert second.issued.expires_at == first.issued.expires_at + 600
    assert second.login_ends_at == first.login_ends_at
    for login in (first, second):
        who = world.verifier.verify(login.issued.token)
        assert (who.tenant, who.subject, who.roles) == ("acme", "ann", {"engineer"})


async def test_login_ends_after_twelve_hours_however_often_it_is_renewed(world: LoginWorld) -> None:
    first = login = await world.log_in()
    began = world.clock.now().timestamp()
    renewals = 0
    while world.clock.now().timestamp() + TOKEN_LIFE_S / 2 < began + LOGIN_S_MAX:
        world.clock.pass_s(TOKEN_LIFE_S / 2)
        login = await world.logins.renew("acme", "ann", login.login.id)
        renewals += 1
        assert login.issued.expires_at <= began + LOGIN_S_MAX
    assert renewals == LOGIN_S_MAX / (TOKEN_LIFE_S / 2) - 1
    assert login.login_ends_at == first.login_ends_at == began + LOGIN_S_MAX
    world.clock.pass_s(TOKEN_LIFE_S / 2)
    with pytest.raises(UnauthenticatedError, match="is over"):
        await world.logins.renew("acme", "ann", login.login.id)


async def test_token_of_which_nothing_was_heard_for_its_life_holds_no_longer(
    world: LoginWorld,
) -> None:
    login = await world.log_in()
    world.clock.pass_s(TOKEN_LIFE_S + CLOCK_SKEW_S + 1)
    # Renewing is a call like any other, and needs a token that holds.
    with pytest.raises(UnauthenticatedError, match="expired"):
        world.caller(login)


async def change_password(world: LoginWorld) -> None:
    await world.logins.change_password("acme", "ann", PASSWORD, ANOTHER)


async def reset_password(world: LoginWorld) -> None:
    await world.users.reset_password("acme", "ann", "admin")


async def disable(world: LoginWorld) -> None:
    await world.users.set("acme", "ann", ("engineer",), True, "admin")


async def change_roles(world: LoginWorld) -> None:
    await world.users.set("acme", "ann", ("auditor",), False, "admin")


@pytest.mark.parametrize("change", [change_password, reset_password, disable, change_roles])
async def test_what_revokes_tokens_ends_their_login(
    world: LoginWorld, change: Callable[[LoginWorld], Awaitable[None]]
) -> None:
    login = await world.log_in()
    await change(world)
    with pytest.raises(UnauthenticatedError):
        world.verifier.verify(login.issued.token)
    with pytest.raises(UnauthenticatedError, match="is over"):
        await world.logins.renew("acme", "ann", login.login.id)


async def test_log_out_ends_one_login_with_all_its_tokens(world: LoginWorld) -> None:
    at_work = await world.log_in()
    world.clock.pass_s(1)
    at_home = await world.log_in()
    renewed = await world.logins.renew("acme", "ann", at_work.login.id)
    await world.logins.log_out(world.caller(renewed))
    for ended in (at_work, renewed):
        with pytest.raises(UnauthenticatedError, match="revoked"):
            world.verifier.verify(ended.issued.token)
        with pytest.raises(UnauthenticatedError, match="is over"):
            await world.logins.renew("acme", "ann", ended.login.id)
    assert world.verifier.verify(at_home.issued.token).subject == "ann"
    await world.logins.renew("acme", "ann", at_home.login.id)


async def test_nobody_renews_with_a_token_that_is_not_theirs(world: LoginWorld) -> None:
    await world.user("ben")
    anns = await world.log_in()
    with pytest.raises(UnauthenticatedError, match="is over"):
        await world.logins.renew("acme", "ben", anns.login.id)
    _, secret = await world.keys.create("acme", "crm", ("auditor",), 1, "admin")
    key = world.verifier.verify(secret)
    with pytest.raises(PreconditionError, match="no login"):
        await world.logins.renew("acme", key.subject, key.login_id)
    with pytest.raises(PreconditionError, match="no login"):
        await world.logins.log_out(key)


async def test_renewals_race_and_all_hold(world: LoginWorld) -> None:
    login = await world.log_in()
    renewals = [world.logins.renew("acme", "ann", login.login.id) for _ in range(8)]
    for renewed in await asyncio.gather(*renewals):
        assert world.verifier.verify(renewed.issued.token).subject == "ann"
        await world.logins.renew("acme", "ann", renewed.login.id)


async def test_logins_of_a_user_are_bounded_and_never_refused(
    world: LoginWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logins_module, "LOGINS_MAX", 3)
    made: list[LoggedIn] = []
    for _ in range(5):
        made.append(await world.log_in())
        world.clock.pass_s(1)
    for oldest in made[:2]:
        with pytest.raises(UnauthenticatedError, match="is over"):
            await world.logins.renew("acme", "ann", oldest.login.id)
    for newest in made[2:]:
        await world.logins.renew("acme", "ann", newest.login.id)


async def test_a_token_from_before_logins_had_ids_can_be_logged_out(world: LoginWorld) -> None:
    world.clock.pass_s(3_600)
    world.verifier.revocations.forget_expired()  # What choosing her own password revoked.
    issued = world.tokens.short("acme", "ann", ("engineer",), "user")
    who = world.verifier.verify(issued.token)
    with pytest.raises(UnauthenticatedError, match="is over"):
        await world.logins.renew("acme", "ann", who.login_id)
    await world.logins.log_out(who)
    with pytest.raises(UnauthenticatedError, match="revoked"):
        world.verifier.verify(issued.token)
    # And whatever ends tokens ends those, too.
    issued = world.tokens.short("acme", "ann", ("engineer",), "user")
    await disable(world)
    with pytest.raises(UnauthenticatedError, match="revoked"):
        world.verifier.verify(issued.token)


async def test_a_login_after_the_change_that_ended_others_holds(world: LoginWorld) -> None:
    for roles in (("auditor",), ("engineer",), ("operator",)):
        await world.users.set("acme", "ann", roles, False, "admin")
        assert world.caller(await world.log_in()).roles == set(roles)


async def test_a_one_time_password_expires(world: LoginWorld) -> None:
    for again in (False, True):
        if again:
            _, one_time = await world.users.reset_password("acme", "ben", "admin")
        else:
            _, one_time = await world.users.create("acme", "ben", ("engineer",), "admin")
        world.clock.pass_s(ONE_TIME_PASSWORD_S + 1)
        with pytest.raises(PreconditionError, match="expired"):
            await world.logins.login("acme", "ben", one_time)
        with pytest.raises(PreconditionError, match="expired"):
            await world.logins.change_password("acme", "ben", one_time, PASSWORD)
    _, one_time = await world.users.reset_password("acme", "ben", "admin")
    world.clock.pass_s(ONE_TIME_PASSWORD_S - 1)
    await world.logins.change_password("acme", "ben", one_time, PASSWORD)
    world.clock.pass_s(ONE_TIME_PASSWORD_S + 1)
    await world.log_in("ben")  # Their own does not.


async def test_the_first_password_is_noted_anew_at_the_start_after_it_expired(
    world: LoginWorld, tmp_path: Path
) -> None:
    note = tmp_path / "first-login.txt"

    def noted() -> str:
        return note.read_text().partition("password: ")[2].split()[0]

    await world.users.begin()
    first = noted()
    await world.users.begin()
    assert noted() == first
    world.clock.pass_s(ONE_TIME_PASSWORD_S + 1)
    with pytest.raises(PreconditionError, match="Restart security"):
        await world.logins.login("platform", "admin", first)
    await world.users.begin()
    assert noted() != first
    with pytest.raises(UnauthenticatedError):
        await world.logins.login("platform", "admin", first)
    await world.logins.change_password("platform", "admin", noted(), PASSWORD)
    assert not note.exists()


async def test_logins_do_not_hide_who_changed_a_user(world: LoginWorld) -> None:
    users = world.users

    async def changed() -> tuple[str, float]:
        [ann], _ = await users.page("acme", 0, "")
        return ann.changed.by, ann.changed.at

    assert (await changed())[0] == "ann"  # Her password.
    world.clock.pass_s(60)
    await users.set("acme", "ann", ("auditor",), False, "admin")
    told = await changed()
    assert told == ("admin", world.clock.now().timestamp())
    world.clock.pass_s(60)
    login = await world.log_in()
    renewed = await world.logins.renew("acme", "ann", login.login.id)
    await world.logins.log_out(world.caller(renewed))
    assert await changed() == told
    await users.reset_password("acme", "ann", "root")
    assert await changed() == ("root", world.clock.now().timestamp())
