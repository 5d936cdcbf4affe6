"""Pages of a listing: how long one may be, and the opaque token that the next begins with."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import orjson

from libs.common.errors import InvalidInputError

PAGE_SIZE_MAX = 500
PAGE_SIZE = 50
# A page ends early rather than be too large for one message.
PAGE_BYTES_MAX = 4 * 1024 * 1024

T = TypeVar("T")


def size(asked: int) -> int:
    """Raises InvalidInputError for what is not 0 to 500; 0 means 50."""
    if not 0 <= asked <= PAGE_SIZE_MAX:
        raise InvalidInputError(
            f"A page of {asked} is not to be had.",
            which="page.size",
            next_step=f"Ask for 1 to {PAGE_SIZE_MAX}, or 0 for {PAGE_SIZE}.",
        )
    return asked or PAGE_SIZE


def token(*place: str | int) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(place)).decode().rstrip("=")


def place(text: str, *first: str | int) -> tuple[Any, ...]:
    """What a token says; `first` for an empty one. InvalidInputError for one we did not make."""
    if not text:
        return first
    try:
        padded = text + "=" * (-len(text) % 4)
        given = orjson.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        if [type(each) for each in given] != [type(each) for each in first]:
            raise ValueError("another listing's token")
    except (binascii.Error, ValueError, TypeError) as error:
        raise InvalidInputError(
            "The page token is not one that this listing gave.",
            which="page.token",
            next_step="Begin again without a token.",
        ) from error
    return tuple(given)


def fitting(
    found: Sequence[T],
    asked: int,
    weight: Callable[[T], int],
    name: Callable[[T], str | int],
) -> tuple[list[T], str]:
    """As much of what was found as goes into one page, and the next page's token."""
    shown: list[T] = []
    shown_bytes = 0
    for each in found:
        shown.append(each)
        shown_bytes += weight(each)
        if shown_bytes >= PAGE_BYTES_MAX:
            break
    ended = len(shown) == len(found) < asked
    return shown, "" if ended or not shown else token(name(shown[-1]))
