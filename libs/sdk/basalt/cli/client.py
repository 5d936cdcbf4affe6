"""The client of the command line: connected with the last login, or as the environment says."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from basalt import session
from basalt.cli import local
from basalt.cli.output import Found
from basalt.client import Client
from basalt.errors import BasaltError
from basalt.pb.basalt.v1 import common_pb2

PAGE_ROWS = 100
# Somebody waits at a terminal: less patience than a program has.
TIMEOUT_S = 15.0
# Where nobody answers, waiting helps only while the platform is starting.
UNREACHABLE_S = 1.0


@contextmanager
def platform() -> Iterator[Client]:
    """Raises BasaltError, saying where the token came from, when it holds no longer or is none."""
    target = session.target()
    if not target.token:
        raise _not_logged_in(target.endpoint)
    try:
        with connected() as client:
            yield client
    except BasaltError as error:
        if error.code != "UNAUTHENTICATED":
            raise
        # Without a login the token can be from one other place only.
        over = _login_over(target.login, error) if target.login else _wrong_variable(error)
        raise over from error


def connected(endpoint: str | None = None, **given: Any) -> Client:
    """A client that waits for a platform which is starting on this machine, and for no other."""
    where = session.target(endpoint).endpoint
    starting = local.is_here(where) and local.supervised()
    unreachable_s = TIMEOUT_S if starting else UNREACHABLE_S
    return Client(endpoint, timeout_s=TIMEOUT_S, unreachable_s=unreachable_s, **given)


def _not_logged_in(endpoint: str) -> BasaltError:
    elsewhere = session.load()
    if elsewhere is None:
        what = "You are not logged in."
    else:
        what = f"You are logged in at {elsewhere.endpoint}, not at {endpoint}."
    return BasaltError(
        what, code="UNAUTHENTICATED", which=endpoint, next_step="Run `basalt login`."
    )


def _login_over(login: session.Session, error: BasaltError) -> BasaltError:
    what = f"The login of {login.name} has expired." if login.expired else error.what
    return BasaltError(
        what, code=error.code, which=login.name, next_step="Run `basalt login` again."
    )


def _wrong_variable(error: BasaltError) -> BasaltError:
    # Why, without the door's advice to log in: the variable would still win.
    why = error.what.partition(". ")[0].rstrip(".")
    return BasaltError(
        f"The token in BASALT_TOKEN is refused: {why}.",
        code=error.code,
        which="BASALT_TOKEN",
        next_step="Unset BASALT_TOKEN and run `basalt login`, or set it to a token that holds.",
    )


def pages(client: Client, method: Any, request: Any, field: str, limit: int) -> Found:
    """The items of a paged listing, up to `limit` of them."""
    # One more than is wanted tells that there are more.
    found = Found(each(client, method, request, field, limit + 1))
    found.more = len(found) > limit
    del found[limit:]
    return found


def each(
    client: Client,
    method: Any,
    request: Any,
    field: str,
    most: float = math.inf,
    at_once: int = PAGE_ROWS,
) -> Iterator[Any]:
    """The items of a paged listing one by one, up to `most` of them."""
    token, given = "", 0
    while given < most:
        size = int(min(at_once, most - given))
        request.page.CopyFrom(common_pb2.PageRequest(size=size, token=token))
        answer = client.call(method, request)
        items = getattr(answer, field)
        yield from items
        given += len(items)
        token = answer.next_page_token
        if not token:
            return
