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
    SUBJECT_HEADER,
    TENANT_HEADER,
    TOKEN_ID_HEADER,
    Json,
    seconds,
    typed,
)
from services.gateway.core.limits import REQUESTS_PER_SECOND_DEFAULT

TOKENS_CACHED_MAX = 10_000
TOKEN_BYTES_MAX = 4_096
# Calls that carry no identity, such as logins, share one limit.
OPEN_REQUESTS_PER_SECOND_MAX = 500
# Tenants without limits of their own that are counted at a time; the one longest unseen goes.
TENANTS_COUNTED_MAX = 10_000
FILL_INTERVAL_S = 1

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
        RATES: _rates(inputs),
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
            {"match": {"path": "/ready"}},
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


def _rates(inputs: Inputs) -> Json:
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    own = [
        _rate(tenant, limits.requests_per_second)
        for tenant, limits in sorted(inputs.limits.items())
    ]
    return typed(
        "extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        stat_prefix="rates",
        filter_enabled=always,
        filter_enforced=always,
        rate_limited_as_resource_exhausted=True,
        token_bucket=_bucket(OPEN_REQUESTS_PER_SECOND_MAX),
        always_consume_default_token_bucket=False,
        # A blank value stands for every other tenant: each has a bucket of its own.
        descriptors=[*own, _rate("", REQUESTS_PER_SECOND_DEFAULT)],
        max_dynamic_descriptors=TENANTS_COUNTED_MAX,
        rate_limits=[
            {
                "actions": [
                    {
                        "request_headers": {
                            "header_name": TENANT_HEADER,
                            "descriptor_key": "tenant",
                            "skip_if_absent": False,
                        }
                    }
                ]
            }
        ],
    )


def _rate(tenant: str, requests_per_second: int) -> Json:
    return {
        "entries": [{"key": "tenant", "value": tenant}],
        "token_bucket": _bucket(requests_per_second),
    }


def _bucket(requests_per_second: int) -> Json:
    return {
        "max_tokens": requests_per_second,
        "tokens_per_fill": requests_per_second,
        "fill_interval": seconds(FILL_INTERVAL_S),
    }
