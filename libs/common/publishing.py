"""The way to Kafka: one idempotent producer a process, made anew when it can no longer be used."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Mapping
from typing import Any

import structlog
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from faststream.kafka import KafkaBroker

from libs.common.errors import DependencyError, InvalidInputError
from libs.common.kafka import KafkaAccess
from libs.common.topics import DEAD_LETTER_BYTES_MAX, MESSAGE_BYTES_MAX

PUBLISH_S_MAX = 10.0
PING_S_MAX = 2.0
DISCARD_S_MAX = 1.0
STOP_S_MAX = 4.0

Message = tuple[str, str, bytes, frozenset[tuple[str, str]]]
log = structlog.get_logger(__name__)


async def stopped(stop: Coroutine[Any, Any, None]) -> None:
    """Awaits the stop of a Kafka client.

    A fetch that waits for its next try makes aiokafka's `stop` (0.14.0, Fetcher.close) end with a
    CancelledError that nobody asked for; our own tasks would take it for theirs and end too.
    """
    stopping = asyncio.create_task(stop)
    try:
        await asyncio.wait([stopping])
    finally:
        stopping.cancel()
    if not stopping.cancelled():
        stopping.result()


class Publishing:
    """Publishes until every in-sync replica has it.

    The producer keeps trying what it was given for as long as Kafka is away. So a message whose
    acknowledgement did not come in time is not given to it again: the next try waits for the
    first one's, and an outage of hours costs neither memory nor duplicates.
    """

    def __init__(self, access: KafkaAccess, client_id: str) -> None:
        self._access = access
        self._client_id = client_id
        self._connecting = asyncio.Lock()
        self._broker: KafkaBroker | None = None
        self._unacknowledged: dict[Message, asyncio.Future[object]] = {}

    async def send(self, topic: str, key: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Publishes bytes as they are.

        Raises DependencyError when it is not known whether Kafka has them, and InvalidInputError
        when they are too large.
        """
        # Each try has a span of its own, so the trace does not belong to a message's identity.
        told = frozenset(each for each in headers.items() if each[0] != "traceparent")
        message = (topic, key, body, told)
        broker = None
        try:
            async with asyncio.timeout(PUBLISH_S_MAX):
                acknowledgement = self._unacknowledged.get(message)
                if acknowledgement is None:
                    broker = await self._connected()
                    acknowledgement = await self._give(broker, message, headers)
                # Shielded: giving up waiting does not take the message back.
                await asyncio.shield(acknowledgement)
        except MessageSizeTooLargeError as error:
            raise InvalidInputError(
                f"A message of {len(body)} bytes is too large for {topic}.",
                which=topic,
                next_step=f"Keep it below {MESSAGE_BYTES_MAX} bytes with its headers.",
            ) from error
        except TimeoutError as error:
            raise self._unknown(topic, f"no answer within {PUBLISH_S_MAX:.0f} s") from error
        except (KafkaError, OSError) as error:
            await self._discard(broker, error)
            raise self._unknown(topic, repr(error)) from error

    async def _give(
        self, broker: KafkaBroker, message: Message, headers: Mapping[str, str]
    ) -> asyncio.Future[object]:
        topic, key, body, _ = message
        given: asyncio.Future[object] = await broker.publish(  # pyright: ignore[reportAssignmentType] - its type names aiokafka's own result.
            body, topic, key=key.encode(), headers=dict(headers), no_confirm=True
        )
        self._unacknowledged[message] = given

        def settled(done: asyncio.Future[object]) -> None:
            self._unacknowledged.pop(message, None)
            # An error counts as seen even when nobody waits any more.
            if not done.cancelled():
                done.exception()

        given.add_done_callback(settled)
        return given

    async def connect(self) -> None:
        await self._connected()

    async def _connected(self) -> KafkaBroker:
        async with self._connecting:
            if self._broker is None:
                broker = KafkaBroker(
                    self._access.servers,
                    security=self._access.for_faststream(),
                    client_id=self._client_id,
                    acks="all",
                    enable_idempotence=True,
                    max_request_size=DEAD_LETTER_BYTES_MAX,
                    allow_auto_create_topics=False,
                    logger=None,
                )
                try:
                    await broker.connect()
                except BaseException:
                    # A producer that could not begin is open nevertheless.
                    with contextlib.suppress(Exception):
                        await asyncio.wait_for(broker.stop(), DISCARD_S_MAX)
                    raise
                self._broker = broker
            return self._broker

    async def _discard(self, broker: KafkaBroker | None, error: Exception) -> None:
        """A producer that failed may be of no use for ever: its sender ends on a fatal error."""
        if broker is None or broker is not self._broker:
            return
        log.warning("producer_discarded", error=repr(error))
        self._broker = None
        with contextlib.suppress(Exception):
            await asyncio.wait_for(broker.stop(), DISCARD_S_MAX)

    async def ping(self) -> None:
        try:
            async with asyncio.timeout(PING_S_MAX):
                broker = await self._connected()
                answers = await broker.ping(timeout=PING_S_MAX)
        except (KafkaError, OSError, TimeoutError):
            answers = False
        if not answers:
            raise DependencyError(
                "Kafka does not answer.",
                which="kafka",
                next_step="Events wait in the outbox until it does.",
                inside=self._access.bootstrap,
            )

    async def stop(self) -> None:
        """What is not acknowledged within STOP_S_MAX stays in its outbox for the next start."""
        broker, self._broker = self._broker, None
        if broker is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(broker.stop(), STOP_S_MAX)

    def _unknown(self, topic: str, reason: str) -> DependencyError:
        return DependencyError(
            f"Kafka did not acknowledge a message for {topic}: {reason}.",
            which="kafka",
            next_step="It is published again when Kafka answers.",
        )
