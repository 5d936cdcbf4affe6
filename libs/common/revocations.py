"""Which tokens are not taken any more although they have not expired.

    token     one token or API key, by its id
    login     every token of one login, however often it is renewed
    subject   every token that a user got before something about them changed: those of an older
              generation; however many there are, and however often it changes, one row

A row is dropped when the last token that it concerns has expired. Adding one and asking cost the
same with a hundred thousand of them as with one.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

# Of the clocks of the platform's machines, either way.
CLOCK_SKEW_S = 30


@dataclass(frozen=True, slots=True)
class Revocation:
    """One row: `token_id`, `login_id`, or `subject` with `generation`; the others are empty.

    `until` is in seconds since 1970: when the last token that it concerns has expired. `subject`
    is "<tenant>/<name>"; tokens of an older generation than `generation` are refused.
    """

    until: float
    token_id: str = ""
    login_id: str = ""
    subject: str = ""
    generation: int = 0

    @property
    def key(self) -> tuple[str, str]:
        if self.token_id:
            return ("token", self.token_id)
        return ("login", self.login_id) if self.login_id else ("subject", self.subject)


class Revocations:
    def __init__(self, now: Callable[[], float] | None = None) -> None:
        """`now`: seconds since 1970; the machine's clock unless said otherwise."""
        self._now = now or (lambda: time.time())
        self._rows: dict[tuple[str, str], Revocation] = {}
        self._generations: dict[str, int] = {}
        self._ends: list[tuple[float, tuple[str, str]]] = []

    def add(self, *revocations: Revocation) -> list[Revocation]:
        """Those that were not known yet; a row only ever grows in what it refuses."""
        self.forget_expired()
        return [each for each in revocations if self._add(each)]

    def is_news(self, revocation: Revocation) -> bool:
        """Whether it concerns tokens that could still be taken."""
        if revocation.until + CLOCK_SKEW_S < self._now():
            return False
        known = self._rows.get(revocation.key)
        return (
            known is None
            or known.generation < revocation.generation
            or known.until < revocation.until
        )

    def _add(self, new: Revocation) -> bool:
        if not self.is_news(new):
            return False
        if (known := self._rows.get(new.key)) is not None:
            until = max(known.until, new.until)
            new = replace(new, until=until, generation=max(known.generation, new.generation))
        self._rows[new.key] = new
        if new.subject:
            self._generations[new.subject] = new.generation
        heapq.heappush(self._ends, (new.until, new.key))
        return True

    def refuses(self, token_id: str, login_id: str, subject: str, generation: int) -> bool:
        """Whether a token that says this of itself was revoked."""
        if not self._rows:
            return False
        return (
            ("token", token_id) in self._rows
            or generation < self._generations.get(subject, 0)
            or (login_id != "" and ("login", login_id) in self._rows)
        )

    def forget_expired(self) -> None:
        ended = self._now() - CLOCK_SKEW_S
        while self._ends and self._ends[0][0] < ended:
            until, key = heapq.heappop(self._ends)
            row = self._rows.get(key)
            if row is not None and row.until <= until:
                del self._rows[key]
                self._generations.pop(row.subject, None)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Revocation]:
        return iter(list(self._rows.values()))


def in_parts(revocations: Iterable[Revocation], rows_max: int) -> Iterator[list[Revocation]]:
    """Lists of at most `rows_max`, none of them empty."""
    part: list[Revocation] = []
    for each in revocations:
        part.append(each)
        if len(part) == rows_max:
            yield part
            part = []
    if part:
        yield part
