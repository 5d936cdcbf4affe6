"""Opens CloudEvents 1.0 as Kafka carries them: binary mode (ce_ headers) and structured mode.

Source: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

import orjson

from services.ingest.core import bodies, moments
from services.ingest.core.violation import Violation, shown
from services.ingest.ports import UpstreamRecord

REQUIRED = ("specversion", "id", "source", "type")
STRUCTURED = b"application/cloudevents+json"
BATCHED = b"application/cloudevents-batch"
IDENTITY_CHARACTERS_MAX = 1_024


class Opened(NamedTuple):
    """What an event says of itself, and the row in it.

    identity        `source` and `id`, which together tell one event from all others
    occurred_us     its `time`, or else Kafka's timestamp: microseconds since 1970 in UTC
    row             the JSON value; meant to be an object {column: value}
    """

    identity: str
    occurred_us: int
    traceparent: str
    row: Any


def open_event(record: UpstreamRecord) -> Opened | Violation:
    headers: Mapping[str, bytes | None] = dict(record.headers)
    if len(headers) < len(record.headers) and (twice := _repeated(record)):
        return Violation("envelope", f"The header {twice} is there twice. Send it once.")
    content_type = headers.get("content-type")
    if content_type is not None and content_type.startswith(b"application/cloudevents"):
        return _structured(record, headers, content_type)
    try:
        # The common case in as few steps as possible: this runs for every record.
        source, identifier = headers["ce_source"], headers["ce_id"]
        if not (headers["ce_type"] and source and identifier and b" " not in source):
            return _envelope(headers)
        if not headers["ce_specversion"].startswith(b"1."):  # pyright: ignore[reportOptionalMemberAccess]
            return _envelope(headers)
        identity = f"{source.decode()} {identifier.decode()}"
        time = headers.get("ce_time")
        occurred_us = record.timestamp * 1_000 if time is None else microseconds(time.decode())
        parent = headers.get("traceparent") or headers.get("ce_traceparent")
        traceparent = parent.decode(errors="replace") if parent else ""
    except (KeyError, AttributeError, ValueError, OverflowError):
        return _envelope(headers)
    if len(identity) > IDENTITY_CHARACTERS_MAX:
        return _envelope(headers)
    try:
        row = bodies.parse(record.value)
    except orjson.JSONDecodeError as error:
        return unparsable(record.value, error)
    return Opened(identity, occurred_us, traceparent, row)


def _repeated(record: UpstreamRecord) -> str:
    """Of the headers that say what it is, one that is there more than once."""
    names = [name for name, _ in record.headers]
    telling = (name for name in names if name.startswith("ce_") or name == "content-type")
    return next((shown(name) for name in telling if names.count(name) > 1), "")


def microseconds(time: str) -> int:
    """Microseconds since 1970 of an RFC 3339 timestamp. Raises ValueError without an offset."""
    at = datetime.fromisoformat(time)
    if at.tzinfo is None:
        raise ValueError("a timestamp needs an offset, such as Z")
    return moments.microseconds(at)


def unparsable(body: bytes | None, error: Exception) -> Violation:
    return Violation(
        "unparsable",
        f"The body of {len(body or b'')} bytes is not JSON: {error}."
        " Mend it as a JSON object with the contract's columns.",
    )


def _structured(
    record: UpstreamRecord, headers: Mapping[str, bytes | None], content_type: bytes
) -> Opened | Violation:
    if content_type.startswith(BATCHED):
        return Violation("envelope", "Batches of CloudEvents are not taken: send one a message.")
    try:
        event = bodies.parse(record.value)
    except orjson.JSONDecodeError as error:
        return unparsable(record.value, error)
    if not isinstance(event, dict):
        return Violation("envelope", f"A CloudEvent is a JSON object, not {shown(event)}.")
    fault = _fault({name: event.get(name) for name in (*REQUIRED, "time")})
    if fault is not None:
        return fault
    occurred_us = microseconds(event["time"]) if event.get("time") else record.timestamp * 1_000
    header = headers.get("traceparent") or b""
    traceparent = header.decode(errors="replace") or str(event.get("traceparent") or "")
    row = event.get("data")
    if row is None and isinstance(event.get("data_base64"), str):
        try:
            row = bodies.parse(base64.b64decode(event["data_base64"], validate=True))
        except ValueError as error:
            # Neither base64 nor JSON: both errors are kinds of ValueError.
            return unparsable(record.value, error)
    return Opened(f"{event['source']} {event['id']}", occurred_us, traceparent, row)


def _envelope(headers: Mapping[str, bytes | None]) -> Violation:
    """What exactly is wrong with the attributes of an event in binary mode."""
    attributes: dict[str, object] = {}
    for name in (*REQUIRED, "time"):
        value = headers.get(f"ce_{name}")
        try:
            attributes[name] = value.decode() if value is not None else None
        except UnicodeDecodeError:
            return Violation("envelope", f"The header ce_{name} is not UTF-8. Send it as text.")
    fault = _fault(attributes)
    return fault or Violation("envelope", "Its attributes are not those of a CloudEvent 1.0.")


def _fault(attributes: Mapping[str, object]) -> Violation | None:
    lacking = [name for name in REQUIRED if attributes[name] in (None, "")]
    if lacking:
        return Violation(
            "envelope",
            f"The CloudEvents attributes {', '.join(lacking)} are missing."
            " Send them as ce_ headers, or the whole event as application/cloudevents+json.",
        )
    wrong = [name for name in REQUIRED if not isinstance(attributes[name], str)]
    if wrong:
        return Violation("envelope", f"The CloudEvents attributes {', '.join(wrong)} are no text.")
    if not str(attributes["specversion"]).startswith("1."):
        version = shown(attributes["specversion"])
        return Violation("envelope", f"CloudEvents {version} is not known here. Send 1.0.")
    if " " in str(attributes["source"]):
        return Violation("envelope", "The attribute source is a URI reference: it has no spaces.")
    if len(str(attributes["source"])) + len(str(attributes["id"])) >= IDENTITY_CHARACTERS_MAX:
        return Violation(
            "envelope", f"source and id are over {IDENTITY_CHARACTERS_MAX} characters together."
        )
    time = attributes["time"]
    try:
        if time is not None:
            microseconds(str(time))
    except (ValueError, OverflowError):
        return Violation(
            "envelope", f"The attribute time is {shown(time)}: send RFC 3339 with an offset."
        )
    return None
