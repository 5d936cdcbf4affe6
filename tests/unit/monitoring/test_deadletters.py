"""Dead letters: kept whole, listed in pages, and their consumers told to take them again."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest

from libs.common.clock import SystemClock
from libs.common.errors import InvalidInputError, NotFoundError, PreconditionError
from libs.common.events import LetterReplayed, TrainingFailed
from libs.common.journal import Journal
from libs.common.stores.directory import DirectoryObjects
from services.monitoring.core.alerts import Alerts
from services.monitoring.core.deadletters import (
    ANOTHERS,
    BODY_SHOWN_BYTES,
    Burial,
    DeadLetters,
    Remedies,
)
from services.monitoring.outbound.prometheus import PrometheusMeters
from tests.support.calling import called
from tests.support.served import open_journal

TOPIC = "training.failed.v1"
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    opened = open_journal(tmp_path)
    yield opened
    await opened.store.close()


@pytest.fixture
def objects(tmp_path: Path) -> DirectoryObjects:
    return DirectoryObjects(tmp_path / "objects")


@pytest.fixture
def meters() -> PrometheusMeters:
    return PrometheusMeters()


@pytest.fixture
def letters(journal: Journal, objects: DirectoryObjects, meters: PrometheusMeters) -> DeadLetters:
    clock = SystemClock()
    return DeadLetters(journal, objects, Alerts(journal, clock), meters, clock)


@pytest.fixture
def remedies(journal: Journal, objects: DirectoryObjects) -> Remedies:
    return Remedies(journal, objects, SystemClock())


def failed_training(event_id: str = "e1", tenant: str = "acme") -> bytes:
    """An event that can be read."""
    event = TrainingFailed(
        id=event_id, tenant=tenant, at=NOON, job="j1", pipeline="p", failure="Out of memory."
    )
    return event.model_dump_json().encode()


def burial(offset: int = 0, body: bytes | None = None, topic: str = TOPIC) -> Burial:
    return Burial(
        topic=f"{topic}.dlq",
        partition=0,
        offset=offset,
        key="acme/j1",
        body=failed_training() if body is None else body,
        headers={
            "ce_id": "e1",
            "traceparent": "00-abc",
            "basalt-topic": topic,
            "basalt-consumer": "monitoring",
            "basalt-error": "It does not parse.",
            "basalt-tries": "3",
        },
    )


async def test_a_letter_is_kept_once_and_told(
    letters: DeadLetters, meters: PrometheusMeters, journal: Journal
) -> None:
    for _ in range(2):
        await letters.take(burial())
    await letters.take(burial(1))

    found, token = await letters.page("acme", "", 50, "")

    assert token == ""
    assert [each.id for each in found] == [f"acme/{TOPIC}-0-{offset:012d}" for offset in (0, 1)]
    first = found[0]
    assert (first.topic, first.consumer, first.error) == (TOPIC, "monitoring", "It does not parse.")
    assert (first.attempts, first.replayed) == (3, False)
    counted = f'dead_letters_total{{consumer="monitoring",topic="{TOPIC}"}} 2.0'
    assert counted in meters.exposition().decode()
    assert len(await journal.history("acme/alerts/log")) == 1  # One an hour, not one a letter.


async def told(journal: Journal) -> list[LetterReplayed]:
    """What the outbox has for consumers."""
    return [
        LetterReplayed.model_validate_json(event.payload)
        for head in await journal.heads("deadletter")
        for entry in await journal.history(head.aggregate)
        for event in entry.outbox
    ]


async def test_its_consumer_is_told_where_it_lies_and_only_once(
    letters: DeadLetters, remedies: Remedies, journal: Journal
) -> None:
    await letters.take(burial(7, body=failed_training(tenant="platform")))
    letter_id = f"platform/{TOPIC}-0-{7:012d}"

    for key, already in (("one", False), ("one", False), ("two", True)):
        letter, before = await called("root", key, remedies.replay("platform", letter_id, "root"))
        assert letter.replayed
        assert before is already

    (event,) = await told(journal)
    assert (event.topic, event.consumer, event.partition, event.offset) == (
        TOPIC,
        "monitoring",
        0,
        7,
    )
    assert (event.id, event.tenant) == (letter_id, "platform")


async def test_another_letter_at_the_same_place_is_kept_beside_the_first(
    letters: DeadLetters, remedies: Remedies, journal: Journal
) -> None:
    """As when Kafka lost the tail of its log, and it grew again."""
    bodies = [failed_training("lost"), failed_training("grown")]
    for body in [*bodies, *bodies]:
        await letters.take(burial(7, body=body))

    found, _ = await letters.page("acme", "", 50, "")
    for each in found:
        await called("root", each.id, remedies.replay("acme", each.id, "root"))

    assert sorted(each.body for each in found) == sorted(bodies)
    digests = sorted(sha256(each).hexdigest() for each in bodies)
    asked = await told(journal)
    assert sorted(each.body_sha256 for each in asked) == digests
    assert {(each.topic, each.partition, each.offset) for each in asked} == {(TOPIC, 0, 7)}


async def test_a_letter_that_no_consumer_can_take_is_not_replayed(
    letters: DeadLetters, remedies: Remedies, journal: Journal, objects: DirectoryObjects
) -> None:
    await letters.take(burial(topic="model.ended.v1"))
    await letters.take(burial(topic="drift.detected.v1"))  # `monitoring` does not consume it.
    await letters.take(burial())
    for topic in ("model.ended.v1", "drift.detected.v1"):
        with pytest.raises(PreconditionError, match=f"Nobody consumes {topic} as monitoring did"):
            await remedies.replay("acme", f"acme/{topic}-0-{0:012d}", "ada")
    late = Remedies(journal, objects, Later())
    with pytest.raises(PreconditionError, match="Kafka keeps them for 30 days"):
        await late.replay("acme", f"acme/{TOPIC}-0-{0:012d}", "ada")
    assert not [letter for letter in (await letters.page("acme", "", 9, ""))[0] if letter.replayed]
    assert await told(journal) == []


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'{"tenant": "acme", "odd": "\xff\xfe', "its beginning"),
        (b'{"tenant": "acme", "id": "e1"}', "Field required, at at"),
        (failed_training().replace(b'"p"', b"7"), "at pipeline"),
        (b'{"tenant": "acme", "padding": "%s"}' % (b"x" * BODY_SHOWN_BYTES), "Field required"),
    ],
)
async def test_a_letter_that_can_never_be_read_says_so_and_can_be_discarded(
    letters: DeadLetters, remedies: Remedies, journal: Journal, body: bytes, why: str
) -> None:
    await letters.take(burial(body=body))
    tenant = "platform" if b"odd" in body else "acme"
    ((letter,), _) = await letters.page(tenant, "", 9, "")
    # A long body is read when somebody asks only.
    assert (why in letter.hopeless) or len(body) > BODY_SHOWN_BYTES

    with pytest.raises(PreconditionError, match=why):
        await remedies.replay(tenant, letter.id, "ada")
    assert await told(journal) == []

    for key, already in (("one", False), ("one", False), ("two", True)):
        gone, before = await called("ada", key, remedies.discard(tenant, letter.id, "ada"))
        assert gone.discarded
        assert before is already
    with pytest.raises(PreconditionError, match="was discarded"):
        await remedies.replay(tenant, letter.id, "ada")


async def test_what_its_consumer_takes_again_is_not_discarded(
    letters: DeadLetters, remedies: Remedies
) -> None:
    await letters.take(burial())
    ((letter,), _) = await letters.page("acme", "", 9, "")
    assert letter.hopeless == ""
    await remedies.replay("acme", letter.id, "ada")
    with pytest.raises(PreconditionError, match="was replayed"):
        await remedies.discard("acme", letter.id, "ada")
    with pytest.raises(NotFoundError):
        await remedies.discard("umbrella", letter.id, "ada")


class Later(SystemClock):
    def now(self) -> datetime:
        return super().now() + timedelta(days=30)


async def test_tenants_have_their_own_and_the_platform_has_all(
    letters: DeadLetters, remedies: Remedies
) -> None:
    await letters.take(burial())
    await letters.take(burial(1, b'{"tenant": "umbrella"}'))
    await letters.take(burial(2, b"not json"))
    await letters.take(burial(3, b'{"tenant": "../../etc"}'))
    await letters.take(burial(4, b"[" * 100_000))

    assert len((await letters.page("acme", "", 50, ""))[0]) == 1
    seen, _ = await letters.page("platform", "", 50, "")
    assert len(seen) == 5
    # Of another tenant's, that it is there; of its own, all.
    for letter in seen:
        own = letter.id.startswith("platform/")
        assert (letter.body != b"", letter.error == ANOTHERS) == (own, not own)
        assert letter.size_bytes > 0
    foreign = f"umbrella/{TOPIC}-0-{1:012d}"
    for letter_id in (foreign, "acme/none", "none", "", "acme/../x"):
        with pytest.raises(NotFoundError):
            await remedies.replay("acme", letter_id, "ada")


async def test_pages_by_topic(letters: DeadLetters) -> None:
    for offset in range(5):
        await letters.take(burial(offset))
        await letters.take(burial(offset, topic="model.gated.v1"))

    seen: list[str] = []
    token = ""
    while True:
        page, token = await letters.page("acme", TOPIC, 2, token)
        assert len(page) <= 2
        seen += [each.id for each in page]
        if not token:
            break

    assert seen == [f"acme/{TOPIC}-0-{offset:012d}" for offset in range(5)]
    for wrong in ("x", f"umbrella/{TOPIC}-0-1"):
        with pytest.raises(InvalidInputError):
            await letters.page("acme", "", 2, wrong)


async def test_a_listing_shows_the_beginning_of_a_large_body(
    letters: DeadLetters, objects: DirectoryObjects
) -> None:
    body = json.dumps({"tenant": "acme", "x": "y" * 900_000}).encode()
    await letters.take(burial(body=body))

    ((letter,), _) = await letters.page("acme", "", 50, "")

    assert letter.body == body[:BODY_SHOWN_BYTES]
    assert letter.size_bytes == len(body)
    assert await objects.get(f"acme/deadletter/{sha256(body).hexdigest()}") == body
