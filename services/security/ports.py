"""What security's decisions need from outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from libs.common.kafka_rights import Right
from libs.common.topics import TopicSpec


class Passwords(Protocol):
    """Each takes time: `address` is where the call came from, as addresses take turns."""

    async def hash(self, password: str, address: str = "") -> str:
        """Raises LimitError when too many wait."""
        ...

    async def match(self, password_hash: str | None, password: str, address: str = "") -> bool:
        """None takes as long as a wrong password does. Raises LimitError when too many wait."""
        ...


class PasswordGuesses(Protocol):
    async def log10(self, password: str, words: Sequence[str]) -> float:
        """How many guesses, in powers of ten, find the password if `words` are tried first."""
        ...


class Seal(Protocol):
    """Keeps secrets at rest unreadable without the master key."""

    def close(self, purpose: str, secret: bytes) -> str:
        """Text that `open` reads again, for the same purpose only."""
        ...

    def open(self, purpose: str, sealed: str) -> bytes:
        """Raises PreconditionError when the master key is another one or the text was changed."""
        ...

    def derive(self, purpose: str, salt: str) -> bytes:
        """32 bytes that nobody without the master key can tell, alike each time."""
        ...


@dataclass(frozen=True, slots=True)
class NewTokenKey:
    key_id: str
    public: Mapping[str, str]
    private: bytes


class TokenFormat(Protocol):
    """Signed tokens as everybody reads them: EdDSA JWTs."""

    def new_key(self, key_id: str) -> NewTokenKey: ...

    def encode(self, private: bytes, claims: Mapping[str, Any]) -> str: ...


@dataclass(frozen=True, slots=True)
class NewSigningKey:
    key_id: str
    public_pem: str
    private: bytes


class ManifestSigner(Protocol):
    """OpenSSF model-signing."""

    def new_key(self) -> NewSigningKey: ...

    async def sign(
        self, private: bytes, tenant: str, model: str, version: int, manifest: bytes
    ) -> bytes: ...

    async def verify(
        self, manifest: bytes, signature: bytes, public_keys: Mapping[str, str]
    ) -> str:
        """The key's id. Raises IntegrityError."""
        ...


class NoteSigner(Protocol):
    """Ed25519."""

    def new_key(self) -> tuple[bytes, bytes]:
        """Its private and its public half, 32 bytes each."""
        ...

    def sign(self, private: bytes, content: bytes) -> tuple[bytes, bytes]:
        """The public half and the signature."""
        ...


class KeptCheckpoints(Protocol):
    """Where checkpoints are beyond the reach of whoever holds security's journal.

    Raises DependencyError, whose `which` is "checkpoints", when it is out of reach.
    """

    async def keep(self, tenant: str, size: int, note: str) -> None:
        """Durable when it returns. What is kept of that size already stays."""
        ...

    async def newest(self, tenant: str) -> str | None:
        """The note of the largest log that was kept, as it was first."""
        ...


class FirstLoginNote(Protocol):
    """Where the first administrator finds their one-time password, once."""

    async def write(self, tenant: str, name: str, password: str) -> None: ...

    async def remove(self) -> None: ...


class KafkaAdministration(Protocol):
    """What one may do to Kafka as its administrator. All raise DependencyError when it is away.

    Each does what is missing: what is there already, or gone already, is no error.
    """

    async def ensure_topics(self, topics: Sequence[TopicSpec]) -> None:
        """Makes those that are missing, and gives all of them their settings."""
        ...

    async def users(self) -> frozenset[str]: ...

    async def put_users(self, passwords: Mapping[str, str]) -> None: ...

    async def remove_users(self, users: Sequence[str]) -> None:
        """Open sessions end when they have to log in again."""
        ...

    async def rights(self, user: str = "") -> frozenset[Right]:
        """All that are granted, or one user's."""
        ...

    async def grant(self, rights: Sequence[Right]) -> None:
        """In this order."""
        ...

    async def withdraw(self, rights: Sequence[Right]) -> None:
        """In force at the next request of an open session."""
        ...
