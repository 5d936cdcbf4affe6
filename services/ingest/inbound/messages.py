"""Between ingest's own terms and the messages of its RPC contract."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import orjson
from google.protobuf.timestamp_pb2 import Timestamp

from libs.common.errors import InvalidInputError
from libs.common.pb.basalt.v1 import common_pb2, security_pb2
from libs.common.pb.basalt.v1 import ingest_pb2 as pb
from services.ingest.core import bodies, changes
from services.ingest.core.assembly import ColumnSummary
from services.ingest.core.datasets import Dataset, DatasetVersion
from services.ingest.core.files import FileFormat
from services.ingest.core.quarantine import Filter, Quarantined, Waiting
from services.ingest.core.remedies import IDS_MAX, Progress
from services.ingest.core.resolution import State
from services.ingest.core.sources import Counts, Source
from services.ingest.core.uploads import Summary
from services.ingest.core.violation import REASONS
from services.ingest.ports import SourceKey

FORMATS: dict[int, FileFormat] = {
    pb.FILE_FORMAT_CSV: "csv",
    pb.FILE_FORMAT_JSON_LINES: "json lines",
    pb.FILE_FORMAT_PARQUET: "parquet",
}
STATES: dict[int, State] = {
    pb.QUARANTINE_STATE_HELD: "held",
    pb.QUARANTINE_STATE_MENDED: "mended",
    pb.QUARANTINE_STATE_REPLAYED: "replayed",
    pb.QUARANTINE_STATE_DISCARDED: "discarded",
}
STATE_NUMBERS = {state: number for number, state in STATES.items()}


def file_format(number: int) -> FileFormat:
    """Raises InvalidInputError for a format that is not known."""
    if number not in FORMATS:
        raise InvalidInputError(
            f"The file's format {number} is not known.",
            which="format",
            next_step=f"The first message says which: {', '.join(FORMATS.values())}.",
        )
    return FORMATS[number]


def quarantine_filter(given: pb.QuarantineFilter, otherwise: Iterable[State]) -> Filter:
    """`otherwise` are the states that are meant where none is given.

    Raises InvalidInputError for a state or a reason that is not known.
    """
    if given.state and given.state not in STATES:
        raise InvalidInputError(
            f"There is no quarantine state {given.state}.",
            which="state",
            next_step=f"Ask for one of {', '.join(STATES.values())}.",
        )
    if given.reason and given.reason not in REASONS:
        raise InvalidInputError(
            f"No record is held for {given.reason!r}.",
            which="reason",
            next_step=f"Ask for one of {', '.join(REASONS)}.",
        )
    return Filter(
        source=given.source,
        states=frozenset([STATES[given.state]] if given.state else otherwise),
        reason=given.reason,
        upload=given.upload,
        held_from=_moment(given, "held_from"),
        held_until=_moment(given, "held_until"),
    )


def _moment(given: pb.QuarantineFilter, field: str) -> datetime | None:
    if not given.HasField(field):  # pyright: ignore[reportArgumentType]
        return None
    try:
        return getattr(given, field).ToDatetime(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidInputError(
            f"{field} is no moment.", which=field, next_step="Give one of the years 1 to 9999."
        ) from error


def row_changes(given: Iterable[pb.RowChange]) -> list[changes.Change]:
    """Raises InvalidInputError for a change that says nothing, and for a value that is no JSON."""
    return [_row_change(each) for each in given]


def _row_change(given: pb.RowChange) -> changes.Change:
    match given.WhichOneof("change"):
        case "set":
            if len(given.set.value_json) > changes.VALUE_BYTES_MAX:
                raise InvalidInputError(
                    f"The value has over {changes.VALUE_BYTES_MAX} characters.",
                    which=given.set.column,
                    next_step="Mend such records by bodies of their own.",
                )
            try:
                value = bodies.parse(given.set.value_json)
            except orjson.JSONDecodeError as error:
                raise InvalidInputError(
                    f"The value is no JSON: {error}.",
                    which=given.set.column,
                    next_step='Write a text in quotation marks: "benign".',
                ) from error
            return changes.SetColumn(given.set.column, value)
        case "drop":
            return changes.DropColumn(given.drop)
        case "rename":
            return changes.RenameColumn(given.rename.column, given.rename.to)
        case "scale":
            return changes.ScaleColumn(given.scale.column, given.scale.factor)
        case _:
            raise InvalidInputError(
                "A change says nothing.",
                which="changes",
                next_step="Set, drop, rename or scale a column.",
            )


def mended_records(given: Iterable[pb.MendedRecord]) -> dict[str, bytes]:
    """Raises InvalidInputError for none, for too many, and for one that is there twice."""
    mended = {each.id: each.body for each in given}
    count = len(list(given))
    if not 0 < count <= IDS_MAX or len(mended) != count:
        raise InvalidInputError(
            f"The call has {count} records"
            + (", some of them twice." if len(mended) != count else "."),
            which="records",
            next_step=f"Send 1 to {IDS_MAX}, each once.",
        )
    return mended


def progress_message(progress: Progress) -> pb.QuarantineProgress:
    return pb.QuarantineProgress(
        done=progress.done, unfit=progress.unfit, examples=progress.examples
    )


def count_message(count: Waiting) -> pb.QuarantineCount:
    example = quarantined_message(count.example) if count.example else None
    if example is not None:
        example.ClearField("body")
        example.ClearField("mended_body")
        example.ClearField("row")
    return pb.QuarantineCount(
        source=count.source, reason=count.reason, records=count.records, example=example
    )


def stamp(at: datetime, by: str, cause: str) -> common_pb2.Stamp:
    return common_pb2.Stamp(at=timestamp(at), by=by, cause=cause)


def key_message(key: SourceKey) -> security_pb2.SourceKey:
    return security_pb2.SourceKey(
        id=key.id,
        source=key.source,
        topic=key.topic,
        user=key.user,
        revoked=key.revoked,
        changed=stamp(key.at, key.by, key.cause),
    )


def timestamp(at: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(at)
    return message


def source_message(source: Source, counts: Counts) -> pb.Source:
    return pb.Source(
        name=source.name,
        contract_yaml=source.contract_yaml,
        topic=source.topic,
        revision=source.revision,
        changed=stamp(source.at, source.by, source.cause),
        records_accepted=counts.accepted,
        records_quarantined=counts.waiting,
        records_duplicate=counts.duplicate,
        records_discarded=counts.discarded,
    )


def summary_message(summary: Summary) -> pb.UploadSummary:
    return pb.UploadSummary(
        source=summary.source,
        accepted=summary.accepted,
        quarantined=summary.held,
        repeated_upload=summary.repeated,
        reasons=summary.reasons,
        examples=summary.examples,
        lines_accepted=summary.lines.accepted,
        lines_quarantined=summary.lines.held,
        lines_skipped=summary.lines.skipped,
    )


def dataset_message(dataset: Dataset) -> pb.Dataset:
    return pb.Dataset(
        name=dataset.name,
        latest_version=dataset.latest_version,
        row_count=dataset.row_count,
        records_unsealed=dataset.records_unsealed,
        changed_at=timestamp(dataset.changed_at),
    )


def version_message(version: DatasetVersion) -> pb.DatasetVersion:
    sealed, manifest = version.sealed, version.sealed.manifest
    return pb.DatasetVersion(
        dataset=manifest.dataset,
        version=version.number,
        manifest_sha256=sealed.manifest_sha256,
        row_count=manifest.row_count,
        duplicates_dropped=sealed.duplicates_dropped,
        quarantined=sealed.quarantined,
        columns=[_column(column) for column in manifest.columns],
        files=[
            common_pb2.FileRef(name=file.name, sha256=file.sha256, size_bytes=file.size_bytes)
            for file in manifest.files
        ],
        parents=manifest.parents,
        source_revision=manifest.source_revision,
        sealed=stamp(version.at, version.by, version.cause),
        trace_id=sealed.trace_id,
    )


def _column(column: ColumnSummary) -> pb.ColumnStatistics:
    return pb.ColumnStatistics(
        name=column.name,
        type=column.type,
        unit=column.unit,
        null_count=column.null_count,
        distinct_count=column.distinct_count,
        minimum=column.minimum or 0.0,
        maximum=column.maximum or 0.0,
        mean=column.mean or 0.0,
        standard_deviation=column.standard_deviation or 0.0,
        deciles=column.deciles,
    )


def quarantined_message(quarantined: Quarantined) -> pb.QuarantinedRecord:
    record = quarantined.record
    return pb.QuarantinedRecord(
        id=quarantined.id,
        source=quarantined.source,
        state=STATE_NUMBERS[quarantined.state],  # pyright: ignore[reportArgumentType]
        reason=record.reason,
        detail=record.detail,
        body=record.body,
        mended_body=quarantined.mended,
        origin=record.origin,
        held=stamp(quarantined.at, quarantined.by, quarantined.cause),
        row=record.row,
    )
