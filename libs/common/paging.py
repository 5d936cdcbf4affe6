"""Pages of a listing: how long one may be. What its token says is each listing's own affair."""

from __future__ import annotations

from libs.common.errors import InvalidInputError

PAGE_SIZE = 50
PAGE_SIZE_MAX = 500
# Any whole number of so few digits fits into the 64 bits of a store.
TOKEN_DIGITS_MAX = 18


def page_size(asked: int) -> int:
    """The size of a page; 0 asks for the usual one. Raises InvalidInputError."""
    if not 0 <= asked <= PAGE_SIZE_MAX:
        raise InvalidInputError(
            f"A page of {asked} cannot be had.",
            which="page.size",
            next_step=f"Ask for 1 to {PAGE_SIZE_MAX}, or 0 for {PAGE_SIZE}.",
        )
    return asked or PAGE_SIZE


def token_number(token: str) -> int:
    """The whole number that a token, or a part of one, is. Raises InvalidInputError."""
    if not (token.isascii() and token.isdecimal()) or len(token) > TOKEN_DIGITS_MAX:
        raise not_a_token()
    return int(token)


def not_a_token() -> InvalidInputError:
    return InvalidInputError(
        "The page token is not one that this listing gave.",
        which="page.token",
        next_step="Send the next_page_token of the page before, or none for the first page.",
    )
