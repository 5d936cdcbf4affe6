"""A page of a listing: what a caller asks for, and how it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from libs.common.errors import InvalidInputError

PAGE_SIZE_MAX = 500
PAGE_SIZE_DEFAULT = 50

T = TypeVar("T")


def page(items: Sequence[T], size: int, token: str) -> tuple[Sequence[T], str]:
    """The page and the token of the next one ("" at the end). A token is an offset.

    Raises InvalidInputError.
    """
    if not 0 <= size <= PAGE_SIZE_MAX:
        raise InvalidInputError(
            f"A page of {size} is not possible.",
            which="page.size",
            next_step=f"Ask for 1 to {PAGE_SIZE_MAX}; 0 means {PAGE_SIZE_DEFAULT}.",
        )
    if token and not (token.isascii() and token.isdigit()):
        raise InvalidInputError(
            "The page token is none of ours.",
            which="page.token",
            next_step="Send the next_page_token of the page before, or none for the first page.",
        )
    start = int(token or 0)
    end = start + (size or PAGE_SIZE_DEFAULT)
    return items[start:end], str(end) if end < len(items) else ""
