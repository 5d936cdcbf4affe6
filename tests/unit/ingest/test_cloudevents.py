from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.core.cloudevents import Opened, open_event
from services.ingest.core.violation import Violation
from tests.support.upstream import NOON_MS, Record, headers, row

STRUCTURED = [("content-type", b"application/cloudevents+json; charset=utf-8")]
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def event(**changes: Any) -> dict[str, Any]:
    whole = {
        "specversion": "1.0",
        "id": "event-1",
        "source": "/scanners/1",
        "type": "scan.taken",
        "data": row(1),
        **changes,
    }
    return {name: value for name, value in whole.items() if value is not ...}


def structured(**changes: Any) -> Opened | Violation:
    return open_event(Record(0, json.dumps(event(**changes)).encode(), STRUCTURED))


def binary(body: bytes = b"{}", **changes: bytes | None) -> Opened | Violation:
    return open_event(Record(0, body, headers("event-1", **changes)))


def opened(found: Opened | Violation) -> Opened:
    assert isinstance(found, Opened), found
    return found


def test_both_modes_say_the_same() -> None:
    time = b"2026-01-01T13:00:00.25+01:00"
    in_headers = binary(json.dumps(row(1)).encode(), ce_time=time, traceparent=PARENT.encode())
    in_body = structured(time=time.decode(), traceparent=PARENT)

    assert (
        in_headers
        == in_body
        == Opened("/scanners/1 event-1", NOON_MS * 1_000 + 250_000, PARENT, row(1))
    )


def test_without_a_time_kafkas_timestamp_counts() -> None:
    assert opened(binary()).occurred_us == NOON_MS * 1_000
    assert opened(structured()).occurred_us == NOON_MS * 1_000


def test_data_may_come_in_base64() -> None:
    encoded = base64.b64encode(json.dumps(row(2)).encode()).decode()

    assert opened(structured(data=..., data_base64=encoded)).row == row(2)


def test_the_trace_may_come_as_an_extension_or_as_kafkas_header() -> None:
    assert opened(binary(ce_traceparent=PARENT.encode())).traceparent == PARENT
    mixed = Record(0, json.dumps(event()).encode(), [*STRUCTURED, ("traceparent", PARENT.encode())])
    assert opened(open_event(mixed)).traceparent == PARENT
    assert opened(binary(traceparent=b"\xff")).row == {}


@pytest.mark.parametrize(
    ("found", "reason", "said"),
    [
        (binary(b'{"a'), "unparsable", "not JSON"),
        (binary(b""), "unparsable", "0 bytes"),
        (binary(b"\xff\xfe"), "unparsable", "not JSON"),
        (binary(ce_id=None), "envelope", "attributes id are missing"),
        (binary(ce_source=None, ce_type=None), "envelope", "source, type are missing"),
        (binary(ce_id=b""), "envelope", "id are missing"),
        (binary(ce_id=b"\xff"), "envelope", "ce_id is not UTF-8"),
        (binary(ce_specversion=b"0.3"), "envelope", "'0.3' is not known here"),
        (binary(ce_source=b"/a b"), "envelope", "no spaces"),
        (binary(ce_time=b"noon"), "envelope", "'noon': send RFC 3339"),
        (binary(ce_time=b"2026-01-01T12:00:00"), "envelope", "RFC 3339 with an offset"),
        (binary(ce_id=b"x" * 2_000), "envelope", "over 1024 characters"),
        (structured(id=...), "envelope", "id are missing"),
        (structured(id=7), "envelope", "id are no text"),
        (structured(time=7), "envelope", "time is 7"),
        (structured(data=..., data_base64="%"), "unparsable", "not JSON"),
        (open_event(Record(0, b"[]", STRUCTURED)), "envelope", "not []"),
        (open_event(Record(0, b"{", STRUCTURED)), "unparsable", "not JSON"),
        (open_event(Record(0, None, headers("event-1"))), "unparsable", "0 bytes"),
        (open_event(Record(0, b"{}", [])), "envelope", "specversion, id, source, type"),
        (
            open_event(Record(0, b"[]", [("content-type", b"application/cloudevents-batch+json")])),
            "envelope",
            "one a message",
        ),
    ],
)
def test_what_is_no_event_is_named(found: Opened | Violation, reason: str, said: str) -> None:
    assert isinstance(found, Violation)
    assert found.reason == reason
    assert said in found.detail


NAMES = st.sampled_from(
    ["ce_id", "ce_source", "ce_type", "ce_specversion", "ce_time", "content-type", "traceparent"]
)


@given(
    st.one_of(st.none(), st.binary(max_size=60)),
    st.lists(st.tuples(NAMES, st.one_of(st.none(), st.binary(max_size=20))), max_size=8),
)
def test_any_message_is_an_event_or_has_a_reason(
    body: bytes | None, given_headers: list[tuple[str, bytes | None]]
) -> None:
    found = open_event(Record(0, body, given_headers))

    assert isinstance(found, Opened | Violation)


@given(st.dictionaries(st.sampled_from([*event(), "time", "data_base64"]), st.none() | st.text()))
def test_any_structured_message_is_an_event_or_has_a_reason(changes: dict[str, Any]) -> None:
    assert isinstance(structured(**changes), Opened | Violation)
