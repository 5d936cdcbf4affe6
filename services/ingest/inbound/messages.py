"""Between ingest's own terms and the messages of its RPC contract."""

from __future__ import annotations

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from libs.common.errors import InvalidInputError
from libs.common.pb.basalt.v1 import common_pb2, security_pb2
from libs.common.pb.basalt.v1 import ingest_pb2 as pb
from services.ingest.core.assembly import ColumnSummary
from services.ingest.core.datasets import Dataset, DatasetVersion
from services.ingest.core.files import FileFormat
from services.ingest.core.quarantine import Quarantined, State
from services.ingest.core.sources import Counts, Source
from services.ingest.core.uploads import Summary
from services.ingest.ports import SourceKey

FORMATS: dict[int, FileFormat] = {
    pb.FILE_FORMAT_CSV: "csv",
    pb.FILE_FORMAT_JSON_LINES: "json lines",
    pb.FILE_FORMAT_PARQUET: "parquet",
}
STATES: dict[int, State | None] = {
    pb.QUARANTINE_STATE_UNSPECIFIED: None,
    pb.QUARANTINE_STATE_HELD: "held",
    pb.QUARANTINE_STATE_MENDED: "mended",
    pb.QUARANTINE_STATE_REPLAYED: "replayed",
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


def quarantine_state(number: int) -> State | None:
    """None asks for all. Raises InvalidInputError for a state that is not known."""
    if number not in STATES:
        raise InvalidInputError(f"There is no quarantine state {number}.", which="state")
    return STATES[number]


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
        records_quarantined=counts.held,
        records_duplicate=counts.duplicate,
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
    )
