"""Events that a consumer could not handle: kept, listed, and taken again by it when asked.

    "<tenant>/deadletter/<topic>-<partition>-<offset>"            the place in the dead-letter topic
    "<tenant>/deadletter/<topic>-<partition>-<offset>:<digest>"   another letter at that same place

The tenant is the one that the body names; a body that names none belongs to the platform. The
whole body is an object; the journal keeps its beginning for listings.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from libs.common import flow, journal
from libs.common.clock import Clock
from libs.common.echo import short
from libs.common.errors import ConflictError, NotFoundError, PreconditionError
from libs.common.events import Event, LetterReplayed
from libs.common.identity import PLATFORM
from libs.common.journal import Change, Journal
from libs.common.paging import not_a_token
from libs.common.stores.ports import Entry, ObjectStore
from services.monitoring.core.alerts import Alerts

if TYPE_CHECKING:
    from services.monitoring.ports import Meters

KIND = "deadletter"
ANOTHERS = "Members of its tenant see what it says and what was wrong with it."
SENT_AGAIN = "Let its producer, or the upstream system, send it again."
BODY_SHOWN_BYTES = 16 * 1024
HEADER_CHARACTERS_MAX = 4_000
HEADERS_MAX = 64
DIGEST_CHARACTERS = 12
_ANOTHER = ":"
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True)
class Burial:
    """A message from a dead-letter topic, and where it stood there."""

    topic: str
    partition: int
    offset: int
    key: str
    body: bytes
    headers: Mapping[str, str]


class Letter(BaseModel):
    """What is kept of a dead letter; its body is an object, `body_start` its beginning in base64.

    `key` and `headers` are those it had on its topic.
    """

    model_config = ConfigDict(frozen=True)

    topic: str
    consumer: str
    error: str
    attempts: int
    key: str
    headers: dict[str, str]
    body_sha256: str
    body_start: str
    size_bytes: int
    at: datetime
    replayed: bool = False
    discarded: bool = False


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """`hopeless` says why nobody can ever take it; empty where somebody may."""

    id: str
    topic: str
    consumer: str
    error: str
    attempts: int
    body: bytes
    size_bytes: int
    at: datetime
    replayed: bool
    discarded: bool
    hopeless: str


@dataclass(frozen=True, slots=True)
class DeadLetters:
    journal: Journal
    objects: ObjectStore
    alerts: Alerts
    meters: Meters
    clock: Clock

    async def take(self, burial: Burial) -> None:
        """Keeps a dead letter; the same one delivered again changes nothing."""
        topic = burial.topic.removesuffix(flow.DEAD_LETTER_SUFFIX)
        tenant = _tenant_of(burial.body)
        consumer = short(burial.headers.get("basalt-consumer", ""))
        digest = hashlib.sha256(burial.body).hexdigest()
        await self.objects.put(_object(tenant, digest), burial.body)
        headers = [
            (name, value[:HEADER_CHARACTERS_MAX])
            for name, value in burial.headers.items()
            if not name.startswith(flow.BURIAL_PREFIX)
        ]
        letter = Letter(
            topic=topic,
            consumer=consumer,
            error=short(burial.headers.get("basalt-error", ""), HEADER_CHARACTERS_MAX),
            attempts=_number(burial.headers.get("basalt-tries", "")),
            key=burial.key,
            headers=dict(headers[:HEADERS_MAX]),
            body_sha256=digest,
            body_start=base64.b64encode(burial.body[:BODY_SHOWN_BYTES]).decode(),
            size_bytes=len(burial.body),
            at=self.clock.now(),
        )
        name = await self._name(tenant, f"{topic}-{burial.partition}-{burial.offset:012d}", digest)
        taken = False

        async def decide(latest: Entry | None) -> Change | None:
            nonlocal taken
            taken = latest is None
            state = letter.model_dump(mode="json")
            return Change("DeadLetterTaken", state) if latest is None else None

        await self.journal.decide(
            journal.aggregate(tenant, KIND, name), "taken", "monitoring", decide
        )
        await self._alert(tenant, topic, consumer, letter.error)
        if taken:
            self.meters.dead_letter(topic, consumer)

    async def _name(self, tenant: str, place: str, digest: str) -> str:
        """Its place; with its digest when another letter lay there before Kafka lost its tail."""
        there = await self.journal.latest(journal.aggregate(tenant, KIND, place))
        if there is None or _kept(there).body_sha256 == digest:
            return place
        return f"{place}{_ANOTHER}{digest[:DIGEST_CHARACTERS]}"

    async def _alert(self, tenant: str, topic: str, consumer: str, error: str) -> None:
        # At most one an hour for a topic: a flood of bad messages is one piece of news.
        hour = f"{self.clock.now():%Y-%m-%dT%H}"
        await self.alerts.raise_once(
            tenant,
            f"deadletter/{topic}/{consumer}/{hour}",
            "warning",
            "deadletter",
            topic,
            f"{consumer or 'A consumer'} could not handle an event of {topic}: {error}"
            " See `basalt deadletter list`.",
        )

    async def page(
        self, tenant: str, topic: str, size: int, token: str
    ) -> tuple[list[DeadLetter], str]:
        """By topic and place, and the token of the next page.

        The platform sees that there are every tenant's; what they say is their tenant's own.
        """
        of = None if tenant == PLATFORM else tenant
        after = self._after(tenant, token)
        letters: list[DeadLetter] = []
        while True:
            entries = await self.journal.store.heads(KIND, of, after=after, limit=size + 1)
            for entry in entries:
                if not topic or _kept(entry).topic == topic:
                    if len(letters) == size:
                        return letters, letters[-1].id
                    letters.append(_letter(entry, tenant, self.clock.now()))
            if len(entries) <= size:
                return letters, ""
            after = entries[-1].aggregate

    def _after(self, tenant: str, token: str) -> str:
        if not token:
            return ""
        of, _, name = token.partition("/")
        if not name or tenant not in (of, PLATFORM):
            raise not_a_token()
        return f"{of}/{KIND}/{name}"


@dataclass(frozen=True, slots=True)
class Remedies:
    """What can be done about a dead letter: its consumer takes it again, or nobody waits for it."""

    journal: Journal
    objects: ObjectStore
    clock: Clock

    async def replay(self, tenant: str, letter_id: str, by: str) -> tuple[DeadLetter, bool]:
        """Tells a letter's consumer to take it again, from its place among the dead letters.

        Also answers whether another call did so before: then nobody is told. Raises
        PreconditionError for a letter that no consumer can take, and for a discarded one.
        """
        found = await self._find(tenant, letter_id)
        letter = _kept(found)
        if letter.discarded:
            raise PreconditionError(
                f"The dead letter {letter_id} was discarded.",
                which=letter_id,
                next_step=SENT_AGAIN,
            )
        if letter.replayed:
            return self._before(found, tenant)
        why = _hopeless(letter, self.clock.now(), await self._body(found, letter))
        if why:
            raise PreconditionError(
                why, which="id", next_step=f"{SENT_AGAIN} `basalt deadletter discard` clears it."
            )
        told = self._told(found, letter)
        return await self._decide(found, "replayed", "DeadLetterReplayed", by, tenant, (told,))

    async def discard(self, tenant: str, letter_id: str, by: str) -> tuple[DeadLetter, bool]:
        """Nobody waits for it any longer; also answers whether another call did so before.

        Raises PreconditionError for one that its consumer takes again.
        """
        found = await self._find(tenant, letter_id)
        letter = _kept(found)
        if letter.replayed:
            raise PreconditionError(
                f"The dead letter {letter_id} was replayed; nobody waits for it.",
                which=letter_id,
                next_step="If its consumer fails again, discard the letter of that.",
            )
        if letter.discarded:
            return self._before(found, tenant)
        return await self._decide(found, "discarded", "DeadLetterDiscarded", by, tenant, ())

    def _before(self, found: Entry, tenant: str) -> tuple[DeadLetter, bool]:
        """The answer about a letter of which that was decided: by this very call, or another."""
        letter = _letter(found, tenant, self.clock.now())
        return letter, found.cause != self.journal.this_call()

    async def _decide(
        self, found: Entry, way: str, type_: str, by: str, tenant: str, told: Sequence[Event]
    ) -> tuple[DeadLetter, bool]:
        cause = self.journal.this_call()

        async def decide(latest: Entry | None) -> Change | None:
            known = _kept(latest or found)
            if known.replayed or known.discarded:
                return None
            state = known.model_copy(update={way: True}).model_dump(mode="json")
            return Change(type_, state, told)

        entry = await self.journal.decide(found.aggregate, cause, by, decide)
        if not getattr(_kept(entry), way):
            raise ConflictError(
                "Somebody did something else about the letter at this moment.",
                which=f"{found.tenant}/{found.name}",
                next_step="Look at it again: `basalt deadletter list`.",
            )
        return _letter(entry, tenant, self.clock.now()), entry.cause != cause

    async def _body(self, found: Entry, letter: Letter) -> bytes:
        body = base64.b64decode(letter.body_start)
        if len(body) < letter.size_bytes:
            body = await self.objects.get(_object(found.tenant, letter.body_sha256))
        return body

    def _told(self, found: Entry, letter: Letter) -> LetterReplayed:
        _, partition, offset = found.name.partition(_ANOTHER)[0].rsplit("-", 2)
        return LetterReplayed(
            id=f"{found.tenant}/{found.name}",
            tenant=found.tenant,
            at=self.clock.now(),
            topic=letter.topic,
            consumer=letter.consumer,
            partition=int(partition),
            offset=int(offset),
            body_sha256=letter.body_sha256,
        )

    async def _find(self, tenant: str, letter_id: str) -> Entry:
        of, _, name = letter_id.partition("/")
        entry = None
        if name and "/" not in name and tenant in (of, PLATFORM):
            entry = await self.journal.latest(f"{of}/{KIND}/{name}")
        if entry is None:
            raise NotFoundError(
                f"There is no dead letter {letter_id}.",
                which=letter_id,
                next_step="`basalt deadletter list` names them.",
            )
        return entry


def _tenant_of(body: bytes) -> str:
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return PLATFORM
    tenant = said.get("tenant") if isinstance(said, dict) else None
    return tenant if isinstance(tenant, str) and _TENANT.fullmatch(tenant) else PLATFORM


def _kept(entry: Entry) -> Letter:
    return Letter.model_validate(entry.state)


def _hopeless(letter: Letter, now: datetime, body: bytes | None) -> str:
    """Why nobody can ever take a letter; "" where somebody may, or where that is not known."""
    topic = flow.BY_NAME.get(letter.topic)
    if topic is None or letter.consumer not in topic.consumers:
        return f"Nobody consumes {letter.topic} as {letter.consumer or 'its consumer'} did."
    if now - letter.at >= timedelta(milliseconds=flow.DEAD_LETTER_RETENTION_MS):
        days = flow.DEAD_LETTER_RETENTION_MS // flow.DAY_1
        return f"The letter is of {letter.at:%Y-%m-%d}, and Kafka keeps them for {days} days."
    try:
        if body is not None:
            topic.event.model_validate_json(body)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, fault["loc"])) or "its beginning"
        return (
            f"It cannot be read as an event of {letter.topic}, whoever takes it:"
            f" {short(fault['msg'])}, at {short(where)}."
        )
    return ""


def _letter(entry: Entry, tenant: str, now: datetime) -> DeadLetter:
    """As `tenant` is told it: a fault of the platform's has to be found, what it met has not."""
    letter, own = _kept(entry), entry.tenant == tenant
    body = base64.b64decode(letter.body_start)
    whole = body if len(body) == letter.size_bytes and own else None
    return DeadLetter(
        id=f"{entry.tenant}/{entry.name}",
        topic=letter.topic,
        consumer=letter.consumer,
        error=letter.error if own else ANOTHERS,
        attempts=letter.attempts,
        body=body if own else b"",
        size_bytes=letter.size_bytes,
        at=letter.at,
        replayed=letter.replayed,
        discarded=letter.discarded,
        hopeless="" if letter.replayed else _hopeless(letter, now, whole),
    )


def _object(tenant: str, digest: str) -> str:
    return f"{tenant}/{KIND}/{digest}"


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 6 else 0
