"""Which log a position is in; `positions.py` asks Kafka whether it still is that one."""

from __future__ import annotations

from dataclasses import dataclass

UNKNOWN_EPOCH = -1


@dataclass(frozen=True, slots=True)
class Proof:
    """The topic that a position is in, and the leader epoch of the record before it.

    Both may be unknown: of positions from before they were kept, and of the first one.
    """

    topic_id: str = ""
    leader_epoch: int = UNKNOWN_EPOCH
