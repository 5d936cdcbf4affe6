"""Ed25519 (RFC 8032) for signed notes."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


class Ed25519Notes:
    def new_key(self) -> tuple[bytes, bytes]:
        key = Ed25519PrivateKey.generate()
        return key.private_bytes_raw(), key.public_key().public_bytes_raw()

    def sign(self, private: bytes, content: bytes) -> tuple[bytes, bytes]:
        key = Ed25519PrivateKey.from_private_bytes(private)
        return key.public_key().public_bytes_raw(), key.sign(content)
