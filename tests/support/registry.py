"""The whole core of inference on a journal and objects in a folder, with real signatures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from libs.common.clock import Clock, SystemClock
from libs.common.errors import DependencyError, PreconditionError
from libs.common.events import ForeignModelFound
from libs.common.history import HistoryFile, Mended
from libs.common.journal import Journal
from libs.common.signing import verify_manifest
from libs.common.stores.directory import DirectoryObjects
from libs.common.stores.ports import JournalStore
from libs.common.stores.sqlite import SqliteJournal
from services.inference.core import names, versions
from services.inference.core.alarms import Alarms
from services.inference.core.artifacts import Artifacts
from services.inference.core.catalogue import Catalogue
from services.inference.core.gates import Gates
from services.inference.core.history import History
from services.inference.core.reconciler import Reconciler
from services.inference.core.registration import Registration
from services.inference.core.review import Review
from services.inference.core.rollout import Readiness, Rollout
from services.inference.core.versions import ModelVersion
from services.inference.ports import (
    Evaluator,
    ForeignModelError,
    Loaded,
    Measurement,
    ModelServer,
    Question,
    Servable,
    Signature,
    SilentModelError,
)
from services.security.outbound.model_signatures import OpenSsfSigner
from tests.support.candidates import Candidate, MemoryCandidates


class LocalSignatures:
    """Signs and verifies with a key of its own, in the way that security does."""

    def __init__(self, tenant: str = "acme") -> None:
        self._tenant = tenant
        self._signer = OpenSsfSigner()
        self.key = self._signer.new_key()
        self.reachable = True

    async def sign(self, model: str, version: int, manifest: bytes, approved_by: str) -> Signature:
        if not self.reachable:
            raise DependencyError("The service security cannot be reached.", which="security")
        content = await self._signer.sign(self.key.private, self._tenant, model, version, manifest)
        return Signature(content, self.key.key_id)

    async def verify(self, manifest: bytes, signature: bytes, name: str) -> None:
        verify_manifest(manifest, signature, {self.key.key_id: self.key.public_pem}, name)


class GivenMeasurement:
    """Answers what the test measured."""

    def __init__(self) -> None:
        self.answer = Measurement(
            rows=100,
            accuracy=0.97,
            balanced_accuracy=0.96,
            classes_seen=2,
            latency_ms_p50=0.1,
            latency_ms_p99=0.2,
        )
        self.asked: list[Question] = []

    async def measure(self, question: Question) -> Measurement:
        self.asked.append(question)
        return self.answer


@dataclass
class MemoryModelServer:
    """A Triton that holds what it is given, until it is killed."""

    loaded: dict[str, Servable] = field(default_factory=dict)
    loads: list[str] = field(default_factory=list)
    # Of each load, what it would prove; a foreign one has nothing to prove.
    proofs: dict[str, Loaded] = field(default_factory=dict)
    executions: dict[str, int] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    reachable: bool = True

    async def held(self) -> dict[str, int]:
        self._answer()
        return dict.fromkeys(self.loaded, 0) | self.executions

    async def examine(self, name: str) -> Loaded:
        self._answer()
        if name not in self.loaded:
            raise PreconditionError(f"{name} is not loaded.", which=name)
        if name in self.silent:
            raise SilentModelError("Its process has ended.", which=name)
        if name not in self.proofs:
            raise ForeignModelError("It is none of ours.", which=name)
        return self.proofs[name]

    async def load(self, servable: Servable) -> Loaded:
        self._answer()
        self.loads.append(servable.name)
        self.unload_now(servable.name)
        self.loaded[servable.name] = servable
        loaded = Loaded(servable.manifest_sha256, str(len(self.loads)))
        self.proofs[servable.name] = loaded
        return loaded

    async def unload(self, name: str) -> None:
        self._answer()
        self.unload_now(name)

    def unload_now(self, name: str) -> None:
        for known in (self.loaded, self.proofs, self.executions):
            known.pop(name, None)
        self.silent.discard(name)

    async def ping(self) -> None:
        self._answer()

    def kill(self) -> None:
        for name in list(self.loaded):
            self.unload_now(name)

    def load_foreign(self, name: str, servable: Servable) -> None:
        """Somebody else loads something under the name."""
        self.unload_now(name)
        self.loaded[name] = servable

    def _answer(self) -> None:
        if not self.reachable:
            raise DependencyError("Triton cannot be reached.", which="triton")


class MemoryAuditor:
    def __init__(self) -> None:
        self.records: list[ForeignModelFound] = []
        self.reachable = True

    async def record(self, found: ForeignModelFound) -> None:
        if not self.reachable:
            raise DependencyError("The service security cannot be reached.", which="security")
        if found not in self.records:
            self.records.append(found)


@dataclass(frozen=True)
class VerifiedAlone:
    """Readiness of a registry without a reconciler that runs: what is signed counts as loaded."""

    registry: Registry

    async def prepare(self, tenant: str, model: str, numbers: frozenset[int]) -> None:
        for number in numbers:
            version = await self.registry.version(number, model, tenant)
            signed = await self.registry.artifacts.signed(version)
            await self.registry.artifacts.servable(signed, version)


class Registry:
    """`register`, `gate` and `approve` walk a candidate along; each part can be had alone."""

    def __init__(
        self,
        folder: Path,
        *,
        evaluator: Evaluator | None = None,
        server: ModelServer | None = None,
        clock: Clock | None = None,
        readiness: Readiness | None = None,
        unload_delay_s: float = 0.0,
    ) -> None:
        self.clock = clock or SystemClock()
        self.store: JournalStore = SqliteJournal(folder / "inference.db")
        self.journal = Journal(self.store, self.clock)
        self.objects_folder = folder / "objects"
        self.objects = DirectoryObjects(self.objects_folder)
        self.signatures = LocalSignatures()
        self.candidates = MemoryCandidates()
        self.artifacts = Artifacts(self.objects, self.signatures)
        self.measurement = GivenMeasurement()
        self.server = server or MemoryModelServer()
        self.registration = Registration(self.journal, self.objects, self.candidates)
        self.gates = Gates(self.journal, self.clock, self.artifacts, evaluator or self.measurement)
        self.review = Review(
            self.journal, self.clock, self.objects, self.artifacts, self.signatures
        )
        self.catalogue = Catalogue(self.journal)
        self.rollout = Rollout(self.journal, self.clock, readiness or VerifiedAlone(self))
        self.history = History(self.rollout)
        self.auditor = MemoryAuditor()
        self.mended = Mended("inference", self.clock, HistoryFile(folder / "history", "inference"))
        self.reconciler = self.new_reconciler(unload_delay_s)

    def new_reconciler(self, unload_delay_s: float) -> Reconciler:
        return Reconciler(
            self.journal,
            self.server,
            self.artifacts,
            self.clock,
            Alarms(self.journal, self.clock, self.auditor, self.mended),
            self.mended,
            unload_delay_s=unload_delay_s,
        )

    async def servable(self, version: ModelVersion) -> Servable:
        signed = await self.artifacts.signed(version)
        return await self.artifacts.servable(signed, version)

    async def register(self, candidate: Candidate) -> ModelVersion:
        self.candidates.add(candidate)
        await self.registration.take(candidate.completed())
        model = await self.catalogue.model(candidate.tenant, candidate.model)
        return await self.version(model.latest_version, candidate.model, candidate.tenant)

    async def gated(self, candidate: Candidate) -> ModelVersion:
        version = await self.register(candidate)
        await self.gates.work()
        return await self.version(version.version, version.model, version.tenant)

    async def signed(self, candidate: Candidate) -> ModelVersion:
        version = await self.gated(candidate)
        await self.review.approve(version.tenant, version.model, version.version, "bob", "fine")
        return await self.version(version.version, version.model, version.tenant)

    async def version(
        self, number: int, model: str = "boxes", tenant: str = "acme"
    ) -> ModelVersion:
        return versions.of(await versions.find(self.journal, tenant, model, number))

    def object_path(self, version: ModelVersion, file: str) -> Path:
        digest = next(each.sha256 for each in version.files if each.name == file)
        return self.objects_folder / names.object_key(version.tenant, digest)

    async def close(self) -> None:
        await self.reconciler.stop()
        await self.store.close()


def flip_one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
