"""Makes the topics of the sources."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aiokafka.admin import NewTopic
from aiokafka.errors import KafkaError

from libs.common import bus, flow
from libs.common.errors import DependencyError
from libs.common.kafka import KafkaAccess
from libs.common.peers import within_deadline

CREATE_S_MAX = 8.0


class KafkaTopics:
    def __init__(self, access: KafkaAccess, replication: int) -> None:
        self._access = access
        self._replication = replication

    async def ensure(self, topics: Sequence[str]) -> None:
        wanted = [
            NewTopic(
                name,
                num_partitions=flow.UPSTREAM_PARTITIONS,
                replication_factor=self._replication,
                # Kept from their arrival on: an old record published again is not deleted at once.
                topic_configs={
                    "retention.ms": str(flow.DAYS_7),
                    "message.timestamp.type": "LogAppendTime",
                },
            )
            for name in topics
        ]
        try:
            await asyncio.wait_for(
                bus.create_topics(self._access, wanted), within_deadline(CREATE_S_MAX)
            )
        except (KafkaError, OSError, TimeoutError) as error:
            raise DependencyError(
                "Kafka cannot be reached to create a source's topic.",
                which="kafka",
                next_step="Try again when `basalt status` shows it serving.",
                inside=self._access.bootstrap,
            ) from error
