"""The filters that every call passes: token, role, rate. Each is a file of its own.

Whether a token was revoked is not asked here but by whoever answers, the dispatcher or a service:
each follows `security` by itself, so that a revocation is in force without a file or a process in
between, and costs the same however many there are.

They are discovered one by one (ECDS), not part of the listener: a listener that changes closes its
connections, a filter that changes does not.
"""

from __future__ import annotations

import json

from libs.common.identity import AUDIENCE, CLOCK_SKEW_S, ISSUER
from services.gateway.core.envoy.inputs import Inputs
from services.gateway.core.envoy.parts import (
    CLAIM_HEADERS,
    INFER_PATH,
    READY_PATH,
    Json,
    typed,
)
from services.gateway.core.envoy.rates import rates

TOKENS_CACHED_MAX = 10_000
TOKEN_BYTES_MAX = 4_096

TOKENS = "tokens"
ROLES = "roles"
RATES = "rates"
# In the order in which a call passes them.
GUARDS = (TOKENS, ROLES, RATES)

TYPE_URLS = {
    TOKENS: typed("extensions.filters.http.jwt_authn.v3.JwtAuthentication")["@type"],
    ROLES: typed("extensions.filters.http.rbac.v3.RBAC")["@type"],
    RATES: typed("extensions.filters.http.local_ratelimit.v3.LocalRateLimit")["@type"],
}
CLAIMS = "claims"


def guards(inputs: Inputs) -> dict[str, Json]:
    return {
        TOKENS: _tokens(inputs),
        ROLES: _roles(inputs),
        RATES: rates(inputs),
    }


def _tokens(inputs: Inputs) -> Json:
    kind = "extensions.filters.http.jwt_authn.v3.JwtAuthentication"
    if not inputs.access.keys:
        # Without keys the routes let nothing through that would need a token: see `routes.py`.
        return typed(kind)
    provider = {
        "issuer": ISSUER,
        "audiences": [AUDIENCE],
        "local_jwks": {
            "inline_string": json.dumps({"keys": [dict(key) for key in inputs.access.keys]})
        },
        # The scheme's case means nothing (RFC 9110, 11.1), and Envoy knows exact texts alone.
        "from_headers": [
            {"name": "authorization", "value_prefix": f"{scheme} "}
            for scheme in ("Bearer", "bearer", "BEARER")
        ],
        # Each service verifies the token again: what comes by another way gets no further.
        "forward": True,
        "claim_to_headers": [
            {"header_name": header, "claim_name": claim} for header, claim in CLAIM_HEADERS.items()
        ],
        "payload_in_metadata": CLAIMS,
        "clock_skew_seconds": CLOCK_SKEW_S,
        "jwt_cache_config": {
            "jwt_cache_size": TOKENS_CACHED_MAX,
            "jwt_max_token_size": TOKEN_BYTES_MAX,
        },
    }
    needed = {"provider_name": ISSUER}
    return typed(
        kind,
        providers={ISSUER: provider},
        rules=[
            *({"match": {"path": f"/{method}"}} for method in inputs.site.open_methods),
            {"match": {"prefix": "/grpc."}},
            {"match": {"path": READY_PATH}},
            {"match": {"prefix": "/"}, "requires": needed},
        ],
    )


def _roles(inputs: Inputs) -> Json:
    """Predictions need a role that the policy permits; all else its own service decides."""
    if not inputs.access.keys:
        return typed("extensions.filters.http.rbac.v3.RBAC")  # Nobody has a role: as above.
    infers = {"url_path": {"path": {"exact": INFER_PATH}}}
    permitted = [
        {
            "sourced_metadata": {
                "metadata_matcher": {
                    "filter": "envoy.filters.http.jwt_authn",
                    "path": [{"key": CLAIMS}, {"key": "roles"}],
                    "value": {"list_match": {"one_of": {"string_match": {"exact": role}}}},
                }
            }
        }
        for role in inputs.site.infer_roles
    ]
    return typed(
        "extensions.filters.http.rbac.v3.RBAC",
        rules={
            "action": "ALLOW",
            "policies": {
                "else": {"permissions": [{"not_rule": infers}], "principals": [{"any": True}]},
                "infer": {"permissions": [infers], "principals": permitted},
            },
        },
    )
