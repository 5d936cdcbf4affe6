"""What the core needs from outside."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from libs.common.errors import IntegrityError, PreconditionError
from libs.common.events import ForeignModelFound
from services.inference.core.manifest import File, Tensor


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a candidate; `file` is set at the start of each file, the manifest being first."""

    content: bytes
    file: File | None = None


class Candidates(Protocol):
    """Candidates as the trainer keeps them."""

    def read(self, job: str) -> AsyncIterator[Part]:
        """Raises NotFoundError, or DependencyError when the trainer cannot be reached."""
        ...


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be measured, on rows that the model has not seen in training.

    `champion` is the ONNX of the version in service, if any. `positive` is the index of the class
    whose share of the answers is the selection rate, by the values of `group`.
    """

    model: bytes
    evaluation: bytes
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    features: tuple[str, ...]
    classes: tuple[str, ...]
    group: str = ""
    positive: int = 1
    champion: bytes | None = None
    champion_features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Measurement:
    """`objections` say why the file must not be served at all; then nothing else was measured.

    Accuracies are shares from 0 to 1; `champion_objection` says why the champion could not answer.
    """

    objections: tuple[str, ...] = ()
    rows: int = 0
    accuracy: float = 0.0
    balanced_accuracy: float = 0.0
    classes_seen: int = 0
    latency_ms_p50: float = 0.0
    latency_ms_p99: float = 0.0
    champion_accuracy: float | None = None
    champion_objection: str = ""
    selection_rates: Mapping[str, float] | None = None
    group_objection: str = ""


class Evaluator(Protocol):
    async def measure(self, question: Question) -> Measurement:
        """Looks into the file, then runs it. Raises DependencyError when that fails for now."""
        ...


@dataclass(frozen=True, slots=True)
class Signature:
    content: bytes
    key_id: str


class Signer(Protocol):
    async def sign(self, model: str, version: int, manifest: bytes, approved_by: str) -> Signature:
        """Raises DependencyError when security cannot be reached."""
        ...


class SignatureVerifier(Protocol):
    async def verify(self, manifest: bytes, signature: bytes, name: str) -> None:
        """`name` is the internal name of what the signature has to be for.

        Raises IntegrityError when it does not hold, DependencyError when no key is at hand.
        """
        ...


@dataclass(frozen=True, slots=True)
class Servable:
    """A version whose files were verified a moment ago, with those bytes."""

    name: str
    manifest_sha256: str
    model_sha256: str
    model: bytes
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    batch_size_max: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """One load of this service, whichever of its processes did it: of what, and which."""

    manifest_sha256: str
    load: str


class ForeignModelError(IntegrityError):
    """What answers to a name is no load of this service."""


class SilentModelError(PreconditionError):
    """What is loaded does not answer any more."""


class ModelServer(Protocol):
    """Triton. Every method raises DependencyError when it cannot be reached."""

    async def held(self) -> Mapping[str, int]:
        """The name of everything loaded, with how often it was executed since it was loaded."""
        ...

    async def examine(self, name: str) -> Loaded:
        """Which load it is, proven at this moment by a real call.

        Raises ForeignModelError, SilentModelError, or PreconditionError when it is not loaded.
        """
        ...

    async def load(self, servable: Servable) -> Loaded:
        """Returns when it answers. Raises PreconditionError with the server's reason."""
        ...

    async def unload(self, name: str) -> None:
        """What is not loaded is no error."""
        ...

    async def ping(self) -> None: ...


class Auditor(Protocol):
    async def record(self, found: ForeignModelFound) -> None:
        """Puts it into the audit log; the same again changes nothing. Raises DependencyError."""
        ...
