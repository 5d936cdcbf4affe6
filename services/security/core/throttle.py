"""Wrong passwords make whoever sends them wait, longer each time; nobody else.

Counted are passwords that were judged to be wrong, by address and name together, and by address
alone for whoever tries many names; whether or not there is such a user. A name by itself is never
made to wait: a stranger could keep its owner out. An address from which somebody has come in
before goes on for them, whatever else comes from there.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from libs.common.clock import Clock
from libs.common.errors import LimitError

# Wrong ones without a wait, by address and name, and by address.
WRONG_PASSWORDS_MAX = 5
WRONG_PASSWORDS_OF_ADDRESS_MAX = 50
# The first wait; each further wrong one doubles it, up to the most.
WAIT_S = 1.0
WAIT_S_MAX = 300.0
WAIT_OF_ADDRESS_S_MAX = 30.0
# Without a wrong one for so long, counting begins anew.
FORGET_S = 3_600.0
# Of each kind that are remembered; those that were heard of longest ago are forgotten first.
REMEMBERED_MAX = 50_000
# Who has one IPv6 address has at least a network of them.
IPV6_NETWORK_BITS = 64

K = TypeVar("K")
V = TypeVar("V")


@dataclass(slots=True)
class _Count:
    wrong: int = 0
    # By the monotonic clock.
    last: float = 0.0
    # Being judged at this moment: as good as wrong until the judgement, so that many at once wait.
    judging: int = 0


@dataclass(slots=True)
class Attempt:
    """`right` is None until the password was judged."""

    right: bool | None = None

    def judged(self, *, right: bool) -> None:
        self.right = right


@dataclass(slots=True)
class Throttle:
    """Of this process: with several replicas, each counts for itself."""

    clock: Clock
    _by_name: OrderedDict[tuple[str, str, str], _Count] = field(default_factory=OrderedDict)
    _by_address: OrderedDict[str, _Count] = field(default_factory=OrderedDict)
    _came_in: OrderedDict[tuple[str, str, str], None] = field(default_factory=OrderedDict)

    @contextmanager
    def attempt(self, address: str, tenant: str, name: str) -> Iterator[Attempt]:
        """Around judging a password. Raises LimitError while there is a wait.

        What ends without a judgement, as when too many passwords wait for theirs, counts nothing.
        """
        network = _network(address)
        key = (network, tenant, name)
        pair = self._count(self._by_name, key)
        counts = [(pair, WRONG_PASSWORDS_MAX, WAIT_S_MAX)]
        of_address = self._count(self._by_address, network)
        if key not in self._came_in:
            counts.append((of_address, WRONG_PASSWORDS_OF_ADDRESS_MAX, WAIT_OF_ADDRESS_S_MAX))
        for count, free, wait_s_max in counts:
            self._require_no_wait(count, free, wait_s_max)
        attempt = Attempt()
        pair.judging += 1
        of_address.judging += 1
        try:
            yield attempt
        finally:
            pair.judging -= 1
            of_address.judging -= 1
            if attempt.right:
                self._by_name.pop(key, None)
                _remember(self._came_in, key, None)
            elif attempt.right is False:
                for count in (pair, of_address):
                    count.wrong += 1
                    count.last = self.clock.monotonic()

    def _require_no_wait(self, count: _Count, free: int, wait_s_max: float) -> None:
        if count.wrong + count.judging < free:
            return
        over = count.wrong - free
        wait_s = WAIT_S
        if over >= 0:
            # The exponent is bounded, as the number it makes would not be.
            since_s = self.clock.monotonic() - count.last
            wait_s = min(WAIT_S * 2.0 ** min(over, 32), wait_s_max) - since_s
            if wait_s <= 0 and not count.judging:
                return
        raise LimitError(
            f"{count.wrong} wrong passwords came from this address, and {count.judging} more are"
            " being checked at this moment."
            if count.judging
            else f"{count.wrong} wrong passwords came from this address.",
            which="WRONG_PASSWORDS_MAX",
            next_step=f"Try again in {max(1, round(wait_s))} s.",
        )

    def _count(self, counts: OrderedDict[K, _Count], key: K) -> _Count:
        count = counts.get(key)
        ago = self.clock.monotonic() - count.last if count else 0.0
        if count is None or (ago > FORGET_S and not count.judging):
            count = _Count()
        _remember(counts, key, count)
        return count


def _remember(remembered: OrderedDict[K, V], key: K, value: V) -> None:
    remembered[key] = value
    remembered.move_to_end(key)
    if len(remembered) > REMEMBERED_MAX:
        remembered.popitem(last=False)


def _network(address: str) -> str:
    """Whom an address stands for; "" where it is not known."""
    try:
        at = ipaddress.ip_address(address)
    except ValueError:
        return address
    if at.version == 4:
        return address
    return str(ipaddress.ip_network((at, IPV6_NETWORK_BITS), strict=False))
