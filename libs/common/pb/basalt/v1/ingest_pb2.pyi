import datetime

from libs.common.pb.basalt.v1 import common_pb2 as _common_pb2
from libs.common.pb.basalt.v1 import security_pb2 as _security_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FileFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FILE_FORMAT_UNSPECIFIED: _ClassVar[FileFormat]
    FILE_FORMAT_CSV: _ClassVar[FileFormat]
    FILE_FORMAT_JSON_LINES: _ClassVar[FileFormat]
    FILE_FORMAT_PARQUET: _ClassVar[FileFormat]

class QuarantineState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    QUARANTINE_STATE_UNSPECIFIED: _ClassVar[QuarantineState]
    QUARANTINE_STATE_HELD: _ClassVar[QuarantineState]
    QUARANTINE_STATE_MENDED: _ClassVar[QuarantineState]
    QUARANTINE_STATE_REPLAYED: _ClassVar[QuarantineState]
    QUARANTINE_STATE_DISCARDED: _ClassVar[QuarantineState]
FILE_FORMAT_UNSPECIFIED: FileFormat
FILE_FORMAT_CSV: FileFormat
FILE_FORMAT_JSON_LINES: FileFormat
FILE_FORMAT_PARQUET: FileFormat
QUARANTINE_STATE_UNSPECIFIED: QuarantineState
QUARANTINE_STATE_HELD: QuarantineState
QUARANTINE_STATE_MENDED: QuarantineState
QUARANTINE_STATE_REPLAYED: QuarantineState
QUARANTINE_STATE_DISCARDED: QuarantineState

class Source(_message.Message):
    __slots__ = ("name", "contract_yaml", "topic", "revision", "changed", "records_accepted", "records_quarantined", "records_duplicate", "records_discarded")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_YAML_FIELD_NUMBER: _ClassVar[int]
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    RECORDS_ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    RECORDS_QUARANTINED_FIELD_NUMBER: _ClassVar[int]
    RECORDS_DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    RECORDS_DISCARDED_FIELD_NUMBER: _ClassVar[int]
    name: str
    contract_yaml: str
    topic: str
    revision: int
    changed: _common_pb2.Stamp
    records_accepted: int
    records_quarantined: int
    records_duplicate: int
    records_discarded: int
    def __init__(self, name: _Optional[str] = ..., contract_yaml: _Optional[str] = ..., topic: _Optional[str] = ..., revision: _Optional[int] = ..., changed: _Optional[_Union[_common_pb2.Stamp, _Mapping]] = ..., records_accepted: _Optional[int] = ..., records_quarantined: _Optional[int] = ..., records_duplicate: _Optional[int] = ..., records_discarded: _Optional[int] = ...) -> None: ...

class PutSourceRequest(_message.Message):
    __slots__ = ("name", "contract_yaml")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_YAML_FIELD_NUMBER: _ClassVar[int]
    name: str
    contract_yaml: str
    def __init__(self, name: _Optional[str] = ..., contract_yaml: _Optional[str] = ...) -> None: ...

class PutSourceResponse(_message.Message):
    __slots__ = ("source",)
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    source: Source
    def __init__(self, source: _Optional[_Union[Source, _Mapping]] = ...) -> None: ...

class CreateSourceKeyRequest(_message.Message):
    __slots__ = ("source",)
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    source: str
    def __init__(self, source: _Optional[str] = ...) -> None: ...

class CreateSourceKeyResponse(_message.Message):
    __slots__ = ("key", "password")
    KEY_FIELD_NUMBER: _ClassVar[int]
    PASSWORD_FIELD_NUMBER: _ClassVar[int]
    key: _security_pb2.SourceKey
    password: str
    def __init__(self, key: _Optional[_Union[_security_pb2.SourceKey, _Mapping]] = ..., password: _Optional[str] = ...) -> None: ...

class RotateSourceKeyRequest(_message.Message):
    __slots__ = ("source", "id")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    source: str
    id: str
    def __init__(self, source: _Optional[str] = ..., id: _Optional[str] = ...) -> None: ...

class RotateSourceKeyResponse(_message.Message):
    __slots__ = ("key", "password")
    KEY_FIELD_NUMBER: _ClassVar[int]
    PASSWORD_FIELD_NUMBER: _ClassVar[int]
    key: _security_pb2.SourceKey
    password: str
    def __init__(self, key: _Optional[_Union[_security_pb2.SourceKey, _Mapping]] = ..., password: _Optional[str] = ...) -> None: ...

class RevokeSourceKeyRequest(_message.Message):
    __slots__ = ("source", "id")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    source: str
    id: str
    def __init__(self, source: _Optional[str] = ..., id: _Optional[str] = ...) -> None: ...

class RevokeSourceKeyResponse(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: _security_pb2.SourceKey
    def __init__(self, key: _Optional[_Union[_security_pb2.SourceKey, _Mapping]] = ...) -> None: ...

class ListSourceKeysRequest(_message.Message):
    __slots__ = ("page", "source")
    PAGE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    page: _common_pb2.PageRequest
    source: str
    def __init__(self, page: _Optional[_Union[_common_pb2.PageRequest, _Mapping]] = ..., source: _Optional[str] = ...) -> None: ...

class ListSourceKeysResponse(_message.Message):
    __slots__ = ("keys", "next_page_token")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedCompositeFieldContainer[_security_pb2.SourceKey]
    next_page_token: str
    def __init__(self, keys: _Optional[_Iterable[_Union[_security_pb2.SourceKey, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetSourceRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetSourceResponse(_message.Message):
    __slots__ = ("source",)
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    source: Source
    def __init__(self, source: _Optional[_Union[Source, _Mapping]] = ...) -> None: ...

class ListSourcesRequest(_message.Message):
    __slots__ = ("page",)
    PAGE_FIELD_NUMBER: _ClassVar[int]
    page: _common_pb2.PageRequest
    def __init__(self, page: _Optional[_Union[_common_pb2.PageRequest, _Mapping]] = ...) -> None: ...

class ListSourcesResponse(_message.Message):
    __slots__ = ("sources", "next_page_token")
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    sources: _containers.RepeatedCompositeFieldContainer[Source]
    next_page_token: str
    def __init__(self, sources: _Optional[_Iterable[_Union[Source, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class UploadRecordsRequest(_message.Message):
    __slots__ = ("source", "idempotency_key", "records", "last")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    source: str
    idempotency_key: str
    records: _containers.RepeatedScalarFieldContainer[bytes]
    last: bool
    def __init__(self, source: _Optional[str] = ..., idempotency_key: _Optional[str] = ..., records: _Optional[_Iterable[bytes]] = ..., last: _Optional[bool] = ...) -> None: ...

class UploadRecordsResponse(_message.Message):
    __slots__ = ("summary",)
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    summary: UploadSummary
    def __init__(self, summary: _Optional[_Union[UploadSummary, _Mapping]] = ...) -> None: ...

class UploadSummary(_message.Message):
    __slots__ = ("source", "accepted", "quarantined", "repeated_upload", "reasons", "examples", "lines_accepted", "lines_quarantined", "lines_skipped")
    class ReasonsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    QUARANTINED_FIELD_NUMBER: _ClassVar[int]
    REPEATED_UPLOAD_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    LINES_ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    LINES_QUARANTINED_FIELD_NUMBER: _ClassVar[int]
    LINES_SKIPPED_FIELD_NUMBER: _ClassVar[int]
    source: str
    accepted: int
    quarantined: int
    repeated_upload: bool
    reasons: _containers.ScalarMap[str, int]
    examples: _containers.RepeatedScalarFieldContainer[str]
    lines_accepted: int
    lines_quarantined: int
    lines_skipped: int
    def __init__(self, source: _Optional[str] = ..., accepted: _Optional[int] = ..., quarantined: _Optional[int] = ..., repeated_upload: _Optional[bool] = ..., reasons: _Optional[_Mapping[str, int]] = ..., examples: _Optional[_Iterable[str]] = ..., lines_accepted: _Optional[int] = ..., lines_quarantined: _Optional[int] = ..., lines_skipped: _Optional[int] = ...) -> None: ...

class UploadFileRequest(_message.Message):
    __slots__ = ("source", "idempotency_key", "format", "part", "last")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    source: str
    idempotency_key: str
    format: FileFormat
    part: bytes
    last: bool
    def __init__(self, source: _Optional[str] = ..., idempotency_key: _Optional[str] = ..., format: _Optional[_Union[FileFormat, str]] = ..., part: _Optional[bytes] = ..., last: _Optional[bool] = ...) -> None: ...

class UploadFileResponse(_message.Message):
    __slots__ = ("summary",)
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    summary: UploadSummary
    def __init__(self, summary: _Optional[_Union[UploadSummary, _Mapping]] = ...) -> None: ...

class ColumnStatistics(_message.Message):
    __slots__ = ("name", "type", "unit", "null_count", "distinct_count", "minimum", "maximum", "mean", "standard_deviation", "deciles")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    NULL_COUNT_FIELD_NUMBER: _ClassVar[int]
    DISTINCT_COUNT_FIELD_NUMBER: _ClassVar[int]
    MINIMUM_FIELD_NUMBER: _ClassVar[int]
    MAXIMUM_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    STANDARD_DEVIATION_FIELD_NUMBER: _ClassVar[int]
    DECILES_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: str
    unit: str
    null_count: int
    distinct_count: int
    minimum: float
    maximum: float
    mean: float
    standard_deviation: float
    deciles: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, name: _Optional[str] = ..., type: _Optional[str] = ..., unit: _Optional[str] = ..., null_count: _Optional[int] = ..., distinct_count: _Optional[int] = ..., minimum: _Optional[float] = ..., maximum: _Optional[float] = ..., mean: _Optional[float] = ..., standard_deviation: _Optional[float] = ..., deciles: _Optional[_Iterable[float]] = ...) -> None: ...

class DatasetVersion(_message.Message):
    __slots__ = ("dataset", "version", "manifest_sha256", "row_count", "duplicates_dropped", "quarantined", "columns", "files", "parents", "source_revision", "sealed", "trace_id")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_SHA256_FIELD_NUMBER: _ClassVar[int]
    ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    DUPLICATES_DROPPED_FIELD_NUMBER: _ClassVar[int]
    QUARANTINED_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    PARENTS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_REVISION_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    version: int
    manifest_sha256: str
    row_count: int
    duplicates_dropped: int
    quarantined: int
    columns: _containers.RepeatedCompositeFieldContainer[ColumnStatistics]
    files: _containers.RepeatedCompositeFieldContainer[_common_pb2.FileRef]
    parents: _containers.RepeatedScalarFieldContainer[str]
    source_revision: int
    sealed: _common_pb2.Stamp
    trace_id: str
    def __init__(self, dataset: _Optional[str] = ..., version: _Optional[int] = ..., manifest_sha256: _Optional[str] = ..., row_count: _Optional[int] = ..., duplicates_dropped: _Optional[int] = ..., quarantined: _Optional[int] = ..., columns: _Optional[_Iterable[_Union[ColumnStatistics, _Mapping]]] = ..., files: _Optional[_Iterable[_Union[_common_pb2.FileRef, _Mapping]]] = ..., parents: _Optional[_Iterable[str]] = ..., source_revision: _Optional[int] = ..., sealed: _Optional[_Union[_common_pb2.Stamp, _Mapping]] = ..., trace_id: _Optional[str] = ...) -> None: ...

class SealDatasetRequest(_message.Message):
    __slots__ = ("dataset", "idempotency_key")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    idempotency_key: str
    def __init__(self, dataset: _Optional[str] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class SealDatasetResponse(_message.Message):
    __slots__ = ("version", "created")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    version: DatasetVersion
    created: bool
    def __init__(self, version: _Optional[_Union[DatasetVersion, _Mapping]] = ..., created: _Optional[bool] = ...) -> None: ...

class Dataset(_message.Message):
    __slots__ = ("name", "latest_version", "row_count", "records_unsealed", "changed_at")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LATEST_VERSION_FIELD_NUMBER: _ClassVar[int]
    ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    RECORDS_UNSEALED_FIELD_NUMBER: _ClassVar[int]
    CHANGED_AT_FIELD_NUMBER: _ClassVar[int]
    name: str
    latest_version: int
    row_count: int
    records_unsealed: int
    changed_at: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., latest_version: _Optional[int] = ..., row_count: _Optional[int] = ..., records_unsealed: _Optional[int] = ..., changed_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListDatasetsRequest(_message.Message):
    __slots__ = ("page",)
    PAGE_FIELD_NUMBER: _ClassVar[int]
    page: _common_pb2.PageRequest
    def __init__(self, page: _Optional[_Union[_common_pb2.PageRequest, _Mapping]] = ...) -> None: ...

class ListDatasetsResponse(_message.Message):
    __slots__ = ("datasets", "next_page_token")
    DATASETS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    datasets: _containers.RepeatedCompositeFieldContainer[Dataset]
    next_page_token: str
    def __init__(self, datasets: _Optional[_Iterable[_Union[Dataset, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ListDatasetVersionsRequest(_message.Message):
    __slots__ = ("dataset", "page")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    PAGE_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    page: _common_pb2.PageRequest
    def __init__(self, dataset: _Optional[str] = ..., page: _Optional[_Union[_common_pb2.PageRequest, _Mapping]] = ...) -> None: ...

class ListDatasetVersionsResponse(_message.Message):
    __slots__ = ("versions", "next_page_token")
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    versions: _containers.RepeatedCompositeFieldContainer[DatasetVersion]
    next_page_token: str
    def __init__(self, versions: _Optional[_Iterable[_Union[DatasetVersion, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetDatasetVersionRequest(_message.Message):
    __slots__ = ("dataset", "version")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    version: int
    def __init__(self, dataset: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class GetDatasetVersionResponse(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: DatasetVersion
    def __init__(self, version: _Optional[_Union[DatasetVersion, _Mapping]] = ...) -> None: ...

class ReadDatasetRequest(_message.Message):
    __slots__ = ("dataset", "version")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    version: int
    def __init__(self, dataset: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class ReadDatasetResponse(_message.Message):
    __slots__ = ("version", "part")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    version: DatasetVersion
    part: bytes
    def __init__(self, version: _Optional[_Union[DatasetVersion, _Mapping]] = ..., part: _Optional[bytes] = ...) -> None: ...

class QuarantinedRecord(_message.Message):
    __slots__ = ("id", "source", "state", "reason", "detail", "body", "mended_body", "origin", "held", "row")
    ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    MENDED_BODY_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    ROW_FIELD_NUMBER: _ClassVar[int]
    id: str
    source: str
    state: QuarantineState
    reason: str
    detail: str
    body: bytes
    mended_body: bytes
    origin: str
    held: _common_pb2.Stamp
    row: bytes
    def __init__(self, id: _Optional[str] = ..., source: _Optional[str] = ..., state: _Optional[_Union[QuarantineState, str]] = ..., reason: _Optional[str] = ..., detail: _Optional[str] = ..., body: _Optional[bytes] = ..., mended_body: _Optional[bytes] = ..., origin: _Optional[str] = ..., held: _Optional[_Union[_common_pb2.Stamp, _Mapping]] = ..., row: _Optional[bytes] = ...) -> None: ...

class QuarantineFilter(_message.Message):
    __slots__ = ("source", "state", "reason", "upload", "held_from", "held_until")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_FIELD_NUMBER: _ClassVar[int]
    HELD_FROM_FIELD_NUMBER: _ClassVar[int]
    HELD_UNTIL_FIELD_NUMBER: _ClassVar[int]
    source: str
    state: QuarantineState
    reason: str
    upload: str
    held_from: _timestamp_pb2.Timestamp
    held_until: _timestamp_pb2.Timestamp
    def __init__(self, source: _Optional[str] = ..., state: _Optional[_Union[QuarantineState, str]] = ..., reason: _Optional[str] = ..., upload: _Optional[str] = ..., held_from: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., held_until: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListQuarantineRequest(_message.Message):
    __slots__ = ("source", "state", "page", "filter")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PAGE_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    source: str
    state: QuarantineState
    page: _common_pb2.PageRequest
    filter: QuarantineFilter
    def __init__(self, source: _Optional[str] = ..., state: _Optional[_Union[QuarantineState, str]] = ..., page: _Optional[_Union[_common_pb2.PageRequest, _Mapping]] = ..., filter: _Optional[_Union[QuarantineFilter, _Mapping]] = ...) -> None: ...

class ListQuarantineResponse(_message.Message):
    __slots__ = ("records", "next_page_token")
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    records: _containers.RepeatedCompositeFieldContainer[QuarantinedRecord]
    next_page_token: str
    def __init__(self, records: _Optional[_Iterable[_Union[QuarantinedRecord, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetQuarantinedRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class GetQuarantinedResponse(_message.Message):
    __slots__ = ("record",)
    RECORD_FIELD_NUMBER: _ClassVar[int]
    record: QuarantinedRecord
    def __init__(self, record: _Optional[_Union[QuarantinedRecord, _Mapping]] = ...) -> None: ...

class MendQuarantinedRequest(_message.Message):
    __slots__ = ("id", "body")
    ID_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    id: str
    body: bytes
    def __init__(self, id: _Optional[str] = ..., body: _Optional[bytes] = ...) -> None: ...

class MendQuarantinedResponse(_message.Message):
    __slots__ = ("record",)
    RECORD_FIELD_NUMBER: _ClassVar[int]
    record: QuarantinedRecord
    def __init__(self, record: _Optional[_Union[QuarantinedRecord, _Mapping]] = ...) -> None: ...

class ReplayQuarantinedRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class ReplayQuarantinedResponse(_message.Message):
    __slots__ = ("record", "already_replayed")
    RECORD_FIELD_NUMBER: _ClassVar[int]
    ALREADY_REPLAYED_FIELD_NUMBER: _ClassVar[int]
    record: QuarantinedRecord
    already_replayed: bool
    def __init__(self, record: _Optional[_Union[QuarantinedRecord, _Mapping]] = ..., already_replayed: _Optional[bool] = ...) -> None: ...

class CountQuarantineRequest(_message.Message):
    __slots__ = ("filter",)
    FILTER_FIELD_NUMBER: _ClassVar[int]
    filter: QuarantineFilter
    def __init__(self, filter: _Optional[_Union[QuarantineFilter, _Mapping]] = ...) -> None: ...

class QuarantineCount(_message.Message):
    __slots__ = ("source", "reason", "records", "example")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    EXAMPLE_FIELD_NUMBER: _ClassVar[int]
    source: str
    reason: str
    records: int
    example: QuarantinedRecord
    def __init__(self, source: _Optional[str] = ..., reason: _Optional[str] = ..., records: _Optional[int] = ..., example: _Optional[_Union[QuarantinedRecord, _Mapping]] = ...) -> None: ...

class CountQuarantineResponse(_message.Message):
    __slots__ = ("counts",)
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    counts: _containers.RepeatedCompositeFieldContainer[QuarantineCount]
    def __init__(self, counts: _Optional[_Iterable[_Union[QuarantineCount, _Mapping]]] = ...) -> None: ...

class MendedRecord(_message.Message):
    __slots__ = ("id", "body")
    ID_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    id: str
    body: bytes
    def __init__(self, id: _Optional[str] = ..., body: _Optional[bytes] = ...) -> None: ...

class BatchMendQuarantinedRequest(_message.Message):
    __slots__ = ("records",)
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    records: _containers.RepeatedCompositeFieldContainer[MendedRecord]
    def __init__(self, records: _Optional[_Iterable[_Union[MendedRecord, _Mapping]]] = ...) -> None: ...

class BatchMendQuarantinedResponse(_message.Message):
    __slots__ = ("progress",)
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    progress: QuarantineProgress
    def __init__(self, progress: _Optional[_Union[QuarantineProgress, _Mapping]] = ...) -> None: ...

class QuarantineProgress(_message.Message):
    __slots__ = ("done", "unfit", "examples")
    DONE_FIELD_NUMBER: _ClassVar[int]
    UNFIT_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    done: int
    unfit: int
    examples: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, done: _Optional[int] = ..., unfit: _Optional[int] = ..., examples: _Optional[_Iterable[str]] = ...) -> None: ...

class RowChange(_message.Message):
    __slots__ = ("set", "drop", "rename", "scale")
    SET_FIELD_NUMBER: _ClassVar[int]
    DROP_FIELD_NUMBER: _ClassVar[int]
    RENAME_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    set: ColumnValue
    drop: str
    rename: ColumnName
    scale: ColumnFactor
    def __init__(self, set: _Optional[_Union[ColumnValue, _Mapping]] = ..., drop: _Optional[str] = ..., rename: _Optional[_Union[ColumnName, _Mapping]] = ..., scale: _Optional[_Union[ColumnFactor, _Mapping]] = ...) -> None: ...

class ColumnValue(_message.Message):
    __slots__ = ("column", "value_json")
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    VALUE_JSON_FIELD_NUMBER: _ClassVar[int]
    column: str
    value_json: str
    def __init__(self, column: _Optional[str] = ..., value_json: _Optional[str] = ...) -> None: ...

class ColumnName(_message.Message):
    __slots__ = ("column", "to")
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    column: str
    to: str
    def __init__(self, column: _Optional[str] = ..., to: _Optional[str] = ...) -> None: ...

class ColumnFactor(_message.Message):
    __slots__ = ("column", "factor")
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    FACTOR_FIELD_NUMBER: _ClassVar[int]
    column: str
    factor: float
    def __init__(self, column: _Optional[str] = ..., factor: _Optional[float] = ...) -> None: ...

class BatchChangeQuarantinedRequest(_message.Message):
    __slots__ = ("filter", "ids", "changes")
    FILTER_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    filter: QuarantineFilter
    ids: _containers.RepeatedScalarFieldContainer[str]
    changes: _containers.RepeatedCompositeFieldContainer[RowChange]
    def __init__(self, filter: _Optional[_Union[QuarantineFilter, _Mapping]] = ..., ids: _Optional[_Iterable[str]] = ..., changes: _Optional[_Iterable[_Union[RowChange, _Mapping]]] = ...) -> None: ...

class BatchChangeQuarantinedResponse(_message.Message):
    __slots__ = ("progress",)
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    progress: QuarantineProgress
    def __init__(self, progress: _Optional[_Union[QuarantineProgress, _Mapping]] = ...) -> None: ...

class BatchReplayQuarantinedRequest(_message.Message):
    __slots__ = ("filter", "ids")
    FILTER_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    filter: QuarantineFilter
    ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, filter: _Optional[_Union[QuarantineFilter, _Mapping]] = ..., ids: _Optional[_Iterable[str]] = ...) -> None: ...

class BatchReplayQuarantinedResponse(_message.Message):
    __slots__ = ("progress",)
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    progress: QuarantineProgress
    def __init__(self, progress: _Optional[_Union[QuarantineProgress, _Mapping]] = ...) -> None: ...

class BatchDiscardQuarantinedRequest(_message.Message):
    __slots__ = ("filter", "ids")
    FILTER_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    filter: QuarantineFilter
    ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, filter: _Optional[_Union[QuarantineFilter, _Mapping]] = ..., ids: _Optional[_Iterable[str]] = ...) -> None: ...

class BatchDiscardQuarantinedResponse(_message.Message):
    __slots__ = ("progress",)
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    progress: QuarantineProgress
    def __init__(self, progress: _Optional[_Union[QuarantineProgress, _Mapping]] = ...) -> None: ...
