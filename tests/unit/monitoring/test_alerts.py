"""Alerts are kept in order, told once, and listed a page at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from libs.common.clock import SystemClock
from libs.common.errors import InvalidInputError
from libs.common.events import ForeignModelFound, ModelGated, ModelSigned, TrainingFailed
from libs.common.journal import Journal
from services.monitoring.core.alerts import Alerts
from services.monitoring.core.news import News
from tests.support.served import NOON, open_journal


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    opened = open_journal(tmp_path)
    yield opened
    await opened.store.close()


@pytest.fixture
def alerts(journal: Journal) -> Alerts:
    return Alerts(journal, SystemClock())


async def test_pages_are_newest_first_and_hold_each_alert_once(alerts: Alerts) -> None:
    for number in range(7):
        await alerts.raise_once("acme", f"cause-{number}", "info", "test", f"{number}", "Said.")

    subjects: list[str] = []
    token = ""
    while True:
        entries, token = await alerts.page("acme", 3, token)
        subjects += [entry.state["subject"] for entry in entries]
        if not token:
            break

    assert subjects == ["6", "5", "4", "3", "2", "1", "0"]
    assert await alerts.page("umbrella", 3, "") == ([], "")


async def test_an_alert_that_comes_while_paging_moves_nothing(alerts: Alerts) -> None:
    for number in range(4):
        await alerts.raise_once("acme", f"cause-{number}", "info", "test", f"{number}", "Said.")
    _, token = await alerts.page("acme", 2, "")
    await alerts.raise_once("acme", "late", "info", "test", "late", "Said.")

    entries, _ = await alerts.page("acme", 2, token)

    assert [entry.state["subject"] for entry in entries] == ["1", "0"]


@pytest.mark.parametrize("token", ["x", "-1", "1.5", "²", "0", "2", "9" * 40, "9" * 5_000])
async def test_a_token_of_nobody_is_refused(alerts: Alerts, token: str) -> None:
    await alerts.raise_once("acme", "cause", "info", "test", "subject", "Said.")
    with pytest.raises(InvalidInputError, match="not one that this listing gave"):
        await alerts.page("acme", 2, token)


async def test_events_become_alerts_once(journal: Journal, alerts: Alerts) -> None:
    news = News(alerts)
    common = {"tenant": "acme", "at": NOON}
    failed = TrainingFailed(id="1", job="j", pipeline="p", failure="out of memory", **common)
    refused = ModelGated(
        id="2", model="m", version=1, passed=False, refusals=("accuracy 0.6 < 0.9",), **common
    )
    passed = ModelGated(id="3", model="m", version=2, passed=True, **common)
    signed = ModelSigned(
        id="4", model="m", version=2, manifest_sha256="0", approved_by="bob", key_id="k", **common
    )
    for _ in range(2):
        await news.training_failed(failed)
        await news.model_gated(refused)
        await news.model_gated(passed)
        await news.model_signed(signed)

    told = [entry.state for entry in await journal.history("acme/alerts/log")]
    assert [each["kind"] for each in told] == [
        "training.failed",
        "model.refused",
        "model.gated",
        "model.signed",
    ]
    assert "accuracy 0.6 < 0.9" in told[1]["message"]
    assert "approved by bob" in told[3]["message"]


@pytest.mark.parametrize(
    ("tenant", "told"), [("acme", ["acme", "platform"]), ("platform", ["platform"])]
)
async def test_a_foreign_model_alarms_the_platforms_people_as_well(
    journal: Journal, alerts: Alerts, tenant: str, told: list[str]
) -> None:
    event = ForeignModelFound(
        id="1", tenant=tenant, at=NOON, name="acme--boxes--v1", what="It is none of ours."
    )
    for _ in range(2):
        await News(alerts).foreign_model(event)

    for each in ("acme", "platform"):
        entries, _ = await alerts.page(each, 10, "")
        assert [entry.state["severity"] for entry in entries] == ["critical"] * told.count(each)
