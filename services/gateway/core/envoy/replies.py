"""What the door itself answers when it refuses: why, and what to do next.

A gRPC caller gets the text as its status message, a REST caller as {"error": text}.
"""

from __future__ import annotations

from services.gateway.core.envoy.inputs import Site
from services.gateway.core.envoy.parts import TENANT_HEADER, Json, typed

LOG_IN = "Log in (`basalt login`) and send `authorization: Bearer <token>`."
RATE = (
    f"The tenant %REQ({TENANT_HEADER})% calls more often than its limit requests_per_second "
    "allows. Call less often, or ask the platform's administrator for a higher limit."
)
ADDRESS_RATE = (
    "Too many calls without a token come from %DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%. "
    "Wait a second, then call less often, or with a token."
)
UNREACHABLE = (
    "The service %UPSTREAM_CLUSTER% cannot be reached. Try again shortly; `basalt status` shows "
    "what is wrong."
)
OVERFLOW = "The service %UPSTREAM_CLUSTER% has too many calls at a time. Try again shortly."
TOO_SLOW = (
    "The call took longer than the door gives it. Send all of it at once, then try again; "
    "docs/reference/gateway.md has the limits."
)
ESCAPED_SLASH = (
    "The path holds a slash that is percent-encoded, and no name has one. Send the name as it was "
    "given; docs/reference/gateway.md has the paths."
)
MALFORMED = (
    "The request is no HTTP that the door takes: %RESPONSE_CODE_DETAILS%. Use an HTTP client that "
    "keeps to RFC 9110."
)
OVERLOADED = "The door is overloaded. Try again shortly."
NO_ROUTE = "The door knows no %REQ(:PATH)%; see docs/reference/gateway.md for what it offers."


def replies(site: Site) -> Json:
    """A LocalReplyConfig: the first that fits is used."""
    needed = " or ".join(site.infer_roles)
    forbidden = (
        "%REQ(x-basalt-subject)% may not call inference.GRPCInferenceService/ModelInfer: it needs "
        f"the role {needed}. Ask an administrator of your tenant for a role that may."
    )
    cases: list[tuple[Json, str, int]] = [
        (_all(_status(429), _without_token()), ADDRESS_RATE, 0),
        (_status(429), RATE, 0),
        # To Envoy a token for somebody else is one that may not; to callers it is none.
        (_all(_status(403), _because("Audiences")), f"%LOCAL_REPLY_BODY%. {LOG_IN}", 401),
        (_status(401), f"%LOCAL_REPLY_BODY%. {LOG_IN}", 0),
        (_status(403), forbidden, 0),
        (_flags("UO"), OVERFLOW, 0),
        (_flags("UF", "UC", "UH", "UR", "NC", "LR"), UNREACHABLE, 0),
        (_because("max_duration_timeout"), TOO_SLOW, 0),
        (_because("stream_idle_timeout"), TOO_SLOW, 0),
        (_because("path_normalization_failed"), ESCAPED_SLASH, 0),
        (_status(400), MALFORMED, 0),
        (_flags("OM"), OVERLOADED, 0),
        (_flags("NR"), NO_ROUTE, 0),
        (_status(404), "%LOCAL_REPLY_BODY%", 0),
    ]
    return {
        "mappers": [
            *(mapper for case, text, status in cases for mapper in _mappers(case, text, status)),
            # What is no refusal, but answered by the door itself all the same: its readiness.
            {"filter": _status(200), "body_format_override": _text("%LOCAL_REPLY_BODY%")},
        ],
        "body_format": {"json_format": {"error": "%LOCAL_REPLY_BODY%"}},
    }


def _mappers(case: Json, text: str, status: int) -> list[Json]:
    rewritten = {"status_code": status} if status else {}
    return [
        {
            "filter": _all(case, _is_grpc()),
            "body_format_override": _text(text),
            **rewritten,
        },
        {
            "filter": case,
            "body_format_override": {"json_format": {"error": text}},
            **rewritten,
        },
    ]


def _because(words: str) -> Json:
    """Whether Envoy's own account of a refusal has these words."""
    config = typed(
        "extensions.access_loggers.filters.cel.v3.ExpressionFilter",
        expression=f"response.code_details.contains('{words}')",
    )
    return {"extension_filter": {"name": "refused-by", "typed_config": config}}


def _text(text: str) -> Json:
    return {"text_format_source": {"inline_string": text}}


def _all(*filters: Json) -> Json:
    return {"and_filter": {"filters": list(filters)}}


def _is_grpc() -> Json:
    header = {"name": "content-type", "string_match": {"prefix": "application/grpc"}}
    return {"header_filter": {"header": header}}


def _without_token() -> Json:
    header = {"name": TENANT_HEADER, "present_match": True, "invert_match": True}
    return {"header_filter": {"header": header}}


def _flags(*flags: str) -> Json:
    return {"response_flag_filter": {"flags": list(flags)}}


def _status(status: int) -> Json:
    value = {"default_value": status, "runtime_key": f"basalt.replies.{status}"}
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}
