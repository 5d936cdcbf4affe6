"""Checkpoints of an audit log: signed heads of its Merkle tree, and what they prove.

A checkpoint is a signed note (C2SP tlog-checkpoint): whose log, how many records, the head of the
tree of RFC 9162 over their hashes, and an Ed25519 signature of `security`. Whoever keeps one
notices later that a record before it was changed, moved or cut off. Nothing here is shared with
the service. docs/reference/audit.md has the bytes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from basalt.errors import InvalidInputError
from basalt.pb.basalt.v1.security_pb2 import AuditRecord

ORIGIN = "basalt/audit/"
SIGNATURE = "— "
ED25519 = b"\x01"
HASH_BYTES = 32
KEY_HASH_BYTES = 4
CHARACTERS_MAX = 10_000
EMPTY = hashlib.sha256(b"").digest()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`text` is what was signed; `signatures` are key name, key hash and signature."""

    tenant: str
    size: int
    head: bytes
    text: str
    signatures: tuple[tuple[str, bytes, bytes], ...]

    def signed_by(self, keys: Iterable[str]) -> str:
        """The one of `keys` (name+hash+key, as `basalt audit checkpoint` shows it) that signed it.

        "" when none did, or when what claims to be a known key's signature does not hold.
        """
        for key in keys:
            name, key_hash, public = _key(key)
            for signer, signer_hash, signature in self.signatures:
                if (signer, signer_hash) == (name, key_hash):
                    return key if _holds(public, signature, self.text) else ""
        return ""


def read(note: str) -> Checkpoint:
    """Raises InvalidInputError for what is no checkpoint."""
    try:
        if len(note) > CHARACTERS_MAX:
            raise ValueError("too long")
        text, _, rest = note.partition("\n\n")
        origin, size, head = text.split("\n")[:3]
        if not origin.startswith(ORIGIN) or not (size.isascii() and size.isdecimal()):
            raise ValueError("neither origin nor size")
        content = base64.b64decode(head, validate=True)
        if len(content) != HASH_BYTES:
            raise ValueError("no head")
        return Checkpoint(
            tenant=origin.removeprefix(ORIGIN),
            size=int(size),
            head=content,
            text=f"{text}\n",
            signatures=tuple(_signature(line) for line in rest.splitlines() if line),
        )
    except (ValueError, binascii.Error) as error:
        raise InvalidInputError(
            "This is no checkpoint of an audit log.",
            which="checkpoint",
            next_step="Give a file that `basalt audit checkpoint` wrote.",
        ) from error


class Tree:
    """The tree over a log that is read once, from its first record on, and its head by size."""

    def __init__(self, sizes: Iterable[int] = ()) -> None:
        """`heads` has those at `sizes` that were reached."""
        self._wanted = frozenset(sizes)
        self._peaks: list[bytes] = []
        self.size = 0
        self.heads: dict[int, bytes] = {0: EMPTY}

    def add(self, record: AuditRecord) -> None:
        self._peaks.append(hashlib.sha256(b"\x00" + _bytes(record.hash)).digest())
        self.size += 1
        merging = self.size
        while merging % 2 == 0:
            right = self._peaks.pop()
            self._peaks.append(node(self._peaks.pop(), right))
            merging //= 2
        if self.size in self._wanted:
            self.heads[self.size] = self.head

    @property
    def head(self) -> bytes:
        if not self._peaks:
            return EMPTY
        head = self._peaks[-1]
        for left in reversed(self._peaks[:-1]):
            head = node(left, head)
        return head


def node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def consistent(first: Checkpoint, second: Checkpoint, proof: Sequence[bytes]) -> bool:
    """Whether `proof` shows that the second log begins with the first (RFC 9162, 2.1.4.2)."""
    if first.tenant != second.tenant or first.size > second.size:
        return False
    if first.size == second.size:
        return not proof and first.head == second.head
    if first.size == 0:
        return not proof and first.head == EMPTY
    # A first tree that is a whole subtree of the second is its own beginning.
    path = [first.head, *proof] if first.size & (first.size - 1) == 0 else list(proof)
    if not path:
        return False
    at, last = first.size - 1, second.size - 1
    while at % 2 == 1:
        at, last = at // 2, last // 2
    older = newer = path[0]
    for each in path[1:]:
        if last == 0:
            return False
        if at % 2 == 1 or at == last:
            older, newer = node(each, older), node(each, newer)
            while at % 2 == 0 and at != 0:
                at, last = at // 2, last // 2
        else:
            newer = node(newer, each)
        at, last = at // 2, last // 2
    return last == 0 and older == first.head and newer == second.head


def _signature(line: str) -> tuple[str, bytes, bytes]:
    if not line.startswith(SIGNATURE):
        raise ValueError("no signature line")
    name, encoded = line.removeprefix(SIGNATURE).split(" ")
    content = base64.b64decode(encoded, validate=True)
    return name, content[:KEY_HASH_BYTES], content[KEY_HASH_BYTES:]


def _key(key: str) -> tuple[str, bytes, bytes]:
    """Name, hash and the 32 bytes of a verifier key. Raises InvalidInputError."""
    try:
        name, key_hash, encoded = key.split("+", 2)
        content = base64.b64decode(encoded, validate=True)
        known = hashlib.sha256(name.encode() + b"\n" + content).digest()[:KEY_HASH_BYTES]
        if content[:1] != ED25519 or known != bytes.fromhex(key_hash):
            raise ValueError("another algorithm, or a slip")
    except (ValueError, binascii.Error) as error:
        raise InvalidInputError(
            f"{key[:100]!r} is no key that checkpoints are signed with.",
            which="key",
            next_step="Give the one that `basalt audit checkpoint` showed: name+hash+key.",
        ) from error
    return name, known, content[1:]


def _holds(public: bytes, signature: bytes, text: str) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, text.encode())
    except (InvalidSignature, ValueError):
        return False
    return True


def _bytes(digest: str) -> bytes:
    """A hash that is none leads to a head that is none: the chain says where."""
    try:
        return bytes.fromhex(digest)
    except ValueError:
        return digest.encode()
