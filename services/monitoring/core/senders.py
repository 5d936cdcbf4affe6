"""Whose spans are taken in: those of known senders, in their own names, and not too many."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from libs.common import senders
from libs.common.errors import LimitError, UnauthenticatedError
from services.monitoring.core.spans import SPANS_WAITING_MAX, Span

if TYPE_CHECKING:
    from services.monitoring.ports import Meters

# Of each sender: what it may send for ever, and at once after a silence.
SPANS_PER_S_MAX = 5_000
# A sender that has been silent takes no other's place among those that wait to be written.
SPANS_AT_ONCE_MAX = SPANS_WAITING_MAX // 5
BYTES_PER_S_MAX = 4 * 1024 * 1024
BYTES_AT_ONCE_MAX = 64 * 1024 * 1024
# A name takes whoever holds the key to make it known; this many are remembered at a time.
SENDERS_MAX = 1_000


class Refused(enum.StrEnum):
    """Why spans were not taken in: the label of their counter."""

    UNKNOWN_SENDER = "unknown_sender"
    FOREIGN_NAME = "foreign_name"
    TOO_MUCH = "too_much"
    MALFORMED = "malformed"


@dataclass(slots=True)
class _Allowance:
    """A bucket that fills with time: RFC 2697's, without colours."""

    per_s: float
    most: float
    left: float = field(init=False)
    at: float = 0.0

    def __post_init__(self) -> None:
        self.left = self.most

    def take(self, amount: int, now: float) -> bool:
        self.left = min(self.most, self.left + (now - self.at) * self.per_s)
        self.at = now
        if amount > self.left:
            return False
        self.left -= amount
        return True


@dataclass(slots=True)
class _Sender:
    bytes: _Allowance = field(
        default_factory=lambda: _Allowance(BYTES_PER_S_MAX, BYTES_AT_ONCE_MAX)
    )
    spans: _Allowance = field(
        default_factory=lambda: _Allowance(SPANS_PER_S_MAX, SPANS_AT_ONCE_MAX)
    )


class Senders:
    """`monotonic` is the clock that only grows. Errors say what a sender may do; strangers little.

    Call `known` before a body is read, `weighed` before it is parsed, `own` before it is stored.
    """

    def __init__(self, key: str, meters: Meters, monotonic: Callable[[], float]) -> None:
        self._key = key
        self._meters = meters
        self._monotonic = monotonic
        self._senders: dict[str, _Sender] = {}

    def known(self, authorization: str) -> str:
        """Whose the header is. Raises UnauthenticatedError."""
        sender = senders.sender_of(self._key, authorization)
        if not sender:
            self._meters.spans_refused(Refused.UNKNOWN_SENDER, 1)
            raise UnauthenticatedError(
                "Spans are taken in from known senders only.",
                which="otlp",
                next_step="Send `authorization: Bearer <token>`; BASALT_OTLP_TOKEN has ours.",
            )
        return sender

    def weighed(self, sender: str, size: int) -> None:
        """Raises LimitError when `sender` has sent too many bytes lately."""
        if not self._allowances(sender).bytes.take(size, self._monotonic()):
            self._meters.spans_refused(Refused.TOO_MUCH, 1)
            raise self._too_much(sender, f"{BYTES_PER_S_MAX} bytes")

    def own(self, sender: str, spans: Sequence[Span], malformed: int) -> tuple[list[Span], int]:
        """The spans that `sender` may send, and the number of the others, `malformed` included.

        Raises LimitError when there were too many lately.
        """
        # A request of more would be refused whenever it came; what is not kept of it is counted.
        amount = min(len(spans) + malformed, SPANS_AT_ONCE_MAX)
        if not self._allowances(sender).spans.take(amount, self._monotonic()):
            self._meters.spans_refused(Refused.TOO_MUCH, len(spans))
            raise self._too_much(sender, f"{SPANS_PER_S_MAX} spans")
        taken = [each for each in spans if sender in (each.service, senders.COLLECTOR)]
        foreign = len(spans) - len(taken)
        if foreign:
            self._meters.spans_refused(Refused.FOREIGN_NAME, foreign)
        if malformed:
            self._meters.spans_refused(Refused.MALFORMED, malformed)
        return taken, foreign + malformed

    def _allowances(self, sender: str) -> _Sender:
        found = self._senders.pop(sender, None) or _Sender()
        self._senders[sender] = found
        if len(self._senders) > SENDERS_MAX:
            del self._senders[next(iter(self._senders))]
        return found

    @staticmethod
    def _too_much(sender: str, limit: str) -> LimitError:
        return LimitError(
            f"{sender} sends more than {limit} a second.",
            which="otlp",
            next_step="Sample fewer traces, or send later.",
        )
