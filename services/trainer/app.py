"""The composition root: the only file that names concrete adapters."""

from __future__ import annotations

from libs.common import work
from libs.common.foundation import Foundation
from libs.common.health import Check
from libs.common.pb.basalt.v1 import trainer_pb2
from libs.common.pb.basalt.v1.trainer_pb2_grpc import add_TrainerServiceServicer_to_server
from libs.common.runtime import Service
from services.trainer.core.attempt import Pace, Tools
from services.trainer.core.oversight import Oversight
from services.trainer.core.pipelines import Pipelines
from services.trainer.core.queue import JobQueue
from services.trainer.core.queueing import Queueing
from services.trainer.core.worker import Worker
from services.trainer.inbound.events import event_routes
from services.trainer.inbound.rpc import TrainerServicer
from services.trainer.outbound.ingest import IngestDatasets
from services.trainer.outbound.process import ProcessTraining
from services.trainer.outbound.workplace import FolderWorkplace
from services.trainer.settings import Settings


def build(settings: Settings) -> Service:
    foundation = Foundation.lay("trainer", settings)
    journal, clock, objects = foundation.journal, foundation.clock, foundation.objects
    datasets = IngestDatasets(foundation.peers)
    workplace = FolderWorkplace((foundation.work or settings.work) / work.JOBS)
    pipelines = Pipelines(journal, clock, datasets)
    queue = JobQueue(journal, clock, settings.tenant_shares, settings.tenant_jobs_at_once)
    queueing = Queueing(journal, clock, pipelines, datasets, queue)
    oversight = Oversight(journal, objects, clock, queue)
    tools = Tools(
        clock=clock,
        pipelines=pipelines,
        datasets=datasets,
        objects=objects,
        workplace=workplace,
        training=ProcessTraining(settings.otlp, settings.otlp_token.get_secret_value()),
        pace=Pace(
            lease_s=settings.lease_s,
            beat_s=settings.beat_s,
            poll_s=settings.poll_s,
            checkpoint_every_s=settings.checkpoint_every_s,
        ),
    )
    servicer = TrainerServicer(pipelines, queueing, oversight)
    return foundation.build(
        router=event_routes(queueing),
        register=[lambda server: add_TrainerServiceServicer_to_server(servicer, server)],
        names=[trainer_pb2.DESCRIPTOR.services_by_name["TrainerService"].full_name],
        parts=[Worker(journal, queue, tools, clock.new_id(), settings.jobs_at_once)],
        checks=[Check("work", workplace.ping)],
    )
