"""Tokens as security makes them, and as others would like to."""

from __future__ import annotations

import time
from typing import Any

from joserfc import jwt
from joserfc.jwk import OKPKey

from libs.common.identity import AUDIENCE, ISSUER, TokenAlgorithms, TokenVerifier


class KeyRing:
    """Signing keys and the public set that services are given."""

    def __init__(self, *kids: str) -> None:
        self.keys = {kid: self.new_key(kid) for kid in kids or ("one",)}

    @staticmethod
    def new_key(kid: str) -> OKPKey:
        return OKPKey.generate_key("Ed25519", {"kid": kid, "alg": "EdDSA", "use": "sig"})

    def jwks(self) -> dict[str, Any]:
        return {"keys": [key.as_dict(private=False) for key in self.keys.values()]}

    def token(self, kid: str = "one", header: dict[str, Any] | None = None, **claims: Any) -> str:
        """Ada's, an engineer's of acme, unless `claims` say otherwise; None leaves one out."""
        said = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "ada",
            "tenant": "acme",
            "roles": ["engineer"],
            "use": "user",
            "jti": "token-1",
            "exp": int(time.time()) + 600,
            **claims,
        }
        said = {name: value for name, value in said.items() if value is not None}
        return jwt.encode(
            header or {"alg": "EdDSA", "kid": kid},
            said,
            self.keys[kid],
            registry=TokenAlgorithms(),
        )

    def verifier(self) -> TokenVerifier:
        verifier = TokenVerifier()
        verifier.update(self.jwks())
        return verifier
