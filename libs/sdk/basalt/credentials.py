"""The token that a client calls with: a person's is renewed while it is used.

Only security can say whether a token holds; what is read here out of one is when to ask for the
next. An API key holds until it expires, and is never renewed.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from basalt import session
from basalt.errors import BasaltError
from basalt.session import Session, Target

# Where asking for the next token failed, it is not asked for again at once.
TRY_AGAIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Renewed:
    """Times are in seconds since 1970."""

    token: str
    expires_at: float
    login_ends_at: float


Renew = Callable[[str], Awaitable[Renewed]]


class Credentials:
    """Renews when less than half of a token's life is left, one renewal at a time."""

    def __init__(self, target: Target) -> None:
        self._token = target.token
        self._login = target.login
        self._due_at = _due_at(target.token)
        self._renewing = asyncio.Lock()

    async def current(self, renew: Renew) -> str:
        """The token to call with now. What `renew` raises is kept from the caller.

        While the old token holds the call can go on; afterwards the call itself is refused.
        """
        if time.time() < self._due_at or self._renewing.locked():
            return self._token
        async with self._renewing:
            self._take_over()
            if time.time() >= self._due_at:
                await self._renew(renew)
        return self._token

    async def _renew(self, renew: Renew) -> None:
        try:
            renewed = await renew(self._token)
        except BasaltError as error:
            passing = error.retryable
            self._due_at = time.time() + TRY_AGAIN_S if passing else float("inf")
            return
        now = time.time()
        self._token = renewed.token
        # By this clock, so that one that is wrong does not ask at every call.
        self._due_at = now + _life_s(renewed.token) / 2
        if self._login is not None:
            self._login = replace(
                self._login,
                token=renewed.token,
                expires_at=renewed.expires_at,
                login_ends_at=renewed.login_ends_at,
            )
            self._keep(self._login)

    def _take_over(self) -> None:
        """Another command may have renewed the same login meanwhile."""
        if self._login is None:
            return
        newest = session.load()
        if newest is None or not newest.same_login(self._login):
            return
        if newest.expires_at > self._login.expires_at:
            self._token, self._login = newest.token, newest
            self._due_at = _due_at(newest.token)

    def _keep(self, login: Session) -> None:
        newest = session.load()
        # Somebody else may have logged in, or this login may have been ended.
        if newest is None or not newest.same_login(login):
            return
        try:
            session.save(login)
        except OSError:
            # The renewed token serves this client; the next one renews for itself.
            return


def claims(token: str) -> dict[str, Any]:
    """What a token says of itself, unverified; nothing when it is none."""
    try:
        payload = token.split(".")[1]
        said = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (IndexError, ValueError, binascii.Error):
        return {}
    return said if isinstance(said, dict) else {}


def _due_at(token: str) -> float:
    """When the second half of a person's token begins; never for any other."""
    if claims(token).get("use") != "user":
        return float("inf")
    issued_at, expires_at = _times(token)
    return (issued_at + expires_at) / 2


def _life_s(token: str) -> float:
    issued_at, expires_at = _times(token)
    return expires_at - issued_at


def _times(token: str) -> tuple[float, float]:
    """When it was issued and when it expires; never, where it does not say."""
    said = claims(token)
    issued_at, expires_at = said.get("iat"), said.get("exp")
    if isinstance(issued_at, int | float) and isinstance(expires_at, int | float):
        return float(issued_at), float(expires_at)
    return 0.0, float("inf")
