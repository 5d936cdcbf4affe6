"""Registry and deployments in the words of the contract."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from libs.common.pb.basalt.v1 import common_pb2
from libs.common.pb.basalt.v1 import inference_pb2 as pb
from libs.common.stores.ports import Entry
from services.inference.core import versions
from services.inference.core.catalogue import Model
from services.inference.core.history import Record
from services.inference.core.manifest import File, Lineage, Tensor
from services.inference.core.routes import Table
from services.inference.core.serving import Standing
from services.inference.core.versions import ModelVersion, Stage

STAGES = {
    Stage.CANDIDATE: pb.MODEL_STAGE_CANDIDATE,
    Stage.REFUSED: pb.MODEL_STAGE_REFUSED,
    Stage.GATED: pb.MODEL_STAGE_GATED,
    Stage.REJECTED: pb.MODEL_STAGE_REJECTED,
    Stage.SIGNED: pb.MODEL_STAGE_SIGNED,
}


def timestamp(at: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp


def file_ref(file: File) -> common_pb2.FileRef:
    return common_pb2.FileRef(name=file.name, sha256=file.sha256, size_bytes=file.size_bytes)


def tensors(given: Iterable[Tensor]) -> list[pb.Tensor]:
    return [pb.Tensor(name=each.name, datatype=each.datatype, shape=each.shape) for each in given]


def lineage(given: Lineage) -> pb.Lineage:
    return pb.Lineage(**given.model_dump())


def model_version(entry: Entry, aliases: Sequence[str] = (), card: str = "") -> pb.ModelVersion:
    version = versions.of(entry)
    return pb.ModelVersion(
        model=version.model,
        version=version.version,
        stage=STAGES[version.stage],
        manifest_sha256=version.manifest_sha256,
        files=map(file_ref, version.files),
        metrics=_metrics(version),
        gates=[pb.GateResult(**each.model_dump()) for each in version.gates],
        reviews=_reviews(version),
        lineage=lineage(version.lineage),
        inputs=tensors(version.inputs),
        outputs=tensors(version.answers),
        features=version.features,
        classes=version.classes,
        class_type=version.class_type,
        card=card,
        author=version.author,
        responsible=version.responsible,
        signed_by_key=version.signed_by_key,
        changed=common_pb2.Stamp(at=timestamp(entry.at), by=entry.by, cause=entry.cause),
        aliases=aliases,
    )


def _metrics(version: ModelVersion) -> list[common_pb2.Metric]:
    return [
        common_pb2.Metric(name=name, value=value) for name, value in sorted(version.metrics.items())
    ]


def _reviews(version: ModelVersion) -> list[pb.Review]:
    return [
        pb.Review(
            reviewer=each.reviewer,
            approved=each.approved,
            comment=each.comment,
            at=timestamp(each.at),
        )
        for each in version.reviews
    ]


def model(found: Model, latest: Entry | None) -> pb.Model:
    return pb.Model(
        name=found.name,
        latest_version=found.latest_version,
        latest_stage=STAGES[versions.of(latest).stage] if latest else pb.MODEL_STAGE_UNSPECIFIED,
        aliases=found.aliases,
        changed_at=timestamp(latest.at if latest else found.changed_at),
    )


def deployment(standing: Standing) -> pb.Deployment:
    revision = standing.revision
    return pb.Deployment(
        model=revision.model,
        revision=revision.revision,
        variants=[
            pb.Variant(
                version=each.version,
                manifest_sha256=each.manifest_sha256,
                weight=each.weight,
                ready=each.version in standing.ready,
            )
            for each in revision.variants
        ],
        action=revision.action,
        reason=revision.reason,
        changed=common_pb2.Stamp(at=timestamp(revision.at), by=revision.by, cause=revision.cause),
        problem=standing.problem,
    )


def record(found: Record, standing: Standing) -> pb.DeploymentRecord:
    """A past revision says nothing of what is ready now."""
    shown = deployment(standing)
    if found.until is not None:
        shown.problem = ""
    return pb.DeploymentRecord(
        deployment=shown,
        until=None if found.until is None else timestamp(found.until),
        lineages=[lineage(each.lineage) for each in found.revision.variants],
        approved_by=[each.approved_by for each in found.revision.variants],
    )


def routes(table: Table) -> pb.WatchRoutesResponse:
    return pb.WatchRoutesResponse(
        table_version=table.version,
        routes=[
            pb.Route(
                tenant=route.tenant,
                model=route.model,
                revision=route.revision,
                variants=[
                    pb.RouteVariant(
                        internal_name=each.internal_name,
                        version=each.version,
                        manifest_sha256=each.manifest_sha256,
                        weight=each.weight,
                    )
                    for each in route.variants
                ],
                batch_size_max=route.batch_size_max,
                inputs=tensors(route.inputs),
                outputs=tensors(route.outputs),
                features=route.features,
                classes=route.classes,
            )
            for route in table.routes
        ],
    )
