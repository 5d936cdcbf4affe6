"""Who follows access, and what of it is in force where.

A follower is told everything, then each change, and says of each when it is in force there. So
whoever revokes is answered when the door refuses, or within a second that this is not sure yet.
Of this process: with several replicas of security, each knows its own followers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from libs.common.errors import InvalidInputError, LimitError
from libs.common.revocations import Revocation, in_parts

# So long a change is waited for; whoever has not confirmed it then is told in the answer.
CONFIRMED_S_MAX = 1.0
# Messages that a follower has not taken; one that is further behind begins anew with everything.
WAITING_MAX = 10_000
# Rows of one message, which has at most 16 MiB.
ROWS_MAX = 10_000
FOLLOWERS_MAX = 200
NAME_CHARACTERS_MAX = 32


@dataclass(frozen=True, slots=True)
class Keys:
    """What verifies tokens, and for whom there are any."""

    jwks_json: str
    tenants: tuple[str, ...]
    access_version: int


@dataclass(frozen=True, slots=True)
class News:
    """`keys` is None where they are as before; `sequence` is 0 where more of the same follows."""

    sequence: int
    keys: Keys | None
    revocations: Sequence[Revocation] = ()


@dataclass(frozen=True, slots=True)
class InForce:
    """`waiting_for` names the parts of the platform that have not confirmed."""

    waiting_for: tuple[str, ...]

    @property
    def confirmed(self) -> bool:
        return not self.waiting_for


@dataclass(slots=True, eq=False)
class Follower:
    name: str
    news: asyncio.Queue[News]
    in_force: int = 0
    # Too slow: it has to begin anew.
    lost: bool = False


@dataclass(slots=True)
class Followers:
    """`expected` are the parts that a platform has: one that does not follow has not confirmed."""

    expected: Collection[str]
    _sequence: int = 1
    _following: set[Follower] = field(default_factory=set[Follower])
    _confirmed: asyncio.Event = field(default_factory=asyncio.Event)

    def publish(self, keys: Keys | None, revocations: Sequence[Revocation] = ()) -> None:
        self._sequence += 1
        for follower in self._following:
            self._hand(follower, News(self._sequence, keys, revocations))

    @contextmanager
    def following(
        self, name: str, keys: Keys, everything: Callable[[], Collection[Revocation]]
    ) -> Iterator[Follower]:
        """The follower, to whom all there is was handed. Ends with the stream."""
        if not 0 < len(name) <= NAME_CHARACTERS_MAX:
            raise InvalidInputError(
                f"{name[:NAME_CHARACTERS_MAX]!r} cannot be a follower's name.",
                which="follower",
                next_step=f"Name the part that follows, in 1 to {NAME_CHARACTERS_MAX} characters.",
            )
        if len(self._following) >= FOLLOWERS_MAX:
            raise LimitError(f"{FOLLOWERS_MAX} follow access, the most.", which="FOLLOWERS_MAX")
        follower = Follower(name, asyncio.Queue(WAITING_MAX))
        *parts, last = list(in_parts(everything(), ROWS_MAX)) or [[]]
        for part in parts:
            self._hand(follower, News(0, None, part))
        # Keys come last: a verifier without them refuses everything.
        self._hand(follower, News(self._sequence, keys, last))
        self._following.add(follower)
        try:
            yield follower
        finally:
            self._following.discard(follower)
            self._confirmed.set()

    async def news(self, follower: Follower) -> AsyncIterator[News]:
        """Ends where the follower has to begin anew."""
        while not follower.lost:
            yield await follower.news.get()

    def confirm(self, follower: Follower, sequence: int) -> None:
        """What was handed to the follower up to this is in force there."""
        follower.in_force = max(follower.in_force, min(sequence, self._sequence))
        self._confirmed.set()

    async def settled(self, within_s: float = CONFIRMED_S_MAX) -> InForce:
        """Whether all that was published so far is in force everywhere; waits for it so long."""
        wanted = self._sequence
        try:
            async with asyncio.timeout(within_s):
                while any(each.in_force < wanted for each in self._following):
                    self._confirmed.clear()
                    await self._confirmed.wait()
        except TimeoutError:
            pass
        behind = {each.name for each in self._following if each.in_force < wanted}
        absent = set(self.expected) - {each.name for each in self._following}
        return InForce(tuple(sorted(behind | absent)))

    def _hand(self, follower: Follower, news: News) -> None:
        try:
            follower.news.put_nowait(news)
        except asyncio.QueueFull:
            follower.lost = True
