"""The registry and the deployments over gRPC: convert, call, convert."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC
from typing import Any, ClassVar

import grpc.aio

from libs.common.identity import caller
from libs.common.pb.basalt.v1 import inference_pb2 as pb
from libs.common.pb.basalt.v1 import inference_pb2_grpc as pb_grpc
from services.inference.core import versions
from services.inference.core.artifacts import Artifacts
from services.inference.core.catalogue import Catalogue
from services.inference.core.deployments import Revision
from services.inference.core.history import History
from services.inference.core.pages import newest_first, page
from services.inference.core.reconciler import Reconciler
from services.inference.core.review import Review
from services.inference.core.rollout import Rollout
from services.inference.core.serving import SETTLE_S_MAX, Serving
from services.inference.inbound import messages

# What an answer needs to reach a caller who set a deadline.
ANSWER_S = 1.0
MODELS = pb.DESCRIPTOR.services_by_name["ModelService"].full_name
DEPLOYMENTS = pb.DESCRIPTOR.services_by_name["DeploymentService"].full_name


@dataclass(frozen=True, slots=True)
class Models(pb_grpc.ModelServiceServicer):
    RPC_NAME: ClassVar[str] = MODELS

    catalogue: Catalogue
    review: Review
    artifacts: Artifacts

    def register(self, server: grpc.aio.Server) -> None:
        pb_grpc.add_ModelServiceServicer_to_server(self, server)

    async def ListModels(  # noqa: N802
        self, request: pb.ListModelsRequest, context: Any
    ) -> pb.ListModelsResponse:
        found = await self.catalogue.models(caller().tenant)
        shown, token = page(found, request.page.size, request.page.token)
        return pb.ListModelsResponse(
            models=[
                messages.model(each, await self.catalogue.newest(caller().tenant, each))
                for each in shown
            ],
            next_page_token=token,
        )

    async def ListModelVersions(  # noqa: N802
        self, request: pb.ListModelVersionsRequest, context: Any
    ) -> pb.ListModelVersionsResponse:
        model = await self.catalogue.model(caller().tenant, request.model)
        newest_first = range(model.latest_version, 0, -1)
        numbers, token = page(newest_first, request.page.size, request.page.token)
        entries = await self.catalogue.versions(caller().tenant, model, numbers)
        return pb.ListModelVersionsResponse(
            versions=[
                messages.model_version(entry, model.aliases_of(versions.of(entry).version))
                for entry in entries
            ],
            next_page_token=token,
        )

    async def GetModelVersion(  # noqa: N802
        self, request: pb.GetModelVersionRequest, context: Any
    ) -> pb.GetModelVersionResponse:
        entry, model = await self.catalogue.version(
            caller().tenant, request.model, request.version, request.alias
        )
        version = versions.of(entry)
        aliases = model.aliases_of(version.version)
        card = await self.artifacts.card(version)
        return pb.GetModelVersionResponse(version=messages.model_version(entry, aliases, card))

    async def SetAlias(  # noqa: N802
        self, request: pb.SetAliasRequest, context: Any
    ) -> pb.SetAliasResponse:
        who = caller()
        model = await self.catalogue.set_alias(
            who.tenant, request.model, request.alias, request.version, who.subject
        )
        newest = await self.catalogue.newest(who.tenant, model)
        return pb.SetAliasResponse(model=messages.model(model, newest))

    async def ApproveModelVersion(  # noqa: N802
        self, request: pb.ApproveModelVersionRequest, context: Any
    ) -> pb.ApproveModelVersionResponse:
        who = caller()
        entry, already = await self.review.approve(
            who.tenant, request.model, request.version, who.subject, request.comment
        )
        return pb.ApproveModelVersionResponse(
            version=messages.model_version(entry), already_approved=already
        )

    async def RejectModelVersion(  # noqa: N802
        self, request: pb.RejectModelVersionRequest, context: Any
    ) -> pb.RejectModelVersionResponse:
        who = caller()
        entry, already = await self.review.reject(
            who.tenant, request.model, request.version, who.subject, request.comment
        )
        return pb.RejectModelVersionResponse(
            version=messages.model_version(entry), already_rejected=already
        )

    async def ReadModelVersion(  # noqa: N802
        self, request: pb.ReadModelVersionRequest, context: Any
    ) -> AsyncIterator[pb.ReadModelVersionResponse]:
        entry, _ = await self.catalogue.version(caller().tenant, request.model, request.version)
        async for part in self.artifacts.read(versions.of(entry)):
            yield pb.ReadModelVersionResponse(
                file=messages.file_ref(part.file) if part.file else None, part=part.content
            )


@dataclass(frozen=True, slots=True)
class Deployments(pb_grpc.DeploymentServiceServicer):
    RPC_NAME: ClassVar[str] = DEPLOYMENTS

    rollout: Rollout
    serving: Serving
    history: History
    reconciler: Reconciler

    def register(self, server: grpc.aio.Server) -> None:
        pb_grpc.add_DeploymentServiceServicer_to_server(self, server)

    async def Deploy(  # noqa: N802
        self, request: pb.DeployRequest, context: Any
    ) -> pb.DeployResponse:
        who = caller()
        revision, already = await self.rollout.deploy(
            who.tenant,
            request.model,
            request.version,
            weight=request.weight,
            expected_revision=request.expected_revision,
            reason=request.reason,
            by=who.subject,
        )
        return pb.DeployResponse(
            deployment=await self._settled(revision, context), already_in_force=already
        )

    async def Promote(  # noqa: N802
        self, request: pb.PromoteRequest, context: Any
    ) -> pb.PromoteResponse:
        who = caller()
        revision, already = await self.rollout.promote(
            who.tenant, request.model, reason=request.reason, by=who.subject
        )
        return pb.PromoteResponse(
            deployment=await self._settled(revision, context), already_in_force=already
        )

    async def Rollback(  # noqa: N802
        self, request: pb.RollbackRequest, context: Any
    ) -> pb.RollbackResponse:
        who = caller()
        revision, already = await self.rollout.roll_back(
            who.tenant,
            request.model,
            to_revision=request.to_revision,
            reason=request.reason,
            by=who.subject,
        )
        return pb.RollbackResponse(
            deployment=await self._settled(revision, context), already_in_force=already
        )

    async def Undeploy(  # noqa: N802
        self, request: pb.UndeployRequest, context: Any
    ) -> pb.UndeployResponse:
        who = caller()
        revision, already = await self.rollout.undeploy(
            who.tenant, request.model, reason=request.reason, by=who.subject
        )
        return pb.UndeployResponse(
            deployment=await self._settled(revision, context), already_in_force=already
        )

    async def GetDeployment(  # noqa: N802
        self, request: pb.GetDeploymentRequest, context: Any
    ) -> pb.GetDeploymentResponse:
        revision = await self.rollout.current(caller().tenant, request.model)
        standing = self.serving.standing(revision)
        return pb.GetDeploymentResponse(deployment=messages.deployment(standing))

    async def ListDeployments(  # noqa: N802
        self, request: pb.ListDeploymentsRequest, context: Any
    ) -> pb.ListDeploymentsResponse:
        found = await self.rollout.deployments(caller().tenant)
        shown, token = page(found, request.page.size, request.page.token)
        return pb.ListDeploymentsResponse(
            deployments=[messages.deployment(self.serving.standing(each)) for each in shown],
            next_page_token=token,
        )

    async def ListDeploymentHistory(  # noqa: N802
        self, request: pb.ListDeploymentHistoryRequest, context: Any
    ) -> pb.ListDeploymentHistoryResponse:
        at = request.at.ToDatetime(UTC) if request.HasField("at") else None
        found = await self.history.records(caller().tenant, request.model, at)
        shown, token = newest_first(found, request.page.size, request.page.token)
        return pb.ListDeploymentHistoryResponse(
            records=[messages.record(each, self.serving.standing(each.revision)) for each in shown],
            next_page_token=token,
        )

    async def WatchRoutes(  # noqa: N802
        self, request: pb.WatchRoutesRequest, context: Any
    ) -> AsyncIterator[pb.WatchRoutesResponse]:
        # The caller knows that it is heard before there is a table.
        await context.send_initial_metadata(())
        async for table in self.reconciler.tables():
            yield messages.routes(table)

    async def _settled(self, revision: Revision, context: Any) -> pb.Deployment:
        within_s = (context.time_remaining() or SETTLE_S_MAX + ANSWER_S) - ANSWER_S
        return messages.deployment(await self.serving.settled(revision, within_s))
