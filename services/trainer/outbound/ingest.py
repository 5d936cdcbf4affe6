"""Datasets from `ingest`, by RPC."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from libs.common import yaml_text
from libs.common.errors import IntegrityError, NotFoundError
from libs.common.pb.basalt.v1 import ingest_pb2 as pb
from libs.common.pb.basalt.v1.ingest_pb2_grpc import IngestServiceStub
from libs.common.rpc import Peers, translated
from services.trainer.ports import Columns, DatasetVersion

SEAL_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class IngestDatasets:
    peers: Peers

    @property
    def _stub(self) -> IngestServiceStub:
        return self.peers.stub(IngestServiceStub, "ingest")

    async def version(self, dataset: str, version: int) -> DatasetVersion:
        request = pb.GetDatasetVersionRequest(dataset=dataset, version=version)
        with translated("ingest"):
            return _version((await self._stub.GetDatasetVersion(request)).version)

    async def seal(self, dataset: str, idempotency_key: str) -> DatasetVersion:
        request = pb.SealDatasetRequest(dataset=dataset, idempotency_key=idempotency_key)
        with translated("ingest"):
            answer = await self._stub.SealDataset(request, timeout=SEAL_TIMEOUT_S)
        return _version(answer.version, created=answer.created)

    async def columns(self, dataset: str) -> Columns:
        """Out of the data contract of the source of the same name."""
        try:
            with translated("ingest"):
                answer = await self._stub.GetSource(pb.GetSourceRequest(name=dataset))
        except NotFoundError:
            return Columns()
        contract = yaml_text.load(answer.source.contract_yaml) or {}
        columns = contract.get("columns") or []
        by_role = {
            role: [str(column["name"]) for column in columns if column.get("role") == role]
            for role in ("key", "ignored")
        }
        key = dict.fromkeys([*map(str, contract.get("key") or []), *by_role["key"]])
        types = {str(column["name"]): str(column["type"]) for column in columns}
        return Columns(types, tuple(key), tuple(by_role["ignored"]))

    async def read(self, version: DatasetVersion) -> AsyncIterator[bytes]:
        request = pb.ReadDatasetRequest(dataset=version.dataset, version=version.version)
        digest = hashlib.sha256()
        named: set[str] = set()
        with translated("ingest"):
            async for message in self._stub.ReadDataset(request):
                if message.HasField("version"):
                    _require_manifest(version, message.version.manifest_sha256)
                    named = {file.sha256 for file in message.version.files}
                digest.update(message.part)
                yield message.part
        if digest.hexdigest() not in named:
            raise IntegrityError(
                f"The rows of {version.dataset} version {version.version} are not those that its"
                f" manifest names: their SHA-256 is {digest.hexdigest()[:12]}….",
                which=f"{version.dataset}/{version.version}",
                next_step="They were damaged where ingest keeps them: restore them there.",
            )


def _require_manifest(version: DatasetVersion, found: str) -> None:
    if version.manifest_sha256 not in ("", found):
        raise IntegrityError(
            f"{version.dataset} version {version.version} has another manifest than the one that"
            f" this job was queued for: {found[:12]}… instead of {version.manifest_sha256[:12]}….",
            which=f"{version.dataset}/{version.version}",
            next_step="Versions never change: look at the journal of ingest.",
        )


def _version(version: pb.DatasetVersion, *, created: bool = False) -> DatasetVersion:
    columns = {column.name: column.type for column in version.columns}
    return DatasetVersion(
        version.dataset, version.version, version.manifest_sha256, columns, created
    )
