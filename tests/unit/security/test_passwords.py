"""What may be a password: long, and not what others try first."""

import pytest

from libs.common.errors import InvalidInputError
from services.security.core.passwords import (
    PASSWORD_CHARACTERS_MAX,
    PASSWORD_CHARACTERS_MIN,
    PasswordRules,
    normal,
)
from services.security.outbound.guessing import Zxcvbn

RULES = PasswordRules(Zxcvbn())
OLD = "four random words here"


async def judge(new: str, tenant: str = "acme-hospital", name: str = "ada.lovelace") -> None:
    await RULES.require_acceptable(tenant, name, OLD, new)


@pytest.mark.parametrize(
    "new",
    [
        "correct horse battery staple",
        "five other random words here",
        "mycatlikestoeatfish",
        "Zb7-kq0Rw_ePx2mN9tVsLh4c",
        "der Mond ist aufgegangen",
        "春はあけぼの、やうやう白くなりゆく山際",
        "            a few blanks, too",
        "ada likes turnips in the morning",
    ],
)
async def test_words_and_phrases_of_ones_own_are_taken(new: str) -> None:
    await judge(new)


@pytest.mark.parametrize(
    "new",
    [
        "password1234567",
        "passwordpassword",
        "P@ssw0rd!P@ssw0rd!",
        "qwertyuiopasdfgh",
        "123456789012345",
        "aaaaaaaaaaaaaaa",
        "abcdefghijklmno",
        "iloveyouiloveyou",
        "Summer2026!Summer2026!",
        "qazwsxedcrfvtgb",
        "letmeinletmeinletmein",
    ],
)
async def test_what_others_try_first_is_refused(new: str) -> None:
    with pytest.raises(InvalidInputError, match="try first") as refused:
        await judge(new)
    assert refused.value.which == "new_password"


@pytest.mark.parametrize(
    "new",
    [
        "acme-hospital-1",
        "Acme-Hospital-Acme",
        "ada.lovelace2026",
        "lovelace-lovelace",
        "basalt-platform-admin",
        "ADMINISTRATOR-Acme",
        "Basalt!Basalt!Basalt!",
    ],
)
async def test_names_of_what_it_is_for_are_refused(new: str) -> None:
    with pytest.raises(InvalidInputError):
        await judge(new)


async def test_length_is_counted_in_characters_after_normalising() -> None:
    fourteen = "zq7 vk2 mx9 tr"
    assert len(fourteen) == PASSWORD_CHARACTERS_MIN - 1
    with pytest.raises(InvalidInputError, match="15 to 256"):
        await judge(fourteen)
    await judge(fourteen + "é")
    # One ligature is three letters, and a letter with a loose accent is one.
    await judge(fourteen[:-2] + "\ufb03")
    with pytest.raises(InvalidInputError, match="15 to 256"):
        await judge(fourteen[:-1] + "e\u0301")
    with pytest.raises(InvalidInputError, match="15 to 256"):
        await judge("long " * 60)
    await judge(("many words of mine " * 20)[:PASSWORD_CHARACTERS_MAX])


async def test_the_old_one_is_no_new_one() -> None:
    with pytest.raises(InvalidInputError, match="old one"):
        await judge(OLD)
    assert normal("\uff41\uff42\uff43") == "abc"
