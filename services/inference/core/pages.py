"""A page of a listing: what a caller asks for, and how it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from libs.common.paging import not_a_token, page_size

T = TypeVar("T")


def page(items: Sequence[T], size: int, token: str) -> tuple[Sequence[T], str]:
    """The page and the token of the next one ("" at the end). A token is an offset.

    Raises InvalidInputError.
    """
    size = page_size(size)
    if token and not (token.isascii() and token.isdigit()):
        raise not_a_token()
    start = int(token or 0)
    end = start + size
    return items[start:end], str(end) if end < len(items) else ""
