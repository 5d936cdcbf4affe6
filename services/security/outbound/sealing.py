"""Secrets at rest: AES-256-GCM under the master key, bound to what they are for."""

from __future__ import annotations

import base64
import binascii
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from libs.common.errors import PreconditionError

NONCE_BYTES = 12
DERIVED_BYTES = 32


class AesGcmSeal:
    def __init__(self, master_key: bytes) -> None:
        """32 bytes. What seals is derived from it, so no key has two uses."""
        self._master_key = master_key
        self._cipher = AESGCM(self._derive("basalt/seal/1", b""))

    def close(self, purpose: str, secret: bytes) -> str:
        nonce = secrets.token_bytes(NONCE_BYTES)
        sealed = self._cipher.encrypt(nonce, secret, purpose.encode())
        return base64.b64encode(nonce + sealed).decode()

    def open(self, purpose: str, sealed: str) -> bytes:
        try:
            content = base64.b64decode(sealed, validate=True)
            nonce, rest = content[:NONCE_BYTES], content[NONCE_BYTES:]
            return self._cipher.decrypt(nonce, rest, purpose.encode())
        except (InvalidTag, ValueError, binascii.Error) as error:
            raise PreconditionError(
                "The master key does not open the keys that security keeps.",
                which="BASALT_MASTER_KEY",
                next_step="Set BASALT_MASTER_KEY to the one that was made at the first start.",
            ) from error

    def derive(self, purpose: str, salt: str) -> bytes:
        return self._derive(f"basalt/{purpose}", salt.encode())

    def _derive(self, purpose: str, salt: bytes) -> bytes:
        """HKDF-SHA256, RFC 5869."""
        return HKDF(hashes.SHA256(), DERIVED_BYTES, salt, purpose.encode()).derive(self._master_key)
