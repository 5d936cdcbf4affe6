"""What stands in for a part of a Kafka log that could not be read, so that the rest can go on.

`batches.py` puts a record of this kind in the place of a batch or record that it cannot open. It
travels like any other, in order and with an offset, until its consumer holds it back.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

# Nobody else can send a header of this name: it is another one in each process.
HEADER = f"basalt-unreadable-{secrets.token_hex(16)}"


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Offsets `first` to `last` of a partition; `detail` says why, in a sentence or two."""

    first: int
    last: int
    detail: str

    @property
    def offsets(self) -> str:
        """For people: "offset 7", or "offsets 7 to 9"."""
        many = self.last > self.first
        return f"offsets {self.first} to {self.last}" if many else f"offset {self.last}"

    def header(self) -> tuple[str, bytes]:
        return HEADER, orjson.dumps([self.first, self.last, self.detail])


def unreadable(headers: Sequence[tuple[str, bytes | None]]) -> Unreadable | None:
    """What the record with these headers stands in for; None: it is a record as any other."""
    # It stands alone: the common case is decided by one comparison.
    if not headers or headers[0][0] != HEADER:
        return None
    return Unreadable(*orjson.loads(headers[0][1] or b"[]"))
