"""A login gives one token after another, until it is too old, ended, or the user has changed."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from libs.common.errors import LimitError, PreconditionError, UnauthenticatedError
from libs.common.identity import CLOCK_SKEW_S
from services.security.core.tokens import TOKEN_LIFE_S
from services.security.core.users import LOGIN_S_MAX, TOKENS_LIVE_MAX
from tests.unit.security.test_tokens import World

PASSWORD = "four random words here"
ANOTHER = "five other random words here"


class Logins(World):
    """security's core with the user acme/ann, who has chosen a password."""

    async def begin(self) -> None:
        await self.access.begin()
        await self.access.add_tenant("acme", "admin")
        _, one_time = await self.users.create("acme", "ann", ("engineer",), "admin")
        await self.users.change_password("acme", "ann", one_time, PASSWORD)


@pytest.fixture
def logins(tmp_path: Path) -> Logins:
    logins = Logins(tmp_path)
    asyncio.run(logins.begin())
    return logins


async def test_renewed_token_is_the_same_persons_and_the_old_one_goes_on(logins: Logins) -> None:
    first = await logins.users.login("acme", "ann", PASSWORD)
    logins.clock.pass_s(600)
    second = await logins.users.renew("acme", "ann", first.issued.token_id)
    assert second.issued.expires_at == first.issued.expires_at + 600
    assert second.login_ends_at == first.login_ends_at
    for login in (first, second):
        who = logins.verifier.verify(login.issued.token)
        assert (who.tenant, who.subject, who.roles) == ("acme", "ann", {"engineer"})


async def test_login_ends_after_twelve_hours_however_often_it_is_renewed(logins: Logins) -> None:
    first = login = await logins.users.login("acme", "ann", PASSWORD)
    began = logins.clock.now().timestamp()
    renewals = 0
    while logins.clock.now().timestamp() + TOKEN_LIFE_S / 2 < began + LOGIN_S_MAX:
        logins.clock.pass_s(TOKEN_LIFE_S / 2)
        login = await logins.users.renew("acme", "ann", login.issued.token_id)
        renewals += 1
        assert login.issued.expires_at <= began + LOGIN_S_MAX
    assert renewals == LOGIN_S_MAX / (TOKEN_LIFE_S / 2) - 1
    assert login.login_ends_at == first.login_ends_at == began + LOGIN_S_MAX
    logins.clock.pass_s(TOKEN_LIFE_S / 2)
    with pytest.raises(UnauthenticatedError, match="is over"):
        await logins.users.renew("acme", "ann", login.issued.token_id)


async def test_token_of_which_nothing_was_heard_for_its_life_is_not_renewed(logins: Logins) -> None:
    login = await logins.users.login("acme", "ann", PASSWORD)
    logins.clock.pass_s(TOKEN_LIFE_S + CLOCK_SKEW_S + 1)
    again = await logins.users.login("acme", "ann", PASSWORD)
    with pytest.raises(UnauthenticatedError, match="is over"):
        await logins.users.renew("acme", "ann", login.issued.token_id)
    await logins.users.renew("acme", "ann", again.issued.token_id)


async def change_password(logins: Logins) -> None:
    await logins.users.change_password("acme", "ann", PASSWORD, ANOTHER)


async def reset_password(logins: Logins) -> None:
    await logins.users.reset_password("acme", "ann", "admin")


async def disable(logins: Logins) -> None:
    await logins.users.set("acme", "ann", ("engineer",), True, "admin")


async def change_roles(logins: Logins) -> None:
    await logins.users.set("acme", "ann", ("auditor",), False, "admin")


@pytest.mark.parametrize("change", [change_password, reset_password, disable, change_roles])
async def test_what_revokes_tokens_ends_their_login(
    logins: Logins, change: Callable[[Logins], Awaitable[None]]
) -> None:
    login = await logins.users.login("acme", "ann", PASSWORD)
    await change(logins)
    with pytest.raises(UnauthenticatedError):
        logins.verifier.verify(login.issued.token)
    with pytest.raises(UnauthenticatedError, match="is over"):
        await logins.users.renew("acme", "ann", login.issued.token_id)


async def test_log_out_ends_one_login_with_all_its_tokens(logins: Logins) -> None:
    at_work = await logins.users.login("acme", "ann", PASSWORD)
    logins.clock.pass_s(1)
    at_home = await logins.users.login("acme", "ann", PASSWORD)
    renewed = await logins.users.renew("acme", "ann", at_work.issued.token_id)
    await logins.users.log_out("acme", "ann", renewed.issued.token_id)
    for ended in (at_work, renewed):
        with pytest.raises(UnauthenticatedError, match="revoked"):
            logins.verifier.verify(ended.issued.token)
        with pytest.raises(UnauthenticatedError, match="is over"):
            await logins.users.renew("acme", "ann", ended.issued.token_id)
    assert logins.verifier.verify(at_home.issued.token).subject == "ann"
    await logins.users.renew("acme", "ann", at_home.issued.token_id)


async def test_nobody_renews_with_a_token_that_is_not_theirs(logins: Logins) -> None:
    _, one_time = await logins.users.create("acme", "ben", ("engineer",), "admin")
    await logins.users.change_password("acme", "ben", one_time, PASSWORD)
    anns = await logins.users.login("acme", "ann", PASSWORD)
    with pytest.raises(UnauthenticatedError, match="is over"):
        await logins.users.renew("acme", "ben", anns.issued.token_id)
    key, _ = await logins.keys.create("acme", "crm", ("auditor",), 1, "admin")
    with pytest.raises(PreconditionError, match="no login"):
        await logins.users.renew("acme", "key:crm", key.state.id)
    with pytest.raises(PreconditionError, match="no login"):
        await logins.users.log_out("acme", "key:crm", key.state.id)


async def test_renewals_race_and_all_hold(logins: Logins) -> None:
    login = await logins.users.login("acme", "ann", PASSWORD)
    renewals = [logins.users.renew("acme", "ann", login.issued.token_id) for _ in range(8)]
    for renewed in await asyncio.gather(*renewals):
        assert logins.verifier.verify(renewed.issued.token).subject == "ann"
        await logins.users.renew("acme", "ann", renewed.issued.token_id)


async def test_tokens_of_a_user_are_bounded(logins: Logins) -> None:
    login = await logins.users.login("acme", "ann", PASSWORD)
    for _ in range(TOKENS_LIVE_MAX - 1):
        await logins.users.renew("acme", "ann", login.issued.token_id)
    with pytest.raises(LimitError, match=str(TOKENS_LIVE_MAX)):
        await logins.users.renew("acme", "ann", login.issued.token_id)
    logins.clock.pass_s(TOKEN_LIFE_S + CLOCK_SKEW_S + 1)
    await logins.users.login("acme", "ann", PASSWORD)


async def test_logins_do_not_hide_who_changed_a_user(logins: Logins) -> None:
    users = logins.users

    async def changed() -> tuple[str, float]:
        [ann], _ = await users.page("acme", 0, "")
        return ann.changed.by, ann.changed.at

    assert (await changed())[0] == "ann"  # Her password.
    logins.clock.pass_s(60)
    await users.set("acme", "ann", ("auditor",), False, "admin")
    told = await changed()
    assert told == ("admin", logins.clock.now().timestamp())
    logins.clock.pass_s(60)
    login = await users.login("acme", "ann", PASSWORD)
    renewed = await users.renew("acme", "ann", login.issued.token_id)
    await users.log_out("acme", "ann", renewed.issued.token_id)
    assert await changed() == told
    await users.reset_password("acme", "ann", "root")
    assert await changed() == ("root", logins.clock.now().timestamp())
