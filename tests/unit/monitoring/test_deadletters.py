"""Dead letters: kept whole, listed in pages, sent again as they were."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from libs.common.clock import SystemClock
from libs.common.errors import DependencyError, InvalidInputError, NotFoundError
from libs.common.journal import Journal
from libs.common.stores.directory import DirectoryObjects
from services.monitoring.core.alerts import Alerts
from services.monitoring.core.deadletters import BODY_SHOWN_BYTES, Burial, DeadLetters, Replay
from services.monitoring.outbound.prometheus import PrometheusMeters
from tests.support.calling import called
from tests.support.served import open_journal

TOPIC = "training.failed.v1"


class Sent:
    """Takes what is published; it may be out of reach."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, str, bytes, dict[str, str]]] = []
        self.failure: Exception | None = None

    async def send(self, topic: str, key: str, body: bytes, headers: Mapping[str, str]) -> None:
        if self.failure is not None:
            raise self.failure
        self.messages.append((topic, key, body, dict(headers)))


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
def sent() -> Sent:
    return Sent()


@pytest.fixture
def replay(journal: Journal, objects: DirectoryObjects, sent: Sent) -> Replay:
    return Replay(journal, objects, sent)


def burial(offset: int = 0, body: bytes | None = None, topic: str = TOPIC) -> Burial:
    return Burial(
        topic=f"{topic}.dlq",
        partition=0,
        offset=offset,
        key="acme/j1",
        body=json.dumps({"tenant": "acme", "id": "e1"}).encode() if body is None else body,
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


async def test_it_goes_back_as_it_came_and_only_once(
    letters: DeadLetters, replay: Replay, sent: Sent
) -> None:
    body = b'{"tenant": "acme", "odd": "\xff\xfe'
    await letters.take(burial(body=body))
    letter_id = f"platform/{TOPIC}-0-{0:012d}"  # What cannot be read belongs to nobody.

    for key, already in (("one", False), ("one", False), ("two", True)):
        letter, before = await called("root", key, replay.again("platform", letter_id, "root"))
        assert letter.replayed
        assert before is already

    assert sent.messages == [(TOPIC, "acme/j1", body, {"ce_id": "e1", "traceparent": "00-abc"})]


async def test_what_kafka_did_not_take_is_not_replayed(
    letters: DeadLetters, replay: Replay, sent: Sent
) -> None:
    await letters.take(burial())
    letter_id = (await letters.page("acme", "", 1, ""))[0][0].id
    sent.failure = DependencyError("Kafka is away.", which="kafka")
    with pytest.raises(DependencyError):
        await replay.again("acme", letter_id, "ada")
    assert not (await letters.page("acme", "", 1, ""))[0][0].replayed

    sent.failure = None
    letter, already = await replay.again("acme", letter_id, "ada")
    assert letter.replayed
    assert not already
    assert len(sent.messages) == 1


async def test_tenants_have_their_own_and_the_platform_has_all(
    letters: DeadLetters, replay: Replay
) -> None:
    await letters.take(burial())
    await letters.take(burial(1, b'{"tenant": "umbrella"}'))
    await letters.take(burial(2, b"not json"))
    await letters.take(burial(3, b'{"tenant": "../../etc"}'))
    await letters.take(burial(4, b"[" * 100_000))

    assert len((await letters.page("acme", "", 50, ""))[0]) == 1
    assert len((await letters.page("platform", "", 50, ""))[0]) == 5
    foreign = f"umbrella/{TOPIC}-0-{1:012d}"
    for letter_id in (foreign, "acme/none", "none", "", "acme/../x"):
        with pytest.raises(NotFoundError):
            await replay.again("acme", letter_id, "ada")


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
    letters: DeadLetters, replay: Replay, sent: Sent
) -> None:
    body = json.dumps({"tenant": "acme", "x": "y" * 900_000}).encode()
    await letters.take(burial(body=body))

    ((letter,), _) = await letters.page("acme", "", 50, "")
    await replay.again("acme", letter.id, "ada")

    assert letter.body == body[:BODY_SHOWN_BYTES]
    assert letter.size_bytes == len(body)
    assert sent.messages[0][2] == body
