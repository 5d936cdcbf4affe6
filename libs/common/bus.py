"""Kafka through FastStream. Nobody else configures a broker.

    delivery      at least once: acknowledged after the handler, in order within a partition
    retries       an error that passes is waited out; another is tried TRIES_MAX times
    dead letters  then to <topic>.dlq with the reason, and only then acknowledged; taken again from
                  there when `monitoring` says so
    trace         continues the publisher's, through the traceparent header
    wire          CloudEvents 1.0, binary mode, JSON

The settings are those that were measured to lose nothing when processes die; FastStream's own
defaults acknowledge first.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import structlog
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, for_code
from faststream import AckPolicy
from faststream.kafka import KafkaBroker, KafkaMessage
from opentelemetry import trace
from opentelemetry.trace import SpanKind
from pydantic import ValidationError

from libs.common import flow, telemetry
from libs.common.deliveries import Delivery, buried, delivery_of, parse, undecoded
from libs.common.errors import BasaltError, DependencyError, InvalidInputError
from libs.common.events import Event, LetterReplayed
from libs.common.flow import DEAD_LETTER_SUFFIX, Topic
from libs.common.identity import acting_for
from libs.common.kafka import HEARTBEAT_MS, SESSION_MS, KafkaAccess
from libs.common.letters import letter_at
from libs.common.proven import ProvenBroker
from libs.common.publishing import STOP_S_MAX, Publishing, stopped
from libs.common.runtime import ended, expected, lasting
from libs.common.stores.ports import Outgoing

TRIES_MAX = 3
TRY_AGAIN_S = 0.2
TRY_AGAIN_S_MAX = 5.0
# Within max.poll.interval.ms (5 minutes), after which Kafka would take the partition away.
RETRYABLE_S_MAX = 120.0
START_S_MAX = 45.0
# A group without dead members lets us in within this.
JOIN_S_MAX = 1.0

E = TypeVar("E", bound=Event)
log = structlog.get_logger(__name__)


Handle = Callable[[Delivery], Awaitable[None]]


class Router:
    """Which handler takes which topic."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.handlers: dict[str, Handle] = {}
        self.topics: dict[str, Topic] = {}

    def subscriber(
        self, topic: Topic
    ) -> Callable[[Callable[[Any], Awaitable[None]]], Callable[[Any], Awaitable[None]]]:
        """Registers an `async def handler(event)`: idempotent, and done in seconds."""
        if self.service not in topic.consumers:
            raise ValueError(f"flow.py does not name {self.service} as a consumer of {topic.name}.")

        def register(handler: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
            async def handle(delivery: Delivery) -> None:
                event = _event(topic, delivery.body)
                # The tenant sees a trace that one of its spans names it in.
                trace.get_current_span().set_attribute(telemetry.TENANT, event.tenant)
                with acting_for(event.tenant):
                    await handler(event)

            self.handlers[topic.name] = handle
            self.topics[topic.name] = topic
            return handler

        return register

    def dead_letters(self, handle: Handle) -> None:
        """Takes the dead letters of every topic in `flow.py`."""
        for topic in flow.TOPICS:
            self.handlers[topic.dead_letters] = handle


def _event(topic: Topic, body: bytes) -> Event:
    try:
        return topic.event.model_validate_json(body)
    except ValidationError as error:
        raise InvalidInputError(
            f"The message is not a {topic.event.__name__}: {error.errors()[0]['msg']}.",
            which=topic.name,
            next_step="Mend its producer; the message waits in the dead letters.",
        ) from error


class Bus:
    """The connection of a service to Kafka: its subscriptions, and a publisher for its relay."""

    name = "kafka"

    def __init__(
        self, access: KafkaAccess, router: Router, replays: Topic = flow.LETTER_REPLAYED
    ) -> None:
        self.access = access
        self.router = router
        if router.service in replays.consumers:
            router.subscriber(replays)(self._take_again)
        self._publishing = Publishing(access, router.service)
        self._stopping = asyncio.Event()
        self._waiting: dict[tuple[str, int], str] = {}
        # What could not be read last, until an event that can be has come after it.
        self._gaps: dict[tuple[str, int], str] = {}
        self._broker = self._new_broker()
        self._joining: asyncio.Task[None] | None = None
        self._outside = ""

    @property
    def problem(self) -> str:
        """What is not being consumed, and why; for the service's health."""
        troubles = self._broker.troubles()
        found = (self._outside, *self._waiting.values(), *self._gaps.values(), *troubles)
        return " ".join(filter(None, found))

    def _new_broker(self) -> ProvenBroker:
        broker = ProvenBroker(
            self.access.servers,
            security=self.access.for_faststream(),
            client_id=self.router.service,
            consumer_only=True,
            allow_auto_create_topics=False,
            graceful_timeout=STOP_S_MAX,
            logger=None,
        )
        for topic, handle in self.router.handlers.items():
            self._subscribe(broker, topic, handle)
        return broker

    def _subscribe(self, broker: KafkaBroker, topic: str, handle: Handle) -> None:
        subscriber = broker.subscriber(
            topic,
            group_id=flow.consumer_group(self.router.service, topic),
            auto_offset_reset="earliest",
            ack_policy=AckPolicy.NACK_ON_ERROR,
            no_reply=True,
            max_workers=1,
            session_timeout_ms=SESSION_MS,
            heartbeat_interval_ms=HEARTBEAT_MS,
            parser=parse,
            decoder=undecoded,
        )

        async def deliver(message: KafkaMessage) -> None:
            await self._deliver(delivery_of(message), handle)

        subscriber(deliver)

    async def start(self) -> None:
        """Waits until Kafka lets this service use its topics, then begins to consume.

        A group lets nobody in while it waits for a member that died: callers do not wait for that.
        Who only publishes waits for nothing: while Kafka is away its events are in its outbox.
        """
        if not self.router.handlers:
            return
        await self._admitted()
        self._joining = lasting(self._join(), "bus joins")
        expected(self._joining)
        await asyncio.wait({self._joining}, timeout=JOIN_S_MAX)

    async def _admitted(self) -> None:
        """Raises DependencyError when Kafka does not let us use our topics."""
        give_up_at = time.monotonic() + START_S_MAX
        while True:
            try:
                await require_topics(self.access, self.topics)
                await self._publishing.connect()
                return
            # A broker that is only just starting refuses in many ways, all of which pass.
            except (KafkaError, OSError, DependencyError) as error:
                if time.monotonic() > give_up_at:
                    raise DependencyError(
                        "Kafka cannot be used.",
                        which="kafka",
                        next_step="Start it, or set BASALT_KAFKA to where it is; the topics and"
                        " this service's rights are made by security.",
                        inside=f"{self.access.bootstrap}: {error}",
                    ) from error
                await asyncio.sleep(TRY_AGAIN_S)

    async def _join(self) -> None:
        """Until every group has let us in."""
        self._outside = "Events are not taken yet: Kafka's groups have not let this service in."
        while True:
            try:
                await self._broker.start()
                self._outside = ""
                return
            except Exception as error:
                known = isinstance(error, (KafkaError, OSError))
                log.warning("groups_not_joined", error=repr(error), exc_info=not known)
                await stopped(self._broker.stop())
                self._broker = self._new_broker()
                await asyncio.sleep(TRY_AGAIN_S)

    async def stop(self) -> None:
        """Handlers at work may finish; what waits for a retry is left for the next start."""
        self._stopping.set()
        await ended(self._joining)
        await stopped(self._broker.stop())
        await self._publishing.stop()

    async def ping(self) -> None:
        await self._publishing.ping()

    @property
    def topics(self) -> list[str]:
        """What it reads or writes."""
        produced = {topic.name for topic in flow.TOPICS if topic.producer == self.router.service}
        letters = {topic.dead_letters for topic in self.router.topics.values()}
        return sorted(produced | letters | set(self.router.handlers))

    # Publishing.

    async def publish(self, outgoing: Outgoing) -> None:
        """Returns when every in-sync replica has it; DependencyError when that is not known."""
        headers = {
            "ce_specversion": "1.0",
            "ce_id": outgoing.event_id,
            "ce_type": outgoing.topic,
            "ce_source": f"/basalt/{self.router.service}",
            "content-type": "application/json",
        }
        with telemetry.span(
            f"publish {outgoing.topic}",
            SpanKind.PRODUCER,
            under=outgoing.traceparent,
            messaging_system="kafka",
            messaging_destination_name=outgoing.topic,
        ):
            if traceparent := telemetry.traceparent():
                headers["traceparent"] = traceparent
            await self.send(outgoing.topic, outgoing.key, outgoing.payload.encode(), headers)

    async def send(self, topic: str, key: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Publishes bytes as they are."""
        await self._publishing.send(topic, key, body, headers)

    # Consuming.

    async def _deliver(self, delivery: Delivery, handle: Handle) -> None:
        with telemetry.span(
            f"consume {delivery.topic}",
            SpanKind.CONSUMER,
            under=delivery.headers.get("traceparent", ""),
            messaging_system="kafka",
            messaging_destination_name=delivery.topic,
            messaging_consumer_group_name=flow.consumer_group(self.router.service, delivery.topic),
        ) as span:
            try:
                failure, tries = await self._opened(delivery, handle)
            finally:
                self._waiting.pop((delivery.topic, delivery.partition), None)
            if failure is not None:
                telemetry.failed(span, type(failure).__name__)
                await self._bury(delivery, failure, tries)

    async def _opened(self, delivery: Delivery, handle: Handle) -> tuple[Exception | None, int]:
        """As `_try`; what stands in for a part of the log is not given to the handler."""
        place = (delivery.topic, delivery.partition)
        gap = delivery.gap
        if gap is None:
            outcome = await self._try(delivery, handle)
            self._gaps.pop(place, None)
            return outcome
        failure = InvalidInputError(
            f"{delivery.topic}/{delivery.partition} cannot be read at {gap.offsets}: {gap.detail}",
            which=delivery.topic,
            next_step="What could be read of it waits in the dead letters.",
        )
        self._gaps[place] = str(failure)
        if not delivery.topic.endswith(DEAD_LETTER_SUFFIX):
            return failure, 1
        # There it is already: it is taken in as it is.
        told = {"basalt-error": str(failure), "basalt-consumer": self.router.service}
        return await self._try(dataclasses.replace(delivery, headers=told), handle)

    async def _try(self, delivery: Delivery, handle: Handle) -> tuple[Exception | None, int]:
        """The error that could not be got over (None: there was none), and the tries it took.

        An error that passes is waited for, however long: the partition stands still, and `problem`
        says so. It is raised after RETRYABLE_S_MAX, for Kafka to hear from us and deliver again.
        """
        give_up_at = time.monotonic() + RETRYABLE_S_MAX
        tries, pause_s = 0, TRY_AGAIN_S
        while True:
            tries += 1
            try:
                await handle(delivery)
                return None, tries
            except Exception as error:
                retryable = isinstance(error, BasaltError) and error.retryable
                self._note(delivery, tries, error)
                hopeless = isinstance(error, InvalidInputError) or tries >= TRIES_MAX
                if hopeless and not retryable:
                    return error, tries
                if self._stopping.is_set() or time.monotonic() > give_up_at:
                    raise
            await self._pause(pause_s)
            pause_s = min(pause_s * 2, TRY_AGAIN_S_MAX)

    async def _take_again(self, asked: LetterReplayed) -> None:
        """A letter that this service buried; its handler knows an event by its id."""
        if asked.consumer != self.router.service:
            return
        if asked.topic not in self.router.topics:
            raise InvalidInputError(
                f"{self.router.service} does not consume {asked.topic} any more.",
                which=asked.topic,
                next_step="Leave the letter where it is.",
            )
        letter = await letter_at(
            self.access, asked.topic, asked.partition, asked.offset, asked.body_sha256
        )
        await self._deliver(letter, self.router.handlers[asked.topic])

    def _note(self, delivery: Delivery, tries: int, error: Exception) -> None:
        self._waiting[(delivery.topic, delivery.partition)] = (
            f"An event of {delivery.topic} is tried again: {error}"
        )
        log.warning(
            "event_failed",
            topic=delivery.topic,
            partition=delivery.partition,
            offset=delivery.offset,
            tries=tries,
            error=str(error),
            exc_info=not isinstance(error, BasaltError),
        )

    async def _bury(self, delivery: Delivery, failure: Exception, tries: int) -> None:
        """Moves a message to the dead letters. Raises when that fails: it is delivered again."""
        if delivery.topic.endswith(DEAD_LETTER_SUFFIX):
            # A dead letter has nowhere further to go: keep trying to take it in.
            await self._pause(TRY_AGAIN_S_MAX)
            raise failure
        letter = buried(delivery, self.router.service, tries, str(failure))
        try:
            await self.send(letter.topic, letter.key, letter.body, letter.headers)
        except BasaltError:
            await self._pause(TRY_AGAIN_S_MAX)
            raise

    async def _pause(self, pause_s: float) -> None:
        """Waits; not when the service is stopping."""
        with contextlib.suppress(TimeoutError):
            # wait_for of Python 3.11 may lose a cancellation.
            async with asyncio.timeout(pause_s):
                await self._stopping.wait()


async def require_topics(access: KafkaAccess, names: Sequence[str]) -> None:
    """Raises KafkaError, or DependencyError with what Kafka says of one that cannot be used."""
    admin = AIOKafkaAdminClient(**access.for_aiokafka())
    try:
        await admin.start()
        described: Any = await admin.describe_topics(list(names))
    finally:
        await admin.close()
    for each in described:
        if each["error_code"]:
            reason = for_code(each["error_code"]).message
            raise DependencyError(
                f"{each['topic']} cannot be used by {access.user or 'anybody'}: {reason}",
                which="kafka",
            )
