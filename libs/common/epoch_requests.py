"""Two requests that the Kafka client lacks: a topic's identifier, and where a leader's epoch ends.

Metadata v10 and OffsetForLeaderEpoch v4, as https://kafka.apache.org/protocol defines them.
"""

# The client types its own constants as properties, and its schemas as holding its own types alone.
# pyright: reportAssignmentType=false, reportIncompatibleMethodOverride=false
# pyright: reportArgumentType=false

from __future__ import annotations

import io
from uuid import UUID

from aiokafka import TopicPartition
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)


class _Uuid:
    @classmethod
    def decode(cls, data: io.BytesIO) -> UUID:
        return UUID(bytes=data.read(16))

    @classmethod
    def encode(cls, value: UUID) -> bytes:
        return value.bytes


_TAGS = ("tags", TaggedFields)
_NAME = CompactString("utf-8")


class _TopicsResponse(Response):
    API_KEY = 3
    API_VERSION = 10
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32), ("host", _NAME), ("port", Int32), ("rack", _NAME), _TAGS
            ),
        ),
        ("cluster_id", _NAME),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("name", _NAME),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline", CompactArray(Int32)),
                        _TAGS,
                    ),
                ),
                ("authorized_operations", Int32),
                _TAGS,
            ),
        ),
        ("cluster_authorized_operations", Int32),
        _TAGS,
    )


class _TopicsRequest(RequestStruct):
    API_KEY = 3
    API_VERSION = 10
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _TopicsResponse
    SCHEMA = Schema(
        ("topics", CompactArray(("topic_id", _Uuid), ("name", _NAME), _TAGS)),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        _TAGS,
    )


class Topics(Request[_TopicsRequest]):
    API_KEY = 3

    def __init__(self, names: list[str]) -> None:
        self._names = names

    def build(self, request_struct_class: type[_TopicsRequest]) -> _TopicsRequest:
        topics = [(UUID(int=0), name, {}) for name in self._names]
        return request_struct_class(topics, False, False, False, {})


class _EndOfEpochResponse(Response):
    API_KEY = 23
    API_VERSION = 4
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("name", _NAME),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader_epoch", Int32),
                        ("end_offset", Int64),
                        _TAGS,
                    ),
                ),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _EndOfEpochRequest(RequestStruct):
    API_KEY = 23
    API_VERSION = 4
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _EndOfEpochResponse
    SCHEMA = Schema(
        ("replica_id", Int32),
        (
            "topics",
            CompactArray(
                ("name", _NAME),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("current_leader_epoch", Int32),
                        ("leader_epoch", Int32),
                        _TAGS,
                    ),
                ),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class EndOfEpoch(Request[_EndOfEpochRequest]):
    API_KEY = 23

    def __init__(self, place: TopicPartition, epoch: int) -> None:
        self._place, self._epoch = place, epoch

    def build(self, request_struct_class: type[_EndOfEpochRequest]) -> _EndOfEpochRequest:
        partition = (self._place.partition, -1, self._epoch, {})
        return request_struct_class(-1, [(self._place.topic, [partition], {})], {})
