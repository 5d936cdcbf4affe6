"""Which call goes where behind the door."""

from __future__ import annotations

from libs.common.identity import ADDRESS_HEADER
from services.gateway.core.envoy import tokenless
from services.gateway.core.envoy.inputs import Inputs, Site
from services.gateway.core.envoy.parts import (
    DISPATCHER,
    INFER_PATH,
    READY_PATH,
    SLOW_GRPC,
    SLOW_REST,
    Json,
    seconds,
)

NAME = "door"
# An inference call whose dispatcher says nothing for so long is given up; it has its own deadline.
INFER_IDLE_S_MAX = 120.0
# A stream on which nothing happens for so long, such as the watch of a long training.
STREAM_IDLE_S_MAX = 3_600.0
REST_S_MAX = 75.0
NOT_HERE = "The door has no such way; see docs/reference/gateway.md for what it offers."
# A prediction as a whole, however slowly its body comes: 64 MiB take a minute by a slow line.
PREDICTION_S_MAX = 300.0
# A call that needs no token as a whole: its body has a few hundred bytes. A watch of the health
# ends with it, too, and is begun anew by who watches.
OPEN_S_MAX = 10.0
NO_KEYS = (
    "Tokens cannot be verified: security has not published its keys yet. Try again shortly; "
    "`basalt status` shows what is wrong."
)


def routes(inputs: Inputs) -> Json:
    """A RouteConfiguration. Before the first keys are known, only what needs none has a route."""
    site = inputs.site
    found = [_ready()]
    if inputs.access.keys:
        found += [
            *_open(site),
            _infer(),
            *_slow_grpc(),
            _rest(),
            *_internal(site),
            *_services(site),
        ]
    else:
        found += [*_open(site), _refusal(503, NO_KEYS)]
    return {
        "name": NAME,
        "virtual_hosts": [{"name": NAME, "domains": ["*"], "routes": found}],
        # A header that we do not set upstream is not worth a look.
        "most_specific_header_mutations_wins": True,
    }


def _ready() -> Json:
    """For whoever starts the door: it is open. Whether models answer is /v2/health/ready."""
    answer = {"status": 200, "body": {"inline_string": "open\n"}}
    return {"name": "ready", "match": {"path": READY_PATH}, "direct_response": answer}


def _infer() -> Json:
    # A limit of the whole here would be a second keeper of the caller's deadline, who cuts a call
    # off just before the dispatcher says why it cannot be answered: the dispatcher has the limit.
    route = _grpc("infer", {"path": INFER_PATH}, DISPATCHER, INFER_IDLE_S_MAX)
    return route | {"typed_per_filter_config": tokenless.for_predictions()}


def _slow_grpc() -> list[Json]:
    prefix = "/inference.GRPCInferenceService/"
    return [_grpc("inference", {"prefix": prefix}, SLOW_GRPC)]


def _rest() -> Json:
    match = {"path_separated_prefix": "/v2"}
    action = {"cluster": SLOW_REST, "timeout": seconds(REST_S_MAX), **_lasting(PREDICTION_S_MAX)}
    return {"name": "rest", "match": match, "route": action} | _with_address()


def _internal(site: Site) -> list[Json]:
    """Before the services' own ways: what they ask of each other is as unknown here as a typo."""
    return [
        {
            "name": f"no-{method}",
            "match": {"path": f"/{method}"},
            "direct_response": {"status": 404, "body": {"inline_string": NOT_HERE}},
        }
        for method in site.internal_methods
        if method.partition("/")[0] in site.services
    ]


def _services(site: Site) -> list[Json]:
    return [
        _grpc(service, {"prefix": f"/{service}/"}, cluster)
        for service, cluster in sorted(site.services.items())
    ]


def _open(site: Site) -> list[Json]:
    """What needs no token."""
    health, reflection = "/grpc.health.v1.Health/", "/grpc.reflection."
    return [
        *(
            _grpc(
                method,
                {"path": f"/{method}"},
                site.services[method.partition("/")[0]],
                OPEN_S_MAX,
                OPEN_S_MAX,
            )
            for method in site.open_methods
            if method.partition("/")[0] in site.services
        ),
        _grpc("health", {"prefix": health}, SLOW_GRPC, OPEN_S_MAX, OPEN_S_MAX),
        _grpc("reflection", {"prefix": reflection}, SLOW_GRPC, OPEN_S_MAX, OPEN_S_MAX),
    ]


def _grpc(
    name: str,
    match: Json,
    cluster: str,
    idle_s_max: float = STREAM_IDLE_S_MAX,
    s_max: float | None = None,
) -> Json:
    # The caller's deadline travels on in grpc-timeout and is kept by who answers: a timer here
    # would only be a second one. What is limited as a whole is so for slow bodies.
    action = {"cluster": cluster, "timeout": "0s", "idle_timeout": seconds(idle_s_max)}
    if s_max is not None:
        action |= _lasting(s_max)
    route = {"name": name, "match": match, "route": action}
    # Predictions ask for nobody's address, and have none to carry.
    return route if cluster == DISPATCHER else route | _with_address()


def _with_address() -> Json:
    """The other end of the connection, whatever the caller says of itself."""
    header = {"key": ADDRESS_HEADER, "value": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"}
    added = {"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    return {"request_headers_to_add": [added]}


def _lasting(s_max: float) -> Json:
    return {"max_stream_duration": {"max_stream_duration": seconds(s_max)}}


def _refusal(status: int, text: str) -> Json:
    answer = {"status": status, "body": {"inline_string": text}}
    return {"name": "refusal", "match": {"prefix": "/"}, "direct_response": answer}
