"""Whether what records in quarantine say keeps to their contract by now: as it came, or mended.

Of each function's records those that do not fit are answered with why. Takes CPU: use a thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from libs.common.stores.ports import Entry
from services.ingest.core import bodies, changes
from services.ingest.core.chunk import Held, Row
from services.ingest.core.cloudevents import unparsable
from services.ingest.core.limits import MENDED_BYTES_MAX, RECORD_BYTES_MAX
from services.ingest.core.moments import microseconds
from services.ingest.core.quarantine import Lot
from services.ingest.core.sources import Terms
from services.ingest.core.violation import Violation


def changed_bodies(
    said: Mapping[int, bytes], wanted: Sequence[changes.Change]
) -> tuple[dict[int, bytes], dict[int, str]]:
    """The new bodies of records, and of those that the changes do not fit why."""
    new: dict[int, bytes] = {}
    unfit: dict[int, str] = {}
    total = 0
    for number, body in said.items():
        try:
            changed = orjson.dumps(changes.changed(_row(body), wanted))
            if len(changed) > RECORD_BYTES_MAX:
                unfit[number] = f"It would have {len(changed)} bytes, over {RECORD_BYTES_MAX}."
            elif total + len(changed) > MENDED_BYTES_MAX:
                unfit[number] = "Too much is mended at once: replay what is mended, and go on."
            else:
                new[number], total = changed, total + len(changed)
        except changes.DoesNotApplyError as error:
            unfit[number] = str(error)
    return new, unfit


def fit_bodies(terms: Terms, new: Mapping[int, bytes]) -> tuple[dict[int, bytes], dict[int, str]]:
    """Those that keep to the contract, and why others do not."""
    why = {number: unfit_body(terms, body) for number, body in new.items()}
    fit = {number: body for number, body in new.items() if not why[number]}
    return fit, {number: f"Mended so, it {text}" for number, text in why.items() if text}


def fit_rows(
    terms: Terms, lot: Lot, said: Mapping[int, bytes]
) -> tuple[dict[int, Row], dict[int, str]]:
    """The rows of those that keep to the contract by now, and why others do not."""
    rows: dict[int, Row] = {}
    unfit: dict[int, str] = {}
    for number, body in said.items():
        held = lot.held[number]
        fault = _fault(terms, body) if body else Violation("unparsable", held.detail)
        if fault is not None:
            unfit[number] = fault.detail
            continue
        rows[number] = Row(
            position=number,
            identity=held.identity or f"/quarantine {lot.id_of(number)}",
            occurred_us=_occurred_us(held, lot.entry),
            value=bodies.parse(body),
            body=body,
            origin=held.origin,
        )
    return rows, unfit


def _row(body: bytes) -> Any:
    try:
        return bodies.parse(body) if body else None
    except orjson.JSONDecodeError:
        return None


def unfit_body(terms: Terms, body: bytes) -> str:
    """Why a body is no mended record; "" where it is one."""
    if len(body) > RECORD_BYTES_MAX:
        return f"has {len(body)} bytes; a record has at most {RECORD_BYTES_MAX}."
    fault = _fault(terms, body)
    return f"still breaks the contract: {fault.detail}" if fault else ""


def _fault(terms: Terms, body: bytes) -> Violation | None:
    try:
        verdict = terms.checker.exact(bodies.parse(body))
    except orjson.JSONDecodeError as error:
        return unparsable(body, error)
    return verdict if isinstance(verdict, Violation) else None


def _occurred_us(held: Held, entry: Entry) -> int:
    """When it occurred; of one whose time was wrong, when it came."""
    if held.reason != "future":
        return held.occurred_us
    return min(held.occurred_us, microseconds(entry.at))
