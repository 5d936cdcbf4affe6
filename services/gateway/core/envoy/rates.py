"""How often somebody may call: a tenant by its limit, and whoever shows no token by its address.

What needs no token is counted by address and by kind, each in a bucket of its own: a flood of wrong
logins refuses neither the logins from elsewhere nor the keys that services verify tokens with.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from services.gateway.core.envoy.inputs import Inputs, Site
from services.gateway.core.envoy.parts import READY_PATH, TENANT_HEADER, Json, seconds, typed
from services.gateway.core.limits import REQUESTS_PER_SECOND_DEFAULT

# Of one address, by the kind of call that needs no token. A login costs us a password's hash.
LOGINS_PER_SECOND_MAX = 20
KEYS_PER_SECOND_MAX = 50
READY_PER_SECOND_MAX = 50
HEALTH_PER_SECOND_MAX = 20
# An IPv6 network is given to a site as a whole, and each of its machines has 2^64 addresses.
IPV4_PREFIX_BITS = 32
IPV6_PREFIX_BITS = 64
# Of each: tenants without limits of their own, and addresses, that are counted at a time; the one
# longest unseen goes.
COUNTED_MAX = 10_000
FILL_INTERVAL_S = 1
# For what is of no kind below; there is nothing of that sort today.
OTHERS_PER_SECOND_MAX = 500

LOGIN, KEYS, READY, HEALTH = "login", "keys", "ready", "health"
PER_SECOND_MAX = {
    LOGIN: LOGINS_PER_SECOND_MAX,
    KEYS: KEYS_PER_SECOND_MAX,
    READY: READY_PER_SECOND_MAX,
    HEALTH: HEALTH_PER_SECOND_MAX,
}
KIND_KEY = "open"
ADDRESS_KEY = "masked_remote_address"


def rates(inputs: Inputs) -> Json:
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    own = [
        _tenant_rate(tenant, limits.requests_per_second)
        for tenant, limits in sorted(inputs.limits.items())
    ]
    return typed(
        "extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        stat_prefix="rates",
        filter_enabled=always,
        filter_enforced=always,
        rate_limited_as_resource_exhausted=True,
        token_bucket=_bucket(OTHERS_PER_SECOND_MAX),
        always_consume_default_token_bucket=False,
        descriptors=[
            # A blank value stands for every other: each has a bucket of its own.
            *own,
            _tenant_rate("", REQUESTS_PER_SECOND_DEFAULT),
            *(_address_rate(kind, most) for kind, most in PER_SECOND_MAX.items()),
        ],
        max_dynamic_descriptors=COUNTED_MAX,
        rate_limits=[
            {"actions": [_by_tenant()]},
            *(
                {"actions": [_of(kind, paths), _by_address()]}
                for kind, paths in _kinds(inputs.site)
            ),
        ],
    )


def _kinds(site: Site) -> Iterable[tuple[str, list[Json]]]:
    """What needs no token, each kind with the paths that are of it."""
    logins, keys = [], []
    for method in site.open_methods:
        # Keys are only read; whatever else is open takes a secret and judges it.
        (keys if method.rpartition("/")[2].startswith("Get") else logins).append(
            {"exact": f"/{method}"}
        )
    yield LOGIN, logins
    yield KEYS, keys
    yield READY, [{"exact": READY_PATH}]
    yield HEALTH, [{"prefix": "/grpc."}]


def _by_tenant() -> Json:
    return {
        "request_headers": {
            "header_name": TENANT_HEADER,
            "descriptor_key": "tenant",
            "skip_if_absent": False,
        }
    }


def _of(kind: str, paths: list[Json]) -> Json:
    """Tells the kind; nothing where the call is of another, and then the whole row is left out."""
    return {
        "header_value_match": {
            "descriptor_key": KIND_KEY,
            "descriptor_value": kind,
            "headers": [{"name": ":path", "string_match": _any_of(paths)}],
        }
    }


def _any_of(paths: list[Json]) -> Json:
    """A query after the path changes nothing: the routes do not look at it either."""
    patterns = [
        re.escape(each["exact"]) + r"(\?.*)?"
        if "exact" in each
        else re.escape(each["prefix"]) + ".*"
        for each in paths
    ]
    return {"safe_regex": {"regex": "|".join(patterns)}}


def _by_address() -> Json:
    return {
        "masked_remote_address": {
            "v4_prefix_mask_len": IPV4_PREFIX_BITS,
            "v6_prefix_mask_len": IPV6_PREFIX_BITS,
        }
    }


def _tenant_rate(tenant: str, requests_per_second: int) -> Json:
    return {
        "entries": [{"key": "tenant", "value": tenant}],
        "token_bucket": _bucket(requests_per_second),
    }


def _address_rate(kind: str, requests_per_second: int) -> Json:
    return {
        "entries": [{"key": KIND_KEY, "value": kind}, {"key": ADDRESS_KEY, "value": ""}],
        "token_bucket": _bucket(requests_per_second),
    }


def _bucket(requests_per_second: int) -> Json:
    return {
        "max_tokens": requests_per_second,
        "tokens_per_fill": requests_per_second,
        "fill_interval": seconds(FILL_INTERVAL_S),
    }
