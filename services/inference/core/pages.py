"""A page of a listing: what a caller asks for, and how it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from libs.common.paging import page_size, token_number

T = TypeVar("T")


def page(items: Sequence[T], size: int, token: str) -> tuple[Sequence[T], str]:
    """The page and the token of the next one ("" at the end). A token is an offset.

    Raises InvalidInputError.
    """
    size = page_size(size)
    start = token_number(token) if token else 0
    end = start + size
    return items[start:end], str(end) if end < len(items) else ""


def newest_first(items: Sequence[T], size: int, token: str) -> tuple[Sequence[T], str]:
    """The page of `items`, which are oldest first. A token is how many older ones are left.

    So what comes meanwhile moves nothing to another page. Raises InvalidInputError.
    """
    size = page_size(size)
    end = min(token_number(token), len(items)) if token else len(items)
    start = max(0, end - size)
    return items[start:end][::-1], str(start or "")
