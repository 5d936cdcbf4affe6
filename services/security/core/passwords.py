"""What may be a password, by NIST SP 800-63B revision 4, 3.1.1.

Length is what counts: no rule asks for kinds of characters. What is refused is what others try
first: common passwords and their variants, repeats, rows of keys, and the names of whoever and
whatever the password is for.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from libs.common.errors import InvalidInputError
from services.security.ports import PasswordGuesses

# As a password is the only factor. Those that were chosen when fewer were asked for go on.
PASSWORD_CHARACTERS_MIN = 15
PASSWORD_CHARACTERS_MAX = 256
# Guesses, in powers of ten, that whoever knows what is common needs at least.
GUESSES_LOG10_MIN = 10.0
# Different letters and digits, beside the names that a password has in it.
OWN_CHARACTERS_MIN = 6
PRODUCT = ("basalt", "platform", "admin", "administrator")


@dataclass(frozen=True, slots=True)
class PasswordRules:
    guesses: PasswordGuesses

    async def require_acceptable(self, tenant: str, name: str, old: str, new: str) -> None:
        """Raises InvalidInputError, whose `which` is "new_password"."""
        # Normal forms may be longer than what was typed, and shorter.
        wanted = unicodedata.normalize("NFKC", new)
        if not PASSWORD_CHARACTERS_MIN <= len(wanted) <= PASSWORD_CHARACTERS_MAX:
            raise _refused(
                f"A password has {PASSWORD_CHARACTERS_MIN} to {PASSWORD_CHARACTERS_MAX}"
                " characters.",
                "Choose a longer one: a few words will do.",
            )
        if wanted == normal(old):
            raise _refused("The new password is the old one.", "Choose another.")
        words = tuple({*_words(tenant), *_words(name), *PRODUCT})
        if _is_made_of(wanted, words):
            raise _refused(
                "The new password is made of the tenant's, the user's or the product's name.",
                "Choose one that says nothing of what it is for: a few words will do.",
            )
        if await self.guesses.log10(wanted, words) < GUESSES_LOG10_MIN:
            raise _refused(
                "The new password is one that others try first: a common one, a variant of it, a"
                " repeat or a row of keys.",
                "Choose a few words that do not belong together.",
            )


def normal(password: str) -> str:
    """NFKC, as NIST asks: the same characters typed on another keyboard are the same."""
    return unicodedata.normalize("NFKC", password)[:PASSWORD_CHARACTERS_MAX]


def _words(name: str) -> list[str]:
    """A name and its parts: "ada.lovelace@acme" is also ada, lovelace and acme."""
    return [word for word in (name.lower(), *re.split(r"[^a-z0-9]+", name.lower())) if word]


def _is_made_of(password: str, words: tuple[str, ...]) -> bool:
    """Whether the words are in it, and hardly anything else is."""
    whole = rest = password.casefold()
    for word in sorted(words, key=len, reverse=True):
        # Shorter ones are in many words that have nothing to do with them.
        if len(word) > 2:
            rest = rest.replace(word, " ")
    own = {character for character in rest if character.isalnum()}
    return rest != whole and len(own) < OWN_CHARACTERS_MIN


def _refused(what: str, next_step: str) -> InvalidInputError:
    return InvalidInputError(what, which="new_password", next_step=next_step)
