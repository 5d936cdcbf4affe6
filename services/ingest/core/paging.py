"""Pages of a listing: how much fits, and the opaque token that the next begins with."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import orjson

from libs.common.paging import not_a_token

# A page ends early rather than be too large for one message.
PAGE_BYTES_MAX = 4 * 1024 * 1024

T = TypeVar("T")


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
        raise not_a_token() from error
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
