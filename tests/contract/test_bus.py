"""What the bus promises, on a real Kafka: at least once, in order, and no event lost."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from uuid import uuid4

import pytest
from aiokafka.structs import TopicPartition

from libs.common import bus as bus_module
from libs.common import publishing, telemetry
from libs.common.bus import Bus, Router
from libs.common.errors import DependencyError, InvalidInputError, NotFoundError
from libs.common.events import DatasetVersioned
from libs.common.flow import Topic, consumer_group
from libs.common.identity import acting_tenant
from libs.common.kafka import KafkaAccess
from libs.common.stores.ports import Outgoing
from tests.support.entries import dataset_versioned
from tests.support.eventually import eventually
from tests.support.kafka import (
    committed_of,
    count_of,
    header,
    read,
    sender,
    started,
    topic_of_a_test,
    write,
)
from tests.support.topics import make_for
from tests.support.tracing import Spans
from tools.servers import Kafka


def outgoing(topic: Topic, event: DatasetVersioned, key: str = "") -> Outgoing:
    return Outgoing(
        event_id=event.id,
        topic=topic.name,
        key=key or topic.key_of(event),
        payload=event.model_dump_json(),
        traceparent=telemetry.traceparent(),
    )


@pytest.fixture
def group() -> str:
    return f"group-{uuid4().hex}"


@pytest.fixture
def topic(group: str) -> Topic:
    return topic_of_a_test(group)


class Collector:
    """A consumer that keeps the ids it was given; it may refuse some."""

    def __init__(self, bootstrap: str, group: str, topic: Topic) -> None:
        self.ids: list[str] = []
        self.tenants: list[str] = []
        self.tries = 0
        self.refusal: Exception | None = None
        self.refused_ids: set[str] = set()
        router = Router(group)

        @router.subscriber(topic)
        async def collect(event: DatasetVersioned) -> None:
            self.tries += 1
            if self.refusal is not None and event.id in self.refused_ids:
                raise self.refusal
            self.ids.append(event.id)
            self.tenants.append(acting_tenant())

        self.bus = Bus(KafkaAccess(bootstrap), router)


@pytest.fixture
def collector(kafka: Kafka, group: str, topic: Topic) -> Collector:
    return Collector(kafka.bootstrap, group, topic)


async def test_an_event_arrives_and_is_handled_for_its_tenant(
    collector: Collector, topic: Topic
) -> None:
    async with started(collector.bus) as bus:
        await bus.publish(outgoing(topic, dataset_versioned("one", tenant="beta")))

        await eventually(lambda: collector.ids == ["one"])

    assert collector.tenants == ["beta"]


async def test_events_of_a_key_arrive_in_order(collector: Collector, topic: Topic) -> None:
    keys = [f"key-{number}" for number in range(5)]
    async with started(collector.bus) as bus:

        async def publish(key: str) -> None:
            for number in range(40):
                await bus.publish(outgoing(topic, dataset_versioned(f"{key}/{number}"), key))

        await asyncio.gather(*map(publish, keys))
        await eventually(lambda: len(collector.ids) >= 200, within_s=30)

    for key in keys:
        of_key = [each for each in collector.ids if each.startswith(f"{key}/")]
        assert of_key == [f"{key}/{number}" for number in range(40)]


async def test_on_the_wire_an_event_is_a_cloud_event(kafka: Kafka, topic: Topic) -> None:
    router = Router("ingest")
    router.topics[topic.name] = topic
    event = dataset_versioned("one")
    async with started(Bus(KafkaAccess(kafka.bootstrap), router)) as bus:
        await bus.publish(outgoing(topic, event))

    (record,) = await read(kafka.bootstrap, topic.name, 1)
    assert header(record, "ce_specversion") == "1.0"
    assert header(record, "ce_id") == "one"
    assert header(record, "ce_type") == topic.name
    assert header(record, "ce_source") == "/basalt/ingest"
    assert header(record, "content-type") == "application/json"
    assert record.key == b"acme/measurements"
    assert DatasetVersioned.model_validate_json(record.value or b"") == event


async def test_a_poison_message_goes_to_the_dead_letters_and_the_next_is_handled(
    kafka: Kafka, collector: Collector, topic: Topic, group: str
) -> None:
    async with started(collector.bus) as bus:
        await write(kafka.bootstrap, topic.name, [(b"\xff{not json", [("ce_id", b"bad")])])
        await bus.publish(outgoing(topic, dataset_versioned("good")))

        (letter,) = await read(kafka.bootstrap, topic.dead_letters, 1)
        await eventually(lambda: collector.ids == ["good"])

    assert letter.value == b"\xff{not json"
    assert letter.key == b"acme/measurements"
    assert header(letter, "ce_id") == "bad"
    assert header(letter, "basalt-topic") == topic.name
    assert header(letter, "basalt-consumer") == group
    assert header(letter, "basalt-offset") == "0"
    assert header(letter, "basalt-tries") == "1"
    assert "not a DatasetVersioned" in header(letter, "basalt-error")


@pytest.mark.parametrize(
    ("error", "tries"),
    [(InvalidInputError("No."), 1), (NotFoundError("Gone."), 3), (ZeroDivisionError("Oh."), 3)],
)
async def test_an_error_that_stays_is_tried_again_then_dead_lettered(
    kafka: Kafka, collector: Collector, topic: Topic, error: Exception, tries: int
) -> None:
    collector.refusal, collector.refused_ids = error, {"bad"}
    async with started(collector.bus) as bus:
        for id_ in ("bad", "good"):
            await bus.publish(outgoing(topic, dataset_versioned(id_)))

        (letter,) = await read(kafka.bootstrap, topic.dead_letters, 1)
        await eventually(lambda: collector.ids == ["good"])

    assert collector.tries == tries + 1
    assert header(letter, "basalt-tries") == str(tries)
    assert header(letter, "basalt-error") == str(error)


async def test_headers_that_cannot_be_read_lose_nothing(
    kafka: Kafka, collector: Collector, topic: Topic
) -> None:
    body = dataset_versioned("good").model_dump_json().encode()
    odd = [("traceparent", b"\xff\xfe"), ("nothing", None), ("ce_id", b"\x00\xff")]
    async with started(collector.bus):
        await write(
            kafka.bootstrap,
            topic.name,
            [(body, odd), (b"poison", odd), (None, odd), (None, []), (body, [])],
        )

        letters = await read(kafka.bootstrap, topic.dead_letters, 3)
        await eventually(lambda: collector.ids == ["good", "good"])

    assert [letter.value for letter in letters] == [b"poison", b"", b""]
    assert header(letters[0], "ce_id") == "\x00\N{REPLACEMENT CHARACTER}"


async def test_the_largest_message_that_kafka_takes_fits_among_the_dead_letters(
    kafka: Kafka, collector: Collector, topic: Topic
) -> None:
    body = b"x" * (1024 * 1024 - 200)
    async with started(collector.bus):
        await write(kafka.bootstrap, topic.name, [(body, [])])

        (letter,) = await read(kafka.bootstrap, topic.dead_letters, 1)

    assert letter.value == body


async def test_a_message_that_is_too_large_is_refused_and_the_bus_goes_on(
    collector: Collector, topic: Topic
) -> None:
    async with started(collector.bus) as bus:
        with pytest.raises(InvalidInputError, match="too large"):
            await bus.send(topic.name, "key", b"x" * (2 * 1024 * 1024), {})
        await bus.publish(outgoing(topic, dataset_versioned("one")))

        await eventually(lambda: collector.ids == ["one"])


async def test_an_error_that_passes_is_waited_out_however_long(
    kafka: Kafka, collector: Collector, topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Short, so that Kafka also delivers it again in between, as it does in a long outage.
    monkeypatch.setattr(bus_module, "RETRYABLE_S_MAX", 0.5)
    monkeypatch.setattr(bus_module, "TRY_AGAIN_S", 0.05)
    collector.refusal = DependencyError("Triton is away.", which="triton")
    collector.refused_ids = {"first"}
    async with started(collector.bus) as bus:
        for id_ in ("first", "second"):
            await bus.publish(outgoing(topic, dataset_versioned(id_)))
        await eventually(lambda: collector.tries > 20, within_s=30)
        await eventually(lambda: "Triton is away" in bus.problem)
        assert collector.ids == []
        collector.refusal = None

        await eventually(lambda: collector.ids == ["first", "second"], within_s=20)
        await eventually(lambda: bus.problem == "")

    assert await count_of(kafka.bootstrap, topic.dead_letters) == 0


async def test_stopping_under_load_loses_nothing(kafka: Kafka, group: str, topic: Topic) -> None:
    wanted = [f"event-{number}" for number in range(300)]
    async with sender(kafka.bootstrap) as publisher:
        first = Collector(kafka.bootstrap, group, topic)
        await make_for(first.bus)
        await first.bus.start()

        async def publish() -> None:
            for id_ in wanted:
                await publisher.publish(outgoing(topic, dataset_versioned(id_)))

        publishing_all = asyncio.create_task(publish())
        await eventually(lambda: len(first.ids) > 30)
        await first.bus.stop()
        taken = len(first.ids)
        second = Collector(kafka.bootstrap, group, topic)
        async with started(second.bus):
            await publishing_all
            await eventually(lambda: wanted[-1] in second.ids, within_s=40)

    assert len(first.ids) == taken, "Nothing is handled after the stop."
    assert list(dict.fromkeys(first.ids + second.ids)) == wanted


async def test_stopping_does_not_wait_for_an_outage_to_end(
    collector: Collector, topic: Topic, kafka: Kafka, group: str
) -> None:
    collector.refusal, collector.refused_ids = DependencyError("Away."), {"one"}
    await make_for(collector.bus)
    await collector.bus.start()
    await collector.bus.publish(outgoing(topic, dataset_versioned("one")))
    await eventually(lambda: collector.tries > 2)

    async with asyncio.timeout(publishing.STOP_S_MAX):
        await collector.bus.stop()

    again = Collector(kafka.bootstrap, group, topic)
    async with started(again.bus):
        await eventually(lambda: again.ids == ["one"], within_s=30)


async def test_what_a_killed_consumer_had_begun_is_delivered_again(
    kafka: Kafka, group: str, topic: Topic, tmp_path: Path
) -> None:
    wanted = [f"event-{number}" for number in range(30)]
    notes = tmp_path / "notes"

    async def consumer(hangs_at: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.support.bus_consumer", kafka.bootstrap, topic.name, group),
            *(str(notes), hangs_at),
        )

    def noted() -> list[str]:
        return notes.read_text().splitlines() if notes.exists() else []

    first = await consumer("event-12")
    async with sender(kafka.bootstrap) as publisher:
        await eventually(lambda: "serving" in noted(), within_s=60)
        for id_ in wanted:
            await publisher.publish(outgoing(topic, dataset_versioned(id_)))
        await eventually(lambda: "began event-12" in noted(), within_s=30)
        # Each event is acknowledged after its handler, and the one at work is not.
        acknowledged = consumer_group(group, topic.name)
        await eventually(lambda: _has_committed(kafka, acknowledged, 12), within_s=30)
        first.kill()
        await first.wait()
        assert "ended event-12" not in noted()

        second = await consumer("")
        try:
            await eventually(lambda: "ended event-29" in noted(), within_s=60)
            # Its callers did not wait for Kafka to give the dead one up.
            served = next(at for at, line in enumerate(noted()) if "not taken yet" in line)
            assert noted()[served:][1] == "began event-12"
        finally:
            second.kill()
            await second.wait()

    ended = [line.removeprefix("ended ") for line in noted() if line.startswith("ended ")]
    assert list(dict.fromkeys(ended)) == wanted


async def test_a_broker_killed_and_restarted_loses_nothing(tmp_path: Path, group: str) -> None:
    topic = topic_of_a_test(group)
    broker = await asyncio.to_thread(Kafka(tmp_path).start)
    collector = Collector(broker.bootstrap, group, topic)
    wanted = [f"event-{number}" for number in range(400)]
    acknowledged: list[str] = []

    async def publish_for_certain(id_: str) -> None:
        while id_ not in acknowledged:
            try:
                await collector.bus.publish(outgoing(topic, dataset_versioned(id_)))
                acknowledged.append(id_)
            except DependencyError:
                continue  # As the relay does: unknown, so again.

    async def publish_all() -> None:
        for id_ in wanted:
            await publish_for_certain(id_)

    try:
        async with started(collector.bus) as bus:
            publishing_all = asyncio.create_task(publish_all())
            await eventually(lambda: len(acknowledged) > 100, within_s=30)
            await asyncio.to_thread(broker.kill)
            with pytest.raises(DependencyError, match="does not answer"):
                await bus.ping()
            await asyncio.to_thread(broker.start)
            await asyncio.wait_for(publishing_all, 120)
            await eventually(lambda: set(collector.ids) == set(wanted), within_s=60)
            await bus.ping()
    finally:
        await asyncio.to_thread(broker.stop)

    assert list(dict.fromkeys(collector.ids)) == wanted


async def test_a_message_waits_out_an_outage_once(
    tmp_path: Path, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each try during the outage waits for the first one's acknowledgement: no duplicates."""
    monkeypatch.setattr(publishing, "PUBLISH_S_MAX", 0.5)
    topic = topic_of_a_test(group)
    broker = await asyncio.to_thread(Kafka(tmp_path).start)
    try:
        async with started(Collector(broker.bootstrap, group, topic).bus) as bus:
            await bus.publish(outgoing(topic, dataset_versioned("before")))
            await asyncio.to_thread(broker.kill)
            for _ in range(4):
                with pytest.raises(DependencyError, match="did not acknowledge"):
                    await bus.publish(outgoing(topic, dataset_versioned("during")))
            await asyncio.to_thread(broker.start)

            async def published() -> bool:
                try:
                    await bus.publish(outgoing(topic, dataset_versioned("during")))
                except DependencyError:
                    return False
                return True

            await eventually(published, within_s=60)
            # Three when the acknowledgement came between two tries, and one more was sent.
            assert await count_of(broker.bootstrap, topic.name) in (2, 3)
    finally:
        await asyncio.to_thread(broker.stop)


async def test_a_producer_that_is_beyond_use_is_made_anew(
    collector: Collector, topic: Topic
) -> None:
    async with started(collector.bus) as bus:
        await bus.publish(outgoing(topic, dataset_versioned("one")))
        connected = await bus._publishing._connected()
        producer = connected.config.broker_config.producer._producer.producer
        for partition in range(topic.partitions):
            # A gap in the sequence, which Kafka answers with OUT_OF_ORDER_SEQUENCE_NUMBER.
            producer._txn_manager.increment_sequence_number(
                TopicPartition(topic.name, partition), 7
            )

        with pytest.raises(DependencyError, match="OutOfOrderSequenceNumber"):
            await bus.publish(outgoing(topic, dataset_versioned("two")))
        await bus.publish(outgoing(topic, dataset_versioned("two")))

        await eventually(lambda: collector.ids == ["one", "two"])


async def test_a_bus_waits_for_a_kafka_that_is_still_starting(tmp_path: Path, group: str) -> None:
    topic = topic_of_a_test(group)
    broker = Kafka(tmp_path)
    collector = Collector(broker.bootstrap, group, topic)
    starting = asyncio.create_task(collector.bus.start())
    try:
        await asyncio.to_thread(broker.start)
        await make_for(collector.bus)
        await asyncio.wait_for(starting, 60)
        await collector.bus.publish(outgoing(topic, dataset_versioned("one")))
        await eventually(lambda: collector.ids == ["one"], within_s=30)
    finally:
        await collector.bus.stop()
        await asyncio.to_thread(broker.stop)


async def test_a_kafka_that_does_not_come_is_named(
    group: str, topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_module, "START_S_MAX", 0.5)
    bus = Collector("127.0.0.1:1", group, topic).bus

    with pytest.raises(DependencyError, match="Kafka cannot be used") as refusal:
        await bus.start()
    await bus.stop()

    assert refusal.value.which == "kafka"
    assert "BASALT_KAFKA" in refusal.value.next_step


async def test_publishing_and_consuming_are_one_trace(
    collector: Collector, topic: Topic, spans: Spans
) -> None:
    async with started(collector.bus) as bus:
        with telemetry.span("decision"):
            event = outgoing(topic, dataset_versioned("one"))
        await bus.publish(event)
        await eventually(lambda: spans.named(f"consume {topic.name}"))

    (decision,) = spans.named("decision")
    (publish,) = spans.named(f"publish {topic.name}")
    (consume,) = spans.named(f"consume {topic.name}")
    assert decision.context
    assert publish.context
    assert publish.parent
    assert consume.parent
    assert publish.parent.span_id == decision.context.span_id
    assert consume.parent.span_id == publish.context.span_id
    assert spans.trace_ids() == {decision.context.trace_id}


async def _has_committed(kafka: Kafka, group: str, count: int) -> bool:
    return await committed_of(kafka.bootstrap, group) == count


def test_a_handler_of_what_flow_does_not_name_is_refused() -> None:
    with pytest.raises(ValueError, match="does not name gateway"):
        Router("gateway").subscriber(topic_of_a_test("trainer"))
