"""ingest's RPCs: convert, call, convert."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import grpc.aio

from libs.common.errors import InvalidInputError
from libs.common.identity import caller
from libs.common.paging import page_size
from libs.common.pb.basalt.v1 import ingest_pb2 as pb
from libs.common.pb.basalt.v1 import ingest_pb2_grpc as pb_grpc
from services.ingest.core import paging
from services.ingest.core.datasets import Datasets
from services.ingest.core.quarantine import Quarantine
from services.ingest.core.remedies import Many, Remedies
from services.ingest.core.resolution import STATES, WAITING, State
from services.ingest.core.sources import Source, Sources
from services.ingest.core.uploads import Uploads
from services.ingest.inbound import messages
from services.ingest.ports import SourceKeys

# Told as soon as an upload's first message was heard and what follows is taken, so that a client
# sends nothing to who has answered already.
TAKES_IT = (("basalt-takes-it", "1"),)
RPC_NAME = pb.DESCRIPTOR.services_by_name["IngestService"].full_name


class IngestServicer(pb_grpc.IngestServiceServicer):
    def __init__(
        self,
        sources: Sources,
        keys: SourceKeys,
        uploads: Uploads,
        datasets: Datasets,
        quarantine: Quarantine,
        remedies: Remedies,
    ) -> None:
        self._sources = sources
        self._keys = keys
        self._uploads = uploads
        self._datasets = datasets
        self._quarantine = quarantine
        self._remedies = remedies

    def register(self, server: grpc.aio.Server) -> None:
        pb_grpc.add_IngestServiceServicer_to_server(self, server)

    # Sources.

    async def PutSource(self, request: pb.PutSourceRequest, context: Any) -> pb.PutSourceResponse:  # noqa: N802
        who = caller()
        source = await self._sources.put(
            who.tenant, request.name, request.contract_yaml, who.subject
        )
        return pb.PutSourceResponse(source=await self._source(source))

    async def GetSource(self, request: pb.GetSourceRequest, context: Any) -> pb.GetSourceResponse:  # noqa: N802
        source = await self._sources.get(caller().tenant, request.name)
        return pb.GetSourceResponse(source=await self._source(source))

    async def ListSources(  # noqa: N802
        self, request: pb.ListSourcesRequest, context: Any
    ) -> pb.ListSourcesResponse:
        (after,) = paging.place(request.page.token, "")
        size = page_size(request.page.size)
        sources = await self._sources.page(caller().tenant, after, size)
        shown, token = paging.fitting(
            [await self._source(source) for source in sources],
            size,
            lambda shown: shown.ByteSize(),
            lambda last: last.name,
        )
        return pb.ListSourcesResponse(sources=shown, next_page_token=token)

    async def CreateSourceKey(  # noqa: N802
        self, request: pb.CreateSourceKeyRequest, context: Any
    ) -> pb.CreateSourceKeyResponse:
        who = caller()
        source = await self._sources.get(who.tenant, request.source)
        key, password = await self._keys.create(source.name, who.subject)
        return pb.CreateSourceKeyResponse(key=messages.key_message(key), password=password)

    async def RotateSourceKey(  # noqa: N802
        self, request: pb.RotateSourceKeyRequest, context: Any
    ) -> pb.RotateSourceKeyResponse:
        who = caller()
        source = await self._sources.get(who.tenant, request.source)
        key, password = await self._keys.rotate(source.name, request.id, who.subject)
        return pb.RotateSourceKeyResponse(key=messages.key_message(key), password=password)

    async def RevokeSourceKey(  # noqa: N802
        self, request: pb.RevokeSourceKeyRequest, context: Any
    ) -> pb.RevokeSourceKeyResponse:
        who = caller()
        source = await self._sources.get(who.tenant, request.source)
        key = await self._keys.revoke(source.name, request.id, who.subject)
        return pb.RevokeSourceKeyResponse(key=messages.key_message(key))

    async def ListSourceKeys(  # noqa: N802
        self, request: pb.ListSourceKeysRequest, context: Any
    ) -> pb.ListSourceKeysResponse:
        source = await self._sources.get(caller().tenant, request.source)
        keys, token = await self._keys.page(source.name, request.page.size, request.page.token)
        return pb.ListSourceKeysResponse(
            keys=map(messages.key_message, keys), next_page_token=token
        )

    async def _source(self, source: Source) -> pb.Source:
        counts = await self._sources.counts(source.tenant, source.name)
        return messages.source_message(source, counts)

    # Uploads.

    async def UploadRecords(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.UploadRecordsRequest], context: Any
    ) -> pb.UploadRecordsResponse:
        who, requests = caller(), aiter(request_iterator)
        first = await _first(requests)

        async def parts() -> AsyncIterator[Sequence[bytes]]:
            await context.send_initial_metadata(TAKES_IT)
            async for request in _whole(first, requests):
                yield request.records

        summary = await self._uploads.take_records(
            who.tenant, first.source, first.idempotency_key, who.subject, parts()
        )
        return pb.UploadRecordsResponse(summary=messages.summary_message(summary))

    async def UploadFile(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.UploadFileRequest], context: Any
    ) -> pb.UploadFileResponse:
        who, requests = caller(), aiter(request_iterator)
        first = await _first(requests)

        async def parts() -> AsyncIterator[bytes]:
            await context.send_initial_metadata(TAKES_IT)
            async for request in _whole(first, requests):
                yield request.part

        summary = await self._uploads.take_file(
            who.tenant,
            first.source,
            first.idempotency_key,
            who.subject,
            messages.file_format(first.format),
            parts(),
        )
        return pb.UploadFileResponse(summary=messages.summary_message(summary))

    # Datasets.

    async def SealDataset(  # noqa: N802
        self, request: pb.SealDatasetRequest, context: Any
    ) -> pb.SealDatasetResponse:
        who = caller()
        version, created = await self._datasets.seal(
            who.tenant, request.dataset, request.idempotency_key, who.subject
        )
        return pb.SealDatasetResponse(version=messages.version_message(version), created=created)

    async def ListDatasets(  # noqa: N802
        self, request: pb.ListDatasetsRequest, context: Any
    ) -> pb.ListDatasetsResponse:
        (after,) = paging.place(request.page.token, "")
        size = page_size(request.page.size)
        datasets = await self._datasets.page(caller().tenant, after, size)
        shown, token = paging.fitting(
            [messages.dataset_message(dataset) for dataset in datasets],
            size,
            lambda shown: shown.ByteSize(),
            lambda last: last.name,
        )
        return pb.ListDatasetsResponse(datasets=shown, next_page_token=token)

    async def ListDatasetVersions(  # noqa: N802
        self, request: pb.ListDatasetVersionsRequest, context: Any
    ) -> pb.ListDatasetVersionsResponse:
        (after,) = paging.place(request.page.token, 0)
        size = page_size(request.page.size)
        versions = await self._datasets.versions(caller().tenant, request.dataset, after, size)
        shown, token = paging.fitting(
            [messages.version_message(version) for version in versions],
            size,
            lambda shown: shown.ByteSize(),
            lambda last: last.version,
        )
        return pb.ListDatasetVersionsResponse(versions=shown, next_page_token=token)

    async def GetDatasetVersion(  # noqa: N802
        self, request: pb.GetDatasetVersionRequest, context: Any
    ) -> pb.GetDatasetVersionResponse:
        version = await self._datasets.version(caller().tenant, request.dataset, request.version)
        return pb.GetDatasetVersionResponse(version=messages.version_message(version))

    async def ReadDataset(  # noqa: N802
        self, request: pb.ReadDatasetRequest, context: Any
    ) -> AsyncIterator[pb.ReadDatasetResponse]:
        version = await self._datasets.version(caller().tenant, request.dataset, request.version)
        yield pb.ReadDatasetResponse(version=messages.version_message(version))
        async for part in self._datasets.read(version):
            yield pb.ReadDatasetResponse(part=part)

    # Quarantine.

    async def ListQuarantine(  # noqa: N802
        self, request: pb.ListQuarantineRequest, context: Any
    ) -> pb.ListQuarantineResponse:
        wanted = pb.QuarantineFilter()
        wanted.CopyFrom(request.filter)
        wanted.source = request.source or wanted.source
        wanted.state = request.state or wanted.state
        records, token = await self._quarantine.page(
            caller().tenant,
            messages.quarantine_filter(wanted, STATES),
            request.page.token,
            page_size(request.page.size),
        )
        shown = [messages.quarantined_message(record) for record in records]
        return pb.ListQuarantineResponse(records=shown, next_page_token=token)

    async def GetQuarantined(  # noqa: N802
        self, request: pb.GetQuarantinedRequest, context: Any
    ) -> pb.GetQuarantinedResponse:
        record = await self._quarantine.get(caller().tenant, request.id)
        return pb.GetQuarantinedResponse(record=messages.quarantined_message(record))

    async def MendQuarantined(  # noqa: N802
        self, request: pb.MendQuarantinedRequest, context: Any
    ) -> pb.MendQuarantinedResponse:
        who = caller()
        record = await self._remedies.mend(who.tenant, request.id, request.body, who.subject)
        return pb.MendQuarantinedResponse(record=messages.quarantined_message(record))

    async def ReplayQuarantined(  # noqa: N802
        self, request: pb.ReplayQuarantinedRequest, context: Any
    ) -> pb.ReplayQuarantinedResponse:
        who = caller()
        record, already = await self._remedies.replay(who.tenant, request.id, who.subject)
        return pb.ReplayQuarantinedResponse(
            record=messages.quarantined_message(record), already_replayed=already
        )

    async def CountQuarantine(  # noqa: N802
        self, request: pb.CountQuarantineRequest, context: Any
    ) -> pb.CountQuarantineResponse:
        wanted = messages.quarantine_filter(request.filter, WAITING)
        counts = await self._quarantine.count(caller().tenant, wanted)
        return pb.CountQuarantineResponse(counts=map(messages.count_message, counts))

    async def BatchMendQuarantined(  # noqa: N802
        self, request: pb.BatchMendQuarantinedRequest, context: Any
    ) -> pb.BatchMendQuarantinedResponse:
        who, mended = caller(), messages.mended_records(request.records)
        progress = await self._remedies.mend_many(who.tenant, mended, who.subject)
        return pb.BatchMendQuarantinedResponse(progress=messages.progress_message(progress))

    async def BatchChangeQuarantined(  # noqa: N802
        self, request: pb.BatchChangeQuarantinedRequest, context: Any
    ) -> AsyncIterator[pb.BatchChangeQuarantinedResponse]:
        who, wanted = caller(), messages.row_changes(request.changes)
        many = _many(request, ("held",))
        async for progress in self._remedies.change_many(who.tenant, many, wanted, who.subject):
            yield pb.BatchChangeQuarantinedResponse(progress=messages.progress_message(progress))

    async def BatchReplayQuarantined(  # noqa: N802
        self, request: pb.BatchReplayQuarantinedRequest, context: Any
    ) -> AsyncIterator[pb.BatchReplayQuarantinedResponse]:
        who, many = caller(), _many(request, WAITING)
        async for progress in self._remedies.replay_many(who.tenant, many, who.subject):
            yield pb.BatchReplayQuarantinedResponse(progress=messages.progress_message(progress))

    async def BatchDiscardQuarantined(  # noqa: N802
        self, request: pb.BatchDiscardQuarantinedRequest, context: Any
    ) -> AsyncIterator[pb.BatchDiscardQuarantinedResponse]:
        who, many = caller(), _many(request, WAITING)
        async for progress in self._remedies.discard_many(who.tenant, many, who.subject):
            yield pb.BatchDiscardQuarantinedResponse(progress=messages.progress_message(progress))


def _many(request: Any, otherwise: Iterable[State]) -> Many:
    return Many(messages.quarantine_filter(request.filter, otherwise), frozenset(request.ids))


async def _first(requests: AsyncIterator[Any]) -> Any:
    """The message that says what the upload is. Raises InvalidInputError for a stream of none."""
    try:
        return await anext(requests)
    except StopAsyncIteration:
        raise InvalidInputError(
            "The upload has no message.",
            which="source",
            next_step="Send a first message that names the source.",
        ) from None


async def _whole(first: Any, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The messages up to the one marked as last. Raises InvalidInputError when there is none.

    A caller that cancels or dies may look to the server like one that has sent everything, so the
    end of a stream alone never says that an upload is whole.
    """
    request = first
    while not request.last:
        yield request
        try:
            request = await anext(requests)
        except StopAsyncIteration:
            raise InvalidInputError(
                "The upload ended before its last message; nothing of it was taken.",
                which="last",
                next_step="Send it again, under the same key, with last set in its final message.",
            ) from None
    yield request
