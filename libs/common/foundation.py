"""What every service stands on, put together once: the part of a composition root that is alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc.aio

from libs.common import stores, work
from libs.common.access import AccessWatch, ServiceTokens, audit_writer, verify_by
from libs.common.auditing import Auditing
from libs.common.bus import Bus, Router
from libs.common.clock import Clock, SystemClock
from libs.common.disk import Disk
from libs.common.health import Check, Health
from libs.common.history import HistoryFile, Mended
from libs.common.identity import TokenVerifier
from libs.common.journal import Journal, Relay
from libs.common.kafka import KafkaAccess
from libs.common.pb.basalt.v1 import security_pb2
from libs.common.policy import Policy
from libs.common.republishing import Republishing
from libs.common.rpc import Guard, Peers, Server, ServerTls
from libs.common.runtime import Keeping, Part, Service
from libs.common.settings import CommonSettings
from libs.common.sharing import Sharing
from libs.common.stores.ports import ObjectStore

Register = Callable[[grpc.aio.Server], None]


@dataclass(frozen=True, slots=True)
class Foundation:
    service: str
    settings: CommonSettings
    clock: Clock
    journal: Journal
    objects: ObjectStore
    peers: Peers
    # Without a token of ours: how one is got from security.
    open_peers: Peers
    verifier: TokenVerifier
    tls: ServerTls | None
    kafka: KafkaAccess
    # What is told of calls, by whatever guard stands before them.
    auditing: Auditing
    mended: Mended
    # This process's own, where BASALT_WORK is set.
    work: Path | None

    @classmethod
    def lay(cls, service: str, settings: CommonSettings) -> Foundation:
        clock = SystemClock()
        tls = ServerTls(settings.tls, service) if settings.tls else None
        credential = settings.service_credential.get_secret_value()
        open_peers = Peers(settings.peers, tls=tls)
        tokens = ServiceTokens(service, credential, open_peers)
        peers = Peers(settings.peers, tokens, tls)
        return cls(
            service=service,
            settings=settings,
            clock=clock,
            journal=Journal(stores.open_journal(settings.journal, service), clock),
            objects=stores.open_objects(settings, service),
            peers=peers,
            open_peers=open_peers,
            verifier=TokenVerifier(),
            tls=tls,
            kafka=KafkaAccess.of(settings, service),
            auditing=Auditing(audit_writer(peers), clock),
            work=work.place(settings.work),
            mended=Mended(
                service, clock, HistoryFile(settings.history, service) if settings.history else None
            ),
        )

    @property
    def sharing(self) -> Sharing:
        """New each time: a guard's own."""
        return Sharing(self.settings.tenant_shares)

    def build(
        self,
        *,
        router: Router,
        register: Sequence[Register],
        names: Sequence[str],
        parts: Sequence[Part] = (),
        checks: Sequence[Check] = (),
        writes: Sequence[Path] = (),
        on_keys: Callable[[security_pb2.FollowAccessResponse], None] | None = None,
        guard: Guard | None = None,
        auditing: Auditing | None = None,
        bus: Bus | None = None,
    ) -> Service:
        """The service: stores, access, `parts`, Kafka, relay, gRPC, in that order.

        `parts` are the service's own loops and consumers; `checks` its own dependencies,
        `writes` the folders that it writes besides its stores. `guard`, `auditing` and `bus` are
        given by a service that makes them itself: security, which is asked by all others and asks
        nobody, and who publishes outside the journal.
        """
        auditing = auditing or self.auditing
        bus = bus or Bus(self.kafka, router)
        relay = Relay(self.journal, bus)
        republishing = Republishing(
            self.service, self.journal.store, self.kafka, bus, mended=self.mended
        )
        access: list[AccessWatch] = []
        if guard is None:
            access = [AccessWatch(self.peers, self.service, verify_by(self.verifier, on_keys))]
            guard = Guard(self.verifier, Policy.load(), auditing, self.sharing)
        folders = [*writes, *([self.settings.work] if self.settings.work else [])]
        disk = Disk.under([self.settings.journal, self.settings.objects], folders)
        health = Health(
            self.service,
            self.clock,
            [
                Check("kafka", bus.ping),
                Check("journal", self.journal.store.ping),
                Check("objects", self.objects.ping),
                *([Check("disk", disk.ping)] if disk.folders else []),
                *checks,
            ],
            watched=[bus, relay, auditing, *access, *parts],
        )
        server = Server(
            self.settings.rpc_listen,
            guard,
            [*register, health.register],
            [*names, Health.RPC_NAME],
            self.tls,
        )
        return Service(
            name=self.service,
            parts=[
                Keeping("objects", self.objects.ping, self.objects.close),
                Keeping("journal", self.journal.store.ping, self.journal.store.close),
                self.open_peers,
                self.peers,
                *access,
                auditing,
                *parts,
                bus,
                relay,
                republishing,
                health,
                server,
            ],
            otlp=self.settings.otlp,
            otlp_token=self.settings.otlp_token.get_secret_value(),
            log_level=self.settings.log_level,
            work=self.work,
        )
