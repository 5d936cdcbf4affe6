"""Wrong passwords are counted by name, whether or not there is such a user."""

from __future__ import annotations

from collections import OrderedDict, deque

from libs.common.clock import Clock
from libs.common.errors import LimitError

WRONG_PASSWORDS_MAX = 10
WRONG_PASSWORDS_WINDOW_S = 300.0
# The names that were tried longest ago are forgotten first.
NAMES_MAX = 50_000


class Throttle:
    """Of this process: with several replicas, each counts for itself."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._wrong: OrderedDict[tuple[str, str], deque[float]] = OrderedDict()

    def admit(self, tenant: str, name: str) -> None:
        """Raises LimitError while a name has had too many wrong passwords, right ones too."""
        wrong = self._recent(tenant, name)
        if len(wrong) >= WRONG_PASSWORDS_MAX:
            wait_s = wrong[0] + WRONG_PASSWORDS_WINDOW_S - self._clock.monotonic()
            raise LimitError(
                f"{WRONG_PASSWORDS_MAX} wrong passwords within {WRONG_PASSWORDS_WINDOW_S:.0f} s.",
                which="WRONG_PASSWORDS_MAX",
                next_step=f"Try again in {max(1, round(wait_s))} s.",
            )

    def count(self, tenant: str, name: str) -> None:
        """One more wrong password; counted before it is checked, so that many at once count too."""
        wrong = self._recent(tenant, name)
        wrong.append(self._clock.monotonic())
        self._wrong[(tenant, name)] = wrong
        self._wrong.move_to_end((tenant, name))
        if len(self._wrong) > NAMES_MAX:
            self._wrong.popitem(last=False)

    def forget(self, tenant: str, name: str) -> None:
        self._wrong.pop((tenant, name), None)

    def _recent(self, tenant: str, name: str) -> deque[float]:
        wrong = self._wrong.get((tenant, name), deque[float]())
        since = self._clock.monotonic() - WRONG_PASSWORDS_WINDOW_S
        while wrong and wrong[0] <= since:
            wrong.popleft()
        return wrong
