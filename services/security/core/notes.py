"""A checkpoint as text: C2SP's tlog-checkpoint, a signed note (https://c2sp.org/tlog-checkpoint).

basalt/audit/acme            whose log
4711                         how many records
CsUYapGGPo4dkMgIAUqom/…=     the head of its tree, in base64

— basalt/audit Az3grlgt…     who signed, and the key's id with the signature
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass

from libs.common.errors import InvalidInputError

ORIGIN = "basalt/audit"
ED25519 = b"\x01"
HEAD_BYTES = 32
NOTE_CHARACTERS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Told:
    tenant: str
    size: int
    head: bytes


def text(tenant: str, size: int, head: bytes) -> str:
    return f"{ORIGIN}/{tenant}\n{size}\n{base64.b64encode(head).decode()}\n"


def with_signature(text: str, key_hash: bytes, signature: bytes) -> str:
    return f"{text}\n— {ORIGIN} {base64.b64encode(key_hash + signature).decode()}\n"


def key_hash(public: bytes) -> bytes:
    """What a signature names its key by; `public` are the 32 bytes of Ed25519."""
    return hashlib.sha256(ORIGIN.encode() + b"\n" + ED25519 + public).digest()[:4]


def verifier_key(public: bytes) -> str:
    """The key as verifiers take it: name, hash, and the public key with its algorithm."""
    encoded = base64.b64encode(ED25519 + public).decode()
    return f"{ORIGIN}+{key_hash(public).hex()}+{encoded}"


def read(note: str) -> Told:
    """What it says, whoever signed it. Raises InvalidInputError."""
    lines = note.split("\n") if len(note) <= NOTE_CHARACTERS_MAX else []
    try:
        origin, size, head = lines[:3]
        content = base64.b64decode(head, validate=True)
        if (
            not origin.startswith(f"{ORIGIN}/")
            or not size.isdecimal()
            or len(content) != HEAD_BYTES
        ):
            raise ValueError("not of this form")
    except (ValueError, binascii.Error) as error:
        raise InvalidInputError(
            "This is no checkpoint of an audit log.",
            which="checkpoint",
            next_step="Give a file that `basalt audit checkpoint` wrote.",
        ) from error
    return Told(origin.removeprefix(f"{ORIGIN}/"), int(size), content)
