"""Whether a model's manifest is signed by a key that security vouches for.

Signatures are OpenSSF model-signing bundles (https://model.signing.science): a DSSE envelope around
an in-toto statement, ECDSA on P-256. What is signed is a folder that holds `manifest.json` alone,
which names every other file by its SHA-256; the folder's name says whose model and version it is.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model_signing import hashing, verifying

from libs.common.errors import IntegrityError

MANIFEST_FILE = "manifest.json"
SIGNATURE_BYTES_MAX = 64 * 1024


def signed_name(tenant: str, model: str, version: int) -> str:
    """What a signature is for; also the model's name in Triton."""
    return f"{tenant}--{model}--v{version}"


def manifest_hashing() -> hashing.Config:
    """How the folder is digested, when signing and when verifying."""
    return hashing.Config().use_file_serialization(hashing_algorithm="sha256")


def key_fingerprint(pem: str) -> str:
    """Hex SHA-256 of a public key's PEM: the hint by which a bundle names its key."""
    return hashlib.sha256(pem.encode()).hexdigest()


def verify_manifest(
    manifest: bytes, signature: bytes, public_keys: Mapping[str, str], name: str = ""
) -> str:
    """The id of the key that signed these very bytes; `public_keys` are PEM by key id.

    `name` is `signed_name(...)` of what is about to be loaded: a signature made for another model,
    version or tenant is refused, even where the bytes are alike. Raises IntegrityError. It takes
    about 2 ms of computing and a temporary folder: call it in a thread from a busy loop.
    """
    if len(signature) > SIGNATURE_BYTES_MAX:
        raise _refusal(f"The signature is larger than {SIGNATURE_BYTES_MAX} bytes.")
    try:
        bundle = json.loads(signature)
        hint = bundle["verificationMaterial"]["publicKey"]["hint"]
        signed_for = _subject(bundle)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise _refusal("The signature is not an OpenSSF model-signing bundle.") from error
    keys = {key_fingerprint(pem): key_id for key_id, pem in public_keys.items()}
    if hint not in keys:
        raise _refusal("The signature was made with a key that security does not know.")
    if name and signed_for != name:
        raise _refusal(f"The signature is for {signed_for}, not for {name}.")
    _verify(manifest, signature, public_keys[keys[hint]])
    return keys[hint]


def _subject(bundle: Any) -> str:
    statement = json.loads(b64decode(bundle["dsseEnvelope"]["payload"]))
    return str(statement["subject"][0]["name"])


def _verify(manifest: bytes, signature: bytes, pem: str) -> None:
    with tempfile.TemporaryDirectory(prefix="basalt-verify-") as folder:
        root = Path(folder)
        signed = root / "model"
        signed.mkdir()
        (signed / MANIFEST_FILE).write_bytes(manifest)
        (root / "signature.json").write_bytes(signature)
        (root / "key.pem").write_text(pem)
        verifier = verifying.Config().use_elliptic_key_verifier(public_key=root / "key.pem")
        verifier.set_hashing_config(manifest_hashing())
        try:
            verifier.verify(signed, root / "signature.json")
        except OSError:
            raise
        except Exception as error:
            # The library answers a bad bundle with errors of many kinds; all of them mean no.
            raise _refusal("The signature does not hold for this manifest.") from error


def _refusal(what: str) -> IntegrityError:
    return IntegrityError(
        what,
        which="signature",
        next_step="Do not load it: have the version reviewed and signed again.",
    )
