"""The filters that every call passes: token, revocation, role, rate. Each is a file of its own.

They are discovered one by one (ECDS), not part of the listener: a listener that changes closes its
connections, a filter that changes does not.
"""

from __future__ import annotations

import json

from libs.common.identity import AUDIENCE, CLOCK_SKEW_S, ISSUER
from services.gateway.core.envoy.inputs import Inputs
from services.gateway.core.envoy.parts import (
    INFER_PATH,
    READY_PATH,
    SUBJECT_HEADER,
    TENANT_HEADER,
    TOKEN_ID_HEADER,
    Json,
    typed,
)
from services.gateway.core.envoy.rates import rates

TOKENS_CACHED_MAX = 10_000
TOKEN_BYTES_MAX = 4_096

TOKENS = "tokens"
REVOCATIONS = "revocations"
ROLES = "roles"
RATES = "rates"
# In the order in which a call passes them.
GUARDS = (TOKENS, REVOCATIONS, ROLES, RATES)

TYPE_URLS = {
    TOKENS: typed("extensions.filters.http.jwt_authn.v3.JwtAuthentication")["@type"],
    REVOCATIONS: typed("extensions.filters.http.rbac.v3.RBAC")["@type"],
    ROLES: typed("extensions.filters.http.rbac.v3.RBAC")["@type"],
    RATES: typed("extensions.filters.http.local_ratelimit.v3.LocalRateLimit")["@type"],
}
CLAIMS = "claims"
REVOKED_POLICY = "token-revoked"


def guards(inputs: Inputs) -> dict[str, Json]:
    return {
        TOKENS: _tokens(inputs),
        REVOCATIONS: _revocations(inputs),
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
        "from_headers": [{"name": "authorization", "value_prefix": "Bearer "}],
        # Each service verifies the token again: what comes by another way gets no further.
        "forward": True,
        "claim_to_headers": [
            {"header_name": TENANT_HEADER, "claim_name": "tenant"},
            {"header_name": SUBJECT_HEADER, "claim_name": "sub"},
            {"header_name": TOKEN_ID_HEADER, "claim_name": "jti"},
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


def _revocations(inputs: Inputs) -> Json:
    """Looks a token's id up in a hash map: as quick with thousands revoked as with one."""
    allow = {"name": "allow", "typed_config": _action("allowed", "ALLOW")}
    matcher: Json = {"on_no_match": {"action": allow}}
    if inputs.access.revoked:
        deny = {"action": {"name": "deny", "typed_config": _action(REVOKED_POLICY, "DENY")}}
        header_input = {
            "@type": "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
            "header_name": TOKEN_ID_HEADER,
        }
        matcher["matcher_tree"] = {
            "input": {"name": "token-id", "typed_config": header_input},
            "exact_match_map": {"map": dict.fromkeys(inputs.access.revoked, deny)},
        }
    return typed("extensions.filters.http.rbac.v3.RBAC", matcher=matcher)


def _action(name: str, action: str) -> Json:
    return typed("config.rbac.v3.Action", name=name, action=action)


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
