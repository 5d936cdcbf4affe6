"""Small pieces of Envoy's configuration that several files need."""

from __future__ import annotations

from typing import Any

from libs.common.identity import ADDRESS_HEADER

Json = dict[str, Any]

_TYPES = "type.googleapis.com/envoy"
HTTP_FILTERS = f"{_TYPES}.extensions.filters.http"

# The headers by which the door tells what is behind it who calls. Nobody outside may set them.
TENANT_HEADER = "x-basalt-tenant"
SUBJECT_HEADER = "x-basalt-subject"
TOKEN_ID_HEADER = "x-basalt-token-id"  # noqa: S105 - a header's name.
LOGIN_ID_HEADER = "x-basalt-login-id"
GENERATION_HEADER = "x-basalt-generation"
# Each by the claim of the token that it says.
CLAIM_HEADERS = {
    TENANT_HEADER: "tenant",
    SUBJECT_HEADER: "sub",
    TOKEN_ID_HEADER: "jti",
    LOGIN_ID_HEADER: "sid",
    GENERATION_HEADER: "gen",
}
IDENTITY_HEADERS = (*CLAIM_HEADERS, ADDRESS_HEADER)
# What proxies say of whom they call for: the door believes no proxy, nor does what is behind it.
FORWARDING_HEADERS = ("forwarded", "x-forwarded-for", "x-real-ip")

READY_PATH = "/ready"
INFER_PATH = "/inference.GRPCInferenceService/ModelInfer"

# What is not a service of ours but has a cluster.
DISPATCHER = "dispatcher"
SLOW_GRPC = "gateway-grpc"
SLOW_REST = "gateway-rest"


def typed(kind: str, **fields: Any) -> Json:
    """A message in an Any: `kind` is its full name without the leading "envoy."."""
    return {"@type": f"{_TYPES}.{kind}", **fields}


def seconds(value: float) -> str:
    """A Duration, as protobuf's JSON has it."""
    return f"{value:g}s"


def from_file(path: str) -> Json:
    """A ConfigSource: Envoy reads the file again whenever a new one is moved into its place."""
    return {"path_config_source": {"path": path}, "resource_api_version": "V3"}
