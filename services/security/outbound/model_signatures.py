"""Manifests signed with OpenSSF model-signing and EC P-256 keys, which needs no network."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from model_signing import signing

from libs.common.signing import (
    MANIFEST_FILE,
    key_fingerprint,
    manifest_hashing,
    signed_name,
    verify_manifest,
)
from services.security.ports import NewSigningKey

KEY_ID_CHARACTERS = 16


class OpenSsfSigner:
    def new_key(self) -> NewSigningKey:
        key = ec.generate_private_key(ec.SECP256R1())
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        private = key.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        pem = public.decode()
        return NewSigningKey(key_fingerprint(pem)[:KEY_ID_CHARACTERS], pem, private)

    async def sign(
        self, private: bytes, tenant: str, model: str, version: int, manifest: bytes
    ) -> bytes:
        name = signed_name(tenant, model, version)
        return await asyncio.to_thread(_sign, private, name, manifest)

    async def verify(
        self, manifest: bytes, signature: bytes, public_keys: Mapping[str, str]
    ) -> str:
        return await asyncio.to_thread(verify_manifest, manifest, signature, public_keys)


def _sign(private: bytes, name: str, manifest: bytes) -> bytes:
    with tempfile.TemporaryDirectory(prefix="basalt-sign-") as folder:
        root = Path(folder)
        signed = root / name
        signed.mkdir()
        (signed / MANIFEST_FILE).write_bytes(manifest)
        # The library takes a key from a file only, so the file is of use to nobody else.
        passphrase = secrets.token_hex(32).encode()
        (root / "key.pem").write_bytes(_encrypted(private, passphrase))
        signer = signing.Config().use_elliptic_key_signer(
            private_key=root / "key.pem",
            password=passphrase,  # pyright: ignore[reportArgumentType] - str is declared, and fails.
        )
        signer.set_hashing_config(manifest_hashing()).sign(signed, root / "signature.json")
        return (root / "signature.json").read_bytes()


def _encrypted(private: bytes, passphrase: bytes) -> bytes:
    key = serialization.load_der_private_key(private, None)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(passphrase),
    )
