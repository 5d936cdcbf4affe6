"""One answer of many: the wrong ones first, the worst report of each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from libs.common.clock import SystemClock
from libs.common.errors import DependencyError, PreconditionError
from libs.common.history import Happening
from libs.common.journal import Journal
from services.monitoring.core.alerts import Alerts
from services.monitoring.core.components import Component, State
from services.monitoring.core.health import Changes, HealthWatch, PlatformHealth, overall, page_of
from services.monitoring.outbound.prometheus import PrometheusMeters
from tests.support.served import NOON, open_journal


class Reports:
    """What each service reports, as the test says it; one that is missing does not answer."""

    def __init__(self, **reports: dict[str, State]) -> None:
        self.reports = reports

    async def ask(self, service: str) -> Sequence[Component]:
        if service not in self.reports:
            raise DependencyError(f"The service {service} cannot be reached.", which=service)
        return [
            Component(name, state, "" if state is State.SERVING else "Broken.", NOON, service)
            for name, state in self.reports[service].items()
        ]


def health(reports: Reports, *services: str) -> PlatformHealth:
    return PlatformHealth(services, reports, SystemClock())


async def test_the_wrong_ones_come_first_and_the_worst_report_counts() -> None:
    reports = Reports(
        ingest={"ingest": State.SERVING, "kafka": State.SERVING},
        trainer={"trainer": State.DEGRADED, "kafka": State.NOT_SERVING},
        inference={"inference": State.SERVING, "kafka": State.SERVING, "triton": State.SERVING},
    )

    seen = await health(reports, "ingest", "trainer", "inference", "gateway").look()

    assert [(each.name, each.state) for each in seen] == [
        ("gateway", State.NOT_SERVING),
        ("kafka", State.NOT_SERVING),
        ("trainer", State.DEGRADED),
        ("inference", State.SERVING),
        ("ingest", State.SERVING),
        ("triton", State.SERVING),
    ]
    assert seen[1].reported_by == "trainer"
    assert "cannot be reached" in seen[0].problem
    assert "start it again" in seen[0].problem
    assert overall(seen) is State.NOT_SERVING


async def test_who_agrees_is_named_together() -> None:
    reports = Reports(ingest={"kafka": State.SERVING}, trainer={"kafka": State.SERVING})

    (kafka,) = await health(reports, "ingest", "trainer").look()

    assert kafka.reported_by == "ingest, trainer"
    assert overall([kafka]) is State.SERVING


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    opened = open_journal(tmp_path)
    yield opened
    await opened.store.close()


async def test_a_component_that_stays_down_is_told_once(journal: Journal) -> None:
    reports = Reports(ingest={"ingest": State.SERVING, "kafka": State.SERVING})
    meters = PrometheusMeters()
    watch = HealthWatch(health(reports, "ingest"), meters, Alerts(journal, SystemClock()))
    await watch.look()
    reports.reports["ingest"]["kafka"] = State.NOT_SERVING
    await watch.look()
    assert await journal.latest("platform/alerts/log") is None  # Perhaps it is only restarted.

    for _ in range(3):
        await watch.look()

    (alert,) = await journal.history("platform/alerts/log")
    assert (alert.state["kind"], alert.state["subject"]) == ("component.down", "kafka")
    assert b'basalt_component_up{name="kafka"} 0.0' in meters.exposition()
    assert b'basalt_component_up{name="ingest"} 1.0' in meters.exposition()


class Noted:
    def __init__(self) -> None:
        self.happenings: list[Happening] = []

    def note(self, happening: Happening) -> None:
        self.happenings.append(happening)

    def newest(self, count_max: int) -> list[Happening]:
        return self.happenings[::-1][:count_max]

    def told(self) -> list[tuple[str, str]]:
        return [(each.component, each.kind) for each in self.happenings]


async def test_each_change_is_a_line_of_the_history(journal: Journal) -> None:
    reports = Reports(ingest={"ingest": State.SERVING, "kafka": State.SERVING})
    noted = Noted()
    changes = Changes(noted, SystemClock())
    watch = HealthWatch(
        health(reports, "ingest"), PrometheusMeters(), Alerts(journal, SystemClock()), changes
    )
    for state in (State.SERVING, State.DEGRADED, State.DEGRADED, State.NOT_SERVING, State.SERVING):
        reports.reports["ingest"]["kafka"] = state
        await watch.look()
        await watch.look()

    assert noted.told() == [
        ("kafka", "degraded"),
        ("kafka", "not serving"),
        ("kafka", "serves again"),
    ]
    assert noted.happenings[-1].took_s > 0


@pytest.mark.parametrize("name", ["disk", "ingest"])
async def test_what_is_wrong_while_it_still_serves_is_alerted(journal: Journal, name: str) -> None:
    """A disk with little room; a service one of whose partitions cannot be read."""
    reports = Reports(ingest={"ingest": State.SERVING, name: State.DEGRADED})
    watch = HealthWatch(
        health(reports, "ingest"), PrometheusMeters(), Alerts(journal, SystemClock())
    )
    for _ in range(4):
        await watch.look()

    (alert,) = await journal.history("platform/alerts/log")
    assert (alert.state["kind"], alert.state["severity"]) == ("component.low", "warning")
    assert alert.state["subject"] == name


def test_the_history_is_given_in_pages() -> None:
    noted = Noted()
    for number in range(5):
        noted.note(Happening(SystemClock().now(), f"c{number}", "died"))
    first, token = page_of(noted, "clinic", 2, "")
    second, last = page_of(noted, "clinic", 3, token)
    assert [each.component for each in first + second] == ["c4", "c3", "c2", "c1", "c0"]
    assert last == ""
    with pytest.raises(PreconditionError, match="keeps no history"):
        page_of(None, "clinic", 2, "")


@pytest.mark.parametrize(
    "problem",
    [
        "The log of upstream.hospital.beds/2 lost its end: 215 records of it were read.",
        "upstream.clinic.a/0 waits. The log of upstream.hospital.beds/2 lost its end.",
        "hospital--tumour--v3 cannot be loaded: its signature does not hold.",
        "hospital/dataset/beds changed 12 times while this call tried to change it.",
        "The audit log of hospital was cut or rewritten before its record 72.",
        "Record 7 of the audit log of hospital is missing.",
        "The door's configuration is refused: hospital/model/tumour has two routes.",
    ],
)
def test_a_tenant_is_told_of_its_own_problems_alone(problem: str) -> None:
    component = Component("ingest", State.DEGRADED, problem, NOON, "ingest")

    told = component.told_to("clinic")

    assert "hospital" not in told.problem
    assert told.problem
    assert told.state is State.DEGRADED
    assert component.told_to("platform") == component
    noted = Noted()
    noted.note(Happening(NOON, "ingest", "degraded", problem))
    ((happened,), _) = page_of(noted, "clinic", 1, "")
    assert happened.detail == told.problem
    ((happened,), _) = page_of(noted, "platform", 1, "")
    assert happened.detail == problem
    if "clinic" not in problem:
        assert component.told_to("hospital") == component


@pytest.mark.parametrize("problem", ["", "kafka cannot be reached.", "It answers in 1/2 of cases."])
def test_what_is_everybodys_is_told_to_everybody(problem: str) -> None:
    component = Component("kafka", State.NOT_SERVING, problem, NOON, "ingest")

    assert component.told_to("clinic") == component
