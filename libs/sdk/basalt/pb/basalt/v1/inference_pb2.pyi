import datetime

from basalt.pb.basalt.v1 import common_pb2 as _common_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ModelStage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODEL_STAGE_UNSPECIFIED: _ClassVar[ModelStage]
    MODEL_STAGE_CANDIDATE: _ClassVar[ModelStage]
    MODEL_STAGE_REFUSED: _ClassVar[ModelStage]
    MODEL_STAGE_GATED: _ClassVar[ModelStage]
    MODEL_STAGE_REJECTED: _ClassVar[ModelStage]
    MODEL_STAGE_SIGNED: _ClassVar[ModelStage]
MODEL_STAGE_UNSPECIFIED: ModelStage
MODEL_STAGE_CANDIDATE: ModelStage
MODEL_STAGE_REFUSED: ModelStage
MODEL_STAGE_GATED: ModelStage
MODEL_STAGE_REJECTED: ModelStage
MODEL_STAGE_SIGNED: ModelStage

class GateResult(_message.Message):
    __slots__ = ("gate", "passed", "value", "limit", "detail")
    GATE_FIELD_NUMBER: _ClassVar[int]
    PASSED_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    gate: str
    passed: bool
    value: float
    limit: float
    detail: str
    def __init__(self, gate: _Optional[str] = ..., passed: _Optional[bool] = ..., value: _Optional[float] = ..., limit: _Optional[float] = ..., detail: _Optional[str] = ...) -> None: ...

class Review(_message.Message):
    __slots__ = ("reviewer", "approved", "comment", "at")
    REVIEWER_FIELD_NUMBER: _ClassVar[int]
    APPROVED_FIELD_NUMBER: _ClassVar[int]
    COMMENT_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    reviewer: str
    approved: bool
    comment: str
    at: _timestamp_pb2.Timestamp
    def __init__(self, reviewer: _Optional[str] = ..., approved: _Optional[bool] = ..., comment: _Optional[str] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Tensor(_message.Message):
    __slots__ = ("name", "datatype", "shape")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATATYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    datatype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., datatype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class Lineage(_message.Message):
    __slots__ = ("dataset", "dataset_version", "dataset_manifest_sha256", "pipeline", "pipeline_revision", "job", "trace_id")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    DATASET_VERSION_FIELD_NUMBER: _ClassVar[int]
    DATASET_MANIFEST_SHA256_FIELD_NUMBER: _ClassVar[int]
    PIPELINE_FIELD_NUMBER: _ClassVar[int]
    PIPELINE_REVISION_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    dataset_version: int
    dataset_manifest_sha256: str
    pipeline: str
    pipeline_revision: int
    job: str
    trace_id: str
    def __init__(self, dataset: _Optional[str] = ..., dataset_version: _Optional[int] = ..., dataset_manifest_sha256: _Optional[str] = ..., pipeline: _Optional[str] = ..., pipeline_revision: _Optional[int] = ..., job: _Optional[str] = ..., trace_id: _Optional[str] = ...) -> None: ...

class ModelVersion(_message.Message):
    __slots__ = ("model", "version", "stage", "manifest_sha256", "files", "metrics", "gates", "reviews", "lineage", "inputs", "outputs", "features", "classes", "card", "author", "signed_by_key", "changed", "aliases", "responsible", "class_type")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_SHA256_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    GATES_FIELD_NUMBER: _ClassVar[int]
    REVIEWS_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    CARD_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    SIGNED_BY_KEY_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    RESPONSIBLE_FIELD_NUMBER: _ClassVar[int]
    CLASS_TYPE_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    stage: ModelStage
    manifest_sha256: str
    files: _containers.RepeatedCompositeFieldContainer[_common_pb2.FileRef]
    metrics: _containers.RepeatedCompositeFieldContainer[_common_pb2.Metric]
    gates: _containers.RepeatedCompositeFieldContainer[GateResult]
    reviews: _containers.RepeatedCompositeFieldContainer[Review]
    lineage: Lineage
    inputs: _containers.RepeatedCompositeFieldContainer[Tensor]
    outputs: _containers.RepeatedCompositeFieldContainer[Tensor]
    features: _containers.RepeatedScalarFieldContainer[str]
    classes: _containers.RepeatedScalarFieldContainer[str]
    card: str
    author: str
    signed_by_key: str
    changed: _common_pb2.Stamp
    aliases: _containers.RepeatedScalarFieldContainer[str]
    responsible: _containers.RepeatedScalarFieldContainer[str]
    class_type: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., stage: _Optional[_Union[ModelStage, str]] = ..., manifest_sha256: _Optional[str] = ..., files: _Optional[_Iterable[_Union[_common_pb2.FileRef, _Mapping]]] = ..., metrics: _Optional[_Iterable[_Union[_common_pb2.Metric, _Mapping]]] = ..., gates: _Optional[_Iterable[_Union[GateResult, _Mapping]]] = ..., reviews: _Optional[_Iterable[_Union[Review, _Mapping]]] = ..., lineage: _Optional[_Union[Lineage, _Mapping]] = ..., inputs: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., features: _Optional[_Iterable[str]] = ..., classes: _Optional[_Iterable[str]] = ..., card: _Optional[str] = ..., author: _Optional[str] = ..., signed_by_key: _Optional[str] = ..., changed: _Optional[_Union[_common_pb2.Stamp, _Mapping]] = ..., aliases: _Optional[_Iterable[str]] = ..., responsible: _Optional[_Iterable[str]] = ..., class_type: _Optional[str] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "latest_version", "latest_stage", "aliases", "changed_at")
    class AliasesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    LATEST_VERSION_FIELD_NUMBER: _ClassVar[int]
    LATEST_STAGE_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    CHANGED_AT_FIELD_NUMBER: _ClassVar[int]
    name: str
    latest_version: int
    latest_stage: ModelStage
    aliases: _containers.ScalarMap[str, int]
    changed_at: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., latest_version: _Optional[int] = ..., latest_stage: _Optional[_Union[ModelStage, str]] = ..., aliases: _Optional[_Mapping[str, int]] = ..., changed_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ("page",)
    PAGE_FIELD_NUMBER: _ClassVar[int]
    page: _common_pb2.PageRequest
    def __init__(self, page: _Optional[_Union[_common_pb2.PageRequest, _Mapping]] = ...) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models", "next_page_token")
    MODELS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    next_page_token: str
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ListModelVersionsRequest(_message.Message):
    __slots__ = ("model", "page")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PAGE_FIELD_NUMBER: _ClassVar[int]
    model: str
    page: _common_pb2.PageRequest
    def __init__(self, model: _Optional[str] = ..., page: _Optional[_Union[_common_pb2.PageRequest, _Mapping]] = ...) -> None: ...

class ListModelVersionsResponse(_message.Message):
    __slots__ = ("versions", "next_page_token")
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    versions: _containers.RepeatedCompositeFieldContainer[ModelVersion]
    next_page_token: str
    def __init__(self, versions: _Optional[_Iterable[_Union[ModelVersion, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetModelVersionRequest(_message.Message):
    __slots__ = ("model", "version", "alias")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    alias: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., alias: _Optional[str] = ...) -> None: ...

class GetModelVersionResponse(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: ModelVersion
    def __init__(self, version: _Optional[_Union[ModelVersion, _Mapping]] = ...) -> None: ...

class SetAliasRequest(_message.Message):
    __slots__ = ("model", "alias", "version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    alias: str
    version: int
    def __init__(self, model: _Optional[str] = ..., alias: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class SetAliasResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class ApproveModelVersionRequest(_message.Message):
    __slots__ = ("model", "version", "comment")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    COMMENT_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    comment: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., comment: _Optional[str] = ...) -> None: ...

class ApproveModelVersionResponse(_message.Message):
    __slots__ = ("version", "already_approved")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ALREADY_APPROVED_FIELD_NUMBER: _ClassVar[int]
    version: ModelVersion
    already_approved: bool
    def __init__(self, version: _Optional[_Union[ModelVersion, _Mapping]] = ..., already_approved: _Optional[bool] = ...) -> None: ...

class RejectModelVersionRequest(_message.Message):
    __slots__ = ("model", "version", "comment")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    COMMENT_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    comment: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., comment: _Optional[str] = ...) -> None: ...

class RejectModelVersionResponse(_message.Message):
    __slots__ = ("version", "already_rejected")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ALREADY_REJECTED_FIELD_NUMBER: _ClassVar[int]
    version: ModelVersion
    already_rejected: bool
    def __init__(self, version: _Optional[_Union[ModelVersion, _Mapping]] = ..., already_rejected: _Optional[bool] = ...) -> None: ...

class ReadModelVersionRequest(_message.Message):
    __slots__ = ("model", "version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class ReadModelVersionResponse(_message.Message):
    __slots__ = ("file", "part")
    FILE_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    file: _common_pb2.FileRef
    part: bytes
    def __init__(self, file: _Optional[_Union[_common_pb2.FileRef, _Mapping]] = ..., part: _Optional[bytes] = ...) -> None: ...

class Variant(_message.Message):
    __slots__ = ("version", "manifest_sha256", "weight", "ready")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_SHA256_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    version: int
    manifest_sha256: str
    weight: int
    ready: bool
    def __init__(self, version: _Optional[int] = ..., manifest_sha256: _Optional[str] = ..., weight: _Optional[int] = ..., ready: _Optional[bool] = ...) -> None: ...

class Deployment(_message.Message):
    __slots__ = ("model", "revision", "variants", "action", "reason", "changed", "problem")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    VARIANTS_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    model: str
    revision: int
    variants: _containers.RepeatedCompositeFieldContainer[Variant]
    action: str
    reason: str
    changed: _common_pb2.Stamp
    problem: str
    def __init__(self, model: _Optional[str] = ..., revision: _Optional[int] = ..., variants: _Optional[_Iterable[_Union[Variant, _Mapping]]] = ..., action: _Optional[str] = ..., reason: _Optional[str] = ..., changed: _Optional[_Union[_common_pb2.Stamp, _Mapping]] = ..., problem: _Optional[str] = ...) -> None: ...

class DeployRequest(_message.Message):
    __slots__ = ("model", "version", "weight", "reason", "expected_revision")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_REVISION_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    weight: int
    reason: str
    expected_revision: int
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., weight: _Optional[int] = ..., reason: _Optional[str] = ..., expected_revision: _Optional[int] = ...) -> None: ...

class DeployResponse(_message.Message):
    __slots__ = ("deployment", "already_in_force")
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    ALREADY_IN_FORCE_FIELD_NUMBER: _ClassVar[int]
    deployment: Deployment
    already_in_force: bool
    def __init__(self, deployment: _Optional[_Union[Deployment, _Mapping]] = ..., already_in_force: _Optional[bool] = ...) -> None: ...

class PromoteRequest(_message.Message):
    __slots__ = ("model", "reason")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    model: str
    reason: str
    def __init__(self, model: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class PromoteResponse(_message.Message):
    __slots__ = ("deployment", "already_in_force")
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    ALREADY_IN_FORCE_FIELD_NUMBER: _ClassVar[int]
    deployment: Deployment
    already_in_force: bool
    def __init__(self, deployment: _Optional[_Union[Deployment, _Mapping]] = ..., already_in_force: _Optional[bool] = ...) -> None: ...

class RollbackRequest(_message.Message):
    __slots__ = ("model", "to_revision", "reason")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TO_REVISION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    model: str
    to_revision: int
    reason: str
    def __init__(self, model: _Optional[str] = ..., to_revision: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class RollbackResponse(_message.Message):
    __slots__ = ("deployment", "already_in_force")
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    ALREADY_IN_FORCE_FIELD_NUMBER: _ClassVar[int]
    deployment: Deployment
    already_in_force: bool
    def __init__(self, deployment: _Optional[_Union[Deployment, _Mapping]] = ..., already_in_force: _Optional[bool] = ...) -> None: ...

class UndeployRequest(_message.Message):
    __slots__ = ("model", "reason")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    model: str
    reason: str
    def __init__(self, model: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class UndeployResponse(_message.Message):
    __slots__ = ("deployment", "already_in_force")
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    ALREADY_IN_FORCE_FIELD_NUMBER: _ClassVar[int]
    deployment: Deployment
    already_in_force: bool
    def __init__(self, deployment: _Optional[_Union[Deployment, _Mapping]] = ..., already_in_force: _Optional[bool] = ...) -> None: ...

class GetDeploymentRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class GetDeploymentResponse(_message.Message):
    __slots__ = ("deployment",)
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    deployment: Deployment
    def __init__(self, deployment: _Optional[_Union[Deployment, _Mapping]] = ...) -> None: ...

class ListDeploymentsRequest(_message.Message):
    __slots__ = ("page",)
    PAGE_FIELD_NUMBER: _ClassVar[int]
    page: _common_pb2.PageRequest
    def __init__(self, page: _Optional[_Union[_common_pb2.PageRequest, _Mapping]] = ...) -> None: ...

class ListDeploymentsResponse(_message.Message):
    __slots__ = ("deployments", "next_page_token")
    DEPLOYMENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    deployments: _containers.RepeatedCompositeFieldContainer[Deployment]
    next_page_token: str
    def __init__(self, deployments: _Optional[_Iterable[_Union[Deployment, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ListDeploymentHistoryRequest(_message.Message):
    __slots__ = ("model", "at", "page")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    PAGE_FIELD_NUMBER: _ClassVar[int]
    model: str
    at: _timestamp_pb2.Timestamp
    page: _common_pb2.PageRequest
    def __init__(self, model: _Optional[str] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., page: _Optional[_Union[_common_pb2.PageRequest, _Mapping]] = ...) -> None: ...

class DeploymentRecord(_message.Message):
    __slots__ = ("deployment", "until", "lineages", "approved_by")
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    LINEAGES_FIELD_NUMBER: _ClassVar[int]
    APPROVED_BY_FIELD_NUMBER: _ClassVar[int]
    deployment: Deployment
    until: _timestamp_pb2.Timestamp
    lineages: _containers.RepeatedCompositeFieldContainer[Lineage]
    approved_by: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, deployment: _Optional[_Union[Deployment, _Mapping]] = ..., until: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., lineages: _Optional[_Iterable[_Union[Lineage, _Mapping]]] = ..., approved_by: _Optional[_Iterable[str]] = ...) -> None: ...

class ListDeploymentHistoryResponse(_message.Message):
    __slots__ = ("records", "next_page_token")
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    records: _containers.RepeatedCompositeFieldContainer[DeploymentRecord]
    next_page_token: str
    def __init__(self, records: _Optional[_Iterable[_Union[DeploymentRecord, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class WatchRoutesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RouteVariant(_message.Message):
    __slots__ = ("internal_name", "version", "manifest_sha256", "weight")
    INTERNAL_NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_SHA256_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    internal_name: str
    version: int
    manifest_sha256: str
    weight: int
    def __init__(self, internal_name: _Optional[str] = ..., version: _Optional[int] = ..., manifest_sha256: _Optional[str] = ..., weight: _Optional[int] = ...) -> None: ...

class Route(_message.Message):
    __slots__ = ("tenant", "model", "revision", "variants", "batch_size_max", "inputs", "outputs", "features", "classes")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    VARIANTS_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_MAX_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    model: str
    revision: int
    variants: _containers.RepeatedCompositeFieldContainer[RouteVariant]
    batch_size_max: int
    inputs: _containers.RepeatedCompositeFieldContainer[Tensor]
    outputs: _containers.RepeatedCompositeFieldContainer[Tensor]
    features: _containers.RepeatedScalarFieldContainer[str]
    classes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, tenant: _Optional[str] = ..., model: _Optional[str] = ..., revision: _Optional[int] = ..., variants: _Optional[_Iterable[_Union[RouteVariant, _Mapping]]] = ..., batch_size_max: _Optional[int] = ..., inputs: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., features: _Optional[_Iterable[str]] = ..., classes: _Optional[_Iterable[str]] = ...) -> None: ...

class WatchRoutesResponse(_message.Message):
    __slots__ = ("routes", "table_version")
    ROUTES_FIELD_NUMBER: _ClassVar[int]
    TABLE_VERSION_FIELD_NUMBER: _ClassVar[int]
    routes: _containers.RepeatedCompositeFieldContainer[Route]
    table_version: int
    def __init__(self, routes: _Optional[_Iterable[_Union[Route, _Mapping]]] = ..., table_version: _Optional[int] = ...) -> None: ...
