"""When a process is taken for hung, and when the machine for slow."""

from __future__ import annotations

import pytest

from standalone.keeper import (
    PATIENT_S,
    PROBE_EVERY_S,
    SILENCES_MAX,
    SILENCES_MAX_MAX,
    STOPPED_LOOKS_MAX,
    Silences,
)
from tools.servers import waiting


class Machine:
    def __init__(self, load: float = 0.0) -> None:
        self.load, self.now = load, 0.0
        self.silences = Silences(lambda: self.load, lambda: self.now)

    def until_given_up(self) -> int:
        """How many calls in a row it may leave unanswered."""
        count = 1
        while not self.silences.another():
            count += 1
        return count


def test_one_answer_in_time_makes_up_for_those_that_were_not() -> None:
    machine = Machine()
    for _ in range(10):
        assert [machine.silences.another() for _ in range(SILENCES_MAX - 1)] == [""] * (
            SILENCES_MAX - 1
        )
        machine.silences.forget()
    assert machine.until_given_up() == SILENCES_MAX


def test_what_is_soon_silent_again_is_borne_longer_each_time_within_a_bound() -> None:
    machine, borne = Machine(), []
    for _ in range(8):
        borne.append(machine.until_given_up())
        machine.silences.bear_more()
        machine.now += 20
        machine.silences.forget()
    assert borne == [3, 6, 12, 24, 48, 48, 48, 48]
    assert max(borne) == SILENCES_MAX_MAX


def test_what_answered_long_enough_is_judged_anew() -> None:
    machine = Machine()
    machine.until_given_up()
    machine.silences.bear_more()
    machine.now += PATIENT_S + 1
    machine.silences.forget()
    assert machine.until_given_up() == SILENCES_MAX


def test_on_a_busy_machine_more_is_borne() -> None:
    assert Machine(load=10.0).until_given_up() == 2 * SILENCES_MAX


def test_a_stopped_process_is_known_soon_and_is_not_slow() -> None:
    machine = Machine(load=100.0)
    said = [machine.silences.stopped() for _ in range(STOPPED_LOOKS_MAX)]
    assert said[:-1] == [""] * (STOPPED_LOOKS_MAX - 1)
    assert "SIGSTOP" in said[-1]
    machine.silences.bear_more()
    machine.load = 0.0
    assert machine.until_given_up() == SILENCES_MAX


def test_a_process_that_refuses_at_once_is_not_slow() -> None:
    """As one whose socket was removed: it is brought back as soon as the first time, each time."""
    machine = Machine(load=100.0)
    for _ in range(5):
        said = [machine.silences.another(late=False) for _ in range(SILENCES_MAX)]
        assert said[:-1] == [""] * (SILENCES_MAX - 1)
        assert said[-1]
        machine.silences.bear_more()
    machine.load = 0.0
    assert machine.until_given_up() == SILENCES_MAX


def test_a_hung_process_is_seen_within_seconds() -> None:
    # On a quiet machine; each call is given up after less than two seconds.
    assert STOPPED_LOOKS_MAX * PROBE_EVERY_S <= 2.0
    assert SILENCES_MAX * (PROBE_EVERY_S + 1.5) <= 8.0


@pytest.mark.parametrize(("load", "slowness"), [(0.1, 1.0), (2.0, 1.0), (6.0, 3.0), (90.0, 5.0)])
def test_a_busy_machine_is_given_longer_to_start_within_a_bound(
    monkeypatch: pytest.MonkeyPatch, load: float, slowness: float
) -> None:
    monkeypatch.setattr(waiting, "load_of_machine", lambda: load)
    assert waiting.slowness() == slowness
