"""`quarantine`: records that broke their contract, one by one and all that a filter tells."""

from __future__ import annotations

import hashlib
import json as codec
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from basalt.cli.client import each, pages, platform
from basalt.cli.output import (
    Json,
    Limit,
    as_json,
    assignments,
    console,
    done,
    fields,
    listed,
    note,
    plain,
    progress_bar,
    require_terminal,
    table,
    timestamp,
    told,
    word,
    written_whole,
)
from basalt.client import Client
from basalt.errors import InvalidInputError
from basalt.pb.basalt.v1 import ingest_pb2 as pb

BATCH_RECORDS, BATCH_BYTES = 1_000, 2 * 1024 * 1024
PAGE_RECORDS, EXAMPLES_SHOWN = 500, 3

quarantine = typer.Typer(help="Records that broke their contract.", no_args_is_help=True)

Source = Annotated[str, typer.Option(help="Of one source only.")]
Reason = Annotated[str, typer.Option(help="Held for this reason, such as missing or range.")]
Among = Annotated[
    Path | None, typer.Option("--file", help="That came with this file, as `data upload` sent it.")
]
Since = Annotated[str, typer.Option(help="That came from this time on, such as 2026-03-01T14:30.")]
Until = Annotated[str, typer.Option(help="That came before this time.")]
State = Annotated[str, typer.Option(help="held, mended, replayed or discarded.")]
Records = Annotated[
    list[str] | None, typer.Argument(help="Their ids; empty: those that the options tell.")
]


def add_to(app: typer.Typer) -> None:
    app.add_typer(quarantine, name="quarantine")


@quarantine.command("count")
def count(
    source: Source = "",
    reason: Reason = "",
    file: Among = None,
    since: Since = "",
    until: Until = "",
    json: Json = False,
) -> None:
    """Count what waits by reason, with one record of each.

    Example: basalt quarantine count --source patients
    """
    wanted = _filter(source, reason, file, since, until)
    with platform() as client:
        counts = client.call(
            client.ingest.CountQuarantine, pb.CountQuarantineRequest(filter=wanted)
        ).counts
    if json:
        as_json(counts)
        return
    table(
        "Quarantine",
        ("source", "reason", "records", "such as", "what is wrong"),
        ((c.source, c.reason, c.records, c.example.id, c.example.detail) for c in counts),
    )
    if counts:
        of = f"--source {counts[0].source} --reason {counts[0].reason}"
        note(
            f"Next: `basalt quarantine change {of}` mends all of a reason alike, or correct"
            " the contract; then `basalt quarantine replay`, or `discard`, with the same options."
        )


@quarantine.command("list")
def list_quarantine(
    source: Source = "",
    reason: Reason = "",
    file: Among = None,
    since: Since = "",
    until: Until = "",
    state: State = "",
    limit: Limit = 100,
    json: Json = False,
) -> None:
    """List records that broke their contract.

    Example: basalt quarantine list --reason missing
    """
    wanted = _filter(source, reason, file, since, until, state)
    with platform() as client:
        found = pages(
            client,
            client.ingest.ListQuarantine,
            pb.ListQuarantineRequest(filter=wanted),
            "records",
            limit,
        )
    listed(
        found,
        json,
        "Quarantine",
        ("id", "source", "state", "reason", "what is wrong", "origin"),
        lambda r: (r.id, r.source, word(pb.QuarantineState, r.state), r.reason, r.detail, r.origin),
    )


@quarantine.command("show")
def show_quarantined(record: str, json: Json = False) -> None:
    """Show a record as it came.

    Example: basalt quarantine show ID
    """
    with platform() as client:
        found = client.call(
            client.ingest.GetQuarantined, pb.GetQuarantinedRequest(id=record)
        ).record
    if json:
        as_json(found)
        return
    fields(
        found.id,
        (
            ("source", found.source),
            ("state", word(pb.QuarantineState, found.state)),
            ("reason", found.reason),
            ("what is wrong", found.detail),
            ("origin", found.origin),
        ),
    )
    console.print(plain(found.body.decode(errors="replace")), soft_wrap=True)


@quarantine.command("export")
def export(
    to: Annotated[Path, typer.Argument(help="The file to write, JSON lines.")],
    source: Source = "",
    reason: Reason = "",
    file: Among = None,
    since: Since = "",
    until: Until = "",
    state: State = "held",
    json: Json = False,
) -> None:
    """Write records to a file, to be corrected there and given back by `mend`.

    Example: basalt quarantine export held.jsonl --source patients
    """
    wanted = _filter(source, reason, file, since, until, state)
    request, count = pb.ListQuarantineRequest(filter=wanted), 0
    with platform() as client, written_whole(to) as file_:
        for record in each(
            client, client.ingest.ListQuarantine, request, "records", at_once=PAGE_RECORDS
        ):
            line = codec.dumps(_exported(record), ensure_ascii=False)
            file_.write(line.encode() + b"\n")
            count += 1
    told(
        {"file": str(to), "records": count},
        json,
        f"{count} records are in {to}. Next: correct each `record` there, then"
        f" `basalt quarantine mend --file {to}`",
    )


def _exported(record: pb.QuarantinedRecord) -> dict[str, Any]:
    """What `mend --file` takes; of a record in which there is no row, the text of it all."""
    row = record.mended_body or record.row
    said = codec.loads(row) if row else record.body.decode(errors="replace")
    return {"id": record.id, "reason": record.reason, "detail": record.detail, "record": said}


@quarantine.command("mend")
def mend(
    record: Annotated[str, typer.Argument(help="Its id; empty: those of --file.")] = "",
    body: Annotated[
        Path | None,
        typer.Argument(help="The corrected record, JSON; - for standard input."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(help='Many, as `export` writes them: JSON lines of "id" and "record".'),
    ] = None,
    json: Json = False,
) -> None:
    """Give a record a corrected body, or many theirs.

    Example: basalt quarantine mend ID mended.json
    """
    if file is not None and not record:
        _mend_file(file, json)
        return
    if not record or body is None or file is not None:
        raise InvalidInputError(
            "What to mend, and with what, is not said.",
            which="record",
            next_step="Give an id and a file of its corrected record, or --file alone.",
        )
    content = sys.stdin.buffer.read() if str(body) == "-" else body.read_bytes()
    with platform() as client:
        answer = client.call(
            client.ingest.MendQuarantined, pb.MendQuarantinedRequest(id=record, body=content)
        )
    told(answer, json, f"{record} is mended. Next: `basalt quarantine replay {record}`")


def _mend_file(file: Path, json: bool) -> None:
    sum_ = pb.QuarantineProgress()
    with platform() as client, progress_bar(json) as bar:
        task = bar.add_task(f"Mending by {file.name}", total=file.stat().st_size)
        for batch, bytes_read in _batches(_mended_lines(file)):
            answer = client.call(
                client.ingest.BatchMendQuarantined, pb.BatchMendQuarantinedRequest(records=batch)
            ).progress
            sum_.done += answer.done
            sum_.unfit += answer.unfit
            sum_.examples.extend(answer.examples[: max(EXAMPLES_SHOWN - len(sum_.examples), 0)])
            bar.advance(task, bytes_read)
    _ended(sum_, json, "mended", "basalt quarantine replay")


def _mended_lines(file: Path) -> Iterator[tuple[pb.MendedRecord, int]]:
    """Raises InvalidInputError for a line that is none of `export`'s, naming it."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                said = codec.loads(line)
                body = codec.dumps(said["record"], ensure_ascii=False).encode()
                yield pb.MendedRecord(id=said["id"], body=body), len(line)
            except (ValueError, KeyError, TypeError) as error:
                raise InvalidInputError(
                    f'{file}, line {number}: it is no object of "id" and "record".',
                    which=str(file),
                    next_step="Write each line as `basalt quarantine export` does.",
                ) from error


def _batches(
    records: Iterable[tuple[pb.MendedRecord, int]],
) -> Iterator[tuple[list[pb.MendedRecord], int]]:
    batch: list[pb.MendedRecord] = []
    size = 0
    for record, line_bytes in records:
        batch.append(record)
        size += line_bytes
        if len(batch) >= BATCH_RECORDS or size >= BATCH_BYTES:
            yield batch, size
            batch, size = [], 0
    if batch:
        yield batch, size


@quarantine.command("change")
def change(
    records: Records = None,
    put: Annotated[
        list[str] | None, typer.Option("--set", help="COLUMN=VALUE, JSON or else a text.")
    ] = None,
    drop: Annotated[list[str] | None, typer.Option(help="COLUMN, which is left out.")] = None,
    rename: Annotated[list[str] | None, typer.Option(help="COLUMN=NEW NAME.")] = None,
    scale: Annotated[
        list[str] | None, typer.Option(help="COLUMN=FACTOR, as for another unit.")
    ] = None,
    source: Source = "",
    reason: Reason = "",
    file: Among = None,
    since: Since = "",
    until: Until = "",
    json: Json = False,
) -> None:
    """Mend many records alike: set, drop, rename or scale columns of their rows.

    What breaks the contract then all the same stays as it was.

    Example: basalt quarantine change --source scans --reason unit --scale x=1000
    """
    changes = [
        *(pb.RowChange(rename=pb.ColumnName(column=a, to=b)) for a, b in assignments(rename)),
        *(pb.RowChange(drop=column) for column in drop or ()),
        *(
            pb.RowChange(set=pb.ColumnValue(column=a, value_json=_json(b)))
            for a, b in assignments(put)
        ),
        *(
            pb.RowChange(scale=pb.ColumnFactor(column=a, factor=_factor(b)))
            for a, b in assignments(scale)
        ),
    ]
    if not changes:
        raise InvalidInputError(
            "No change is given.",
            which="changes",
            next_step="Give --set, --drop, --rename or --scale.",
        )
    wanted = _filter(source, reason, file, since, until)
    request = pb.BatchChangeQuarantinedRequest(filter=wanted, ids=records, changes=changes)
    with platform() as client:
        said = _followed(client, client.ingest.BatchChangeQuarantined, request, json, "Mending")
    _ended(said, json, "mended", "basalt quarantine replay")


@quarantine.command("replay")
def replay(
    records: Records = None,
    source: Source = "",
    reason: Reason = "",
    file: Among = None,
    since: Since = "",
    until: Until = "",
    json: Json = False,
) -> None:
    """Send records in again, mended or because the contract allows them by now.

    Example: basalt quarantine replay --source patients --reason range
    """
    wanted = _filter(source, reason, file, since, until)
    if records and len(records) == 1 and wanted == pb.QuarantineFilter():
        _replay_one(records[0], json)
        return
    request = pb.BatchReplayQuarantinedRequest(filter=wanted, ids=records)
    with platform() as client:
        said = _followed(client, client.ingest.BatchReplayQuarantined, request, json, "Sending in")
    _ended(said, json, "sent in again; the next version holds them")


def _replay_one(record: str, json: bool) -> None:
    with platform() as client:
        answer = client.call(
            client.ingest.ReplayQuarantined, pb.ReplayQuarantinedRequest(id=record)
        )
    if answer.already_replayed:
        told(answer, json, f"{record} was sent in before; nothing was done now.")
    else:
        told(answer, json, f"{record} is sent in again; the next version holds it.")


@quarantine.command("discard")
def discard(
    records: Records = None,
    source: Source = "",
    reason: Reason = "",
    file: Among = None,
    since: Since = "",
    until: Until = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Take records off those that wait; they can still be looked at, and never be sent in.

    Example: basalt quarantine discard --source patients --reason doubtful --yes
    """
    wanted = _filter(source, reason, file, since, until)
    request = pb.BatchDiscardQuarantinedRequest(filter=wanted, ids=records)
    with platform() as client:
        if not yes:
            _confirm_discard(client, request)
        said = _followed(client, client.ingest.BatchDiscardQuarantined, request, json, "Discarding")
    _ended(said, json, "discarded")


def _confirm_discard(client: Client, request: pb.BatchDiscardQuarantinedRequest) -> None:
    require_terminal("Somebody has to agree", "--yes", "Add --yes to discard them unasked.")
    number = len(request.ids) or _waiting(client, request.filter)
    typer.confirm(f"Discard {number} records?", abort=True)


def _followed(
    client: Client, method: Callable[..., Any], request: Any, json: bool, doing: str
) -> pb.QuarantineProgress:
    """The last word of a call about many records, with a bar meanwhile."""
    said = pb.QuarantineProgress()
    with progress_bar(json) as bar:
        # Counting them is for the bar alone.
        total = 0 if bar.disable else len(request.ids) or _waiting(client, request.filter)
        task = bar.add_task(doing, total=total or None)
        for answer in client.stream(method, request):
            said = answer.progress
            bar.update(task, completed=said.done + said.unfit)
    return said


def _waiting(client: Client, wanted: pb.QuarantineFilter) -> int:
    answer = client.call(client.ingest.CountQuarantine, pb.CountQuarantineRequest(filter=wanted))
    return sum(each.records for each in answer.counts)


def _ended(said: pb.QuarantineProgress, json: bool, what: str, next_command: str = "") -> None:
    """Exits 1 when records were meant and none was fit."""
    if json:
        as_json(said)
    elif said.done:
        next_step = f" Next: `{next_command}` with the same options." if next_command else ""
        done(f"{said.done} records are {what}.{next_step}")
    else:
        note("No record is meant." if not said.unfit else f"No record is {what.partition(';')[0]}.")
    if said.unfit and not json:
        note(f"{said.unfit} stay as they were:")
        for example in said.examples:
            note(f"  {example}")
    if said.unfit and not said.done:
        raise typer.Exit(1)


def _filter(
    source: str, reason: str, file: Path | None, since: str, until: str, state: str = ""
) -> pb.QuarantineFilter:
    wanted = pb.QuarantineFilter(source=source, reason=reason)
    if state:
        name = f"QUARANTINE_STATE_{state.upper()}"
        if name not in pb.QuarantineState.keys():  # noqa: SIM118 - an enum is no dictionary.
            raise typer.BadParameter(f"{state!r} is none of held, mended, replayed, discarded.")
        wanted.state = pb.QuarantineState.Value(name)  # pyright: ignore[reportAttributeAccessIssue]
    if file is not None:
        with file.open("rb") as opened:
            wanted.upload = hashlib.file_digest(opened, "sha256").hexdigest()
    if since:
        wanted.held_from.CopyFrom(_moment(since))
    if until:
        wanted.held_until.CopyFrom(_moment(until))
    return wanted


def _moment(text: str) -> Timestamp:
    moment = Timestamp()
    moment.FromDatetime(timestamp(text))
    return moment


def _json(text: str) -> str:
    """The value as JSON: as it is given, or as a text where it is none."""
    try:
        codec.loads(text)
    except ValueError:
        return codec.dumps(text)
    return text


def _factor(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no number.") from error
