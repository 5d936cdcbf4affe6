"""Puts inference together: the only file that names concrete adapters."""

from __future__ import annotations

from libs.common.foundation import Foundation
from libs.common.health import Check
from libs.common.runtime import Loop, Service
from libs.common.stores.ports import Entry
from services.inference.core.alarms import Alarms
from services.inference.core.artifacts import Artifacts
from services.inference.core.catalogue import Catalogue
from services.inference.core.gates import Gates
from services.inference.core.history import History
from services.inference.core.reconciler import Reconciler
from services.inference.core.registration import Registration
from services.inference.core.review import Review
from services.inference.core.rollout import Rollout
from services.inference.core.serving import Serving
from services.inference.inbound.events import event_routes
from services.inference.inbound.rpc import Deployments, Models
from services.inference.outbound.evaluation import ProcessEvaluator
from services.inference.outbound.security import PublishedKeys, SecurityAudit, SecuritySigner
from services.inference.outbound.trainer import TrainerCandidates
from services.inference.outbound.triton import Triton
from services.inference.settings import Settings

# Candidates that another process registered, or from before, are found within this.
GATES_S = 10.0


def build(settings: Settings) -> Service:
    base = Foundation.lay("inference", settings)
    journal, clock, objects, peers = base.journal, base.clock, base.objects, base.peers
    triton = Triton(
        settings.triton,
        settings.triton_control_key.get_secret_value(),
        tls=base.tls,
        secret=settings.service_credential.get_secret_value().encode(),
        backend=settings.triton_backend,
        kind=settings.triton_instances,
    )
    artifacts = Artifacts(objects, PublishedKeys(peers, clock))
    alarms = Alarms(journal, clock, SecurityAudit(peers), base.mended)
    reconciler = Reconciler(
        journal,
        triton,
        artifacts,
        clock,
        alarms,
        base.mended,
        keep_versions=settings.keep_versions,
    )
    gates = Loop("gates", Gates(journal, clock, artifacts, ProcessEvaluator()).work, GATES_S)

    def wake_gates(entry: Entry) -> None:
        if entry.kind == "version":
            gates.wake()

    journal.listen(wake_gates)
    rollout = Rollout(journal, clock, reconciler)
    models = Models(
        Catalogue(journal),
        Review(journal, clock, objects, artifacts, SecuritySigner(peers)),
        artifacts,
    )
    deployments = Deployments(rollout, Serving(reconciler), History(rollout), reconciler)
    return base.build(
        router=event_routes(Registration(journal, objects, TrainerCandidates(peers))),
        register=[models.register, deployments.register],
        names=[models.RPC_NAME, deployments.RPC_NAME],
        parts=[triton, reconciler, gates],
        checks=[Check("triton", triton.ping)],
    )
