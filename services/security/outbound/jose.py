"""Tokens as EdDSA JWTs (RFC 8037), which `libs/common/identity.py` and Envoy verify."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from joserfc import jwt
from joserfc.jwk import OKPKey

from libs.common.identity import ALGORITHM, TokenAlgorithms
from services.security.ports import NewTokenKey


class JoseTokens:
    def new_key(self, key_id: str) -> NewTokenKey:
        key = OKPKey.generate_key(
            "Ed25519", {"use": "sig", "alg": ALGORITHM, "kid": key_id}, private=True
        )
        public = {name: str(value) for name, value in key.as_dict(private=False).items()}
        return NewTokenKey(key_id, public, json.dumps(key.as_dict(private=True)).encode())

    def encode(self, private: bytes, claims: Mapping[str, Any]) -> str:
        key = OKPKey.import_key(json.loads(private))
        header = {"alg": ALGORITHM, "kid": key.kid, "typ": "JWT"}
        return jwt.encode(header, dict(claims), key, registry=TokenAlgorithms())
