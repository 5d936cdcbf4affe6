"""What a training process said, line by line, within bounds: the beginning and the latest."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime

from libs.common.errors import NotFoundError
from libs.common.stores.ports import ObjectStore

KIND = "logs"
LINE_CHARACTERS_MAX = 2_000
# Each of the two: the beginning, which stays, and the end, whose oldest lines make room.
PART_CHARACTERS_MAX = 256 * 1024


@dataclass(frozen=True, slots=True)
class Line:
    """`number` counts from 1 in each attempt; a gap means lines that made room."""

    number: int
    at: str
    text: str

    def document(self) -> bytes:
        return json.dumps([self.number, self.at, self.text]).encode()


@dataclass(slots=True)
class JobLog:
    """The log of one attempt at a job, as its worker gathers it."""

    _beginning: list[Line] = field(default_factory=list)
    _latest: deque[Line] = field(default_factory=deque)
    _count: int = 0
    _beginning_characters: int = 0
    _latest_characters: int = 0
    _saved: int = 0

    def add(self, at: datetime, text: str) -> None:
        self._count += 1
        line = Line(self._count, at.isoformat(), text.rstrip()[:LINE_CHARACTERS_MAX])
        if self._beginning_characters < PART_CHARACTERS_MAX and not self._latest:
            self._beginning.append(line)
            self._beginning_characters += len(line.text)
            return
        self._latest.append(line)
        self._latest_characters += len(line.text)
        while self._latest_characters > PART_CHARACTERS_MAX:
            self._latest_characters -= len(self._latest.popleft().text)

    async def save(self, objects: ObjectStore, tenant: str, job: str, attempt: int) -> None:
        """Puts it where any replica can read it, when there is something new."""
        if self._count == self._saved:
            return
        count = self._count
        lines = (line.document() for line in (*self._beginning, *self._latest))
        await objects.put(_key(tenant, job, attempt), b"\n".join(lines))
        self._saved = count


async def read(
    objects: ObjectStore, tenant: str, job: str, attempt: int, after: int
) -> AsyncIterator[Line]:
    """The lines of an attempt with a higher number than `after`."""
    try:
        content = await objects.get(_key(tenant, job, attempt))
    except NotFoundError:
        return
    for document in content.splitlines():
        number, at, text = json.loads(document)
        if number > after:
            yield Line(number, at, text)


def _key(tenant: str, job: str, attempt: int) -> str:
    return f"{tenant}/{KIND}/{job}/{attempt}"
