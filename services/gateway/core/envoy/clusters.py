"""What is behind the door: the dispatcher, the slow edge, and the services."""

from __future__ import annotations

import ipaddress

from services.gateway.core.envoy.inputs import Address, Inputs, Site
from services.gateway.core.envoy.parts import DISPATCHER, SLOW_GRPC, SLOW_REST, Json, seconds, typed
from services.gateway.core.limits import REQUESTS_IN_FLIGHT_MAX

DISPATCHER_SOCKET = "dispatcher.sock"
CONNECT_S_MAX = 1.0
# Calls of all tenants at a time: to the dispatcher, and to anything else.
INFER_CALLS_MAX = 4 * REQUESTS_IN_FLIGHT_MAX
CALLS_MAX = 1_024
CONNECTIONS_MAX = 64
BUFFER_BYTES_MAX = 1024 * 1024
STREAM_WINDOW_BYTES = 1024 * 1024
CONNECTION_WINDOW_BYTES = 16 * 1024 * 1024


def clusters(inputs: Inputs) -> list[Json]:
    site = inputs.site
    pipe = {"pipe": {"path": site.file(DISPATCHER_SOCKET)}}
    return [
        _cluster(DISPATCHER, pipe, INFER_CALLS_MAX) | _http2(),
        _remote(SLOW_GRPC, site.slow_grpc, site) | _http2(),
        _remote(SLOW_REST, site.slow_rest, site) | _http1(),
        *(_remote(name, at, site) | _http2() for name, at in sorted(site.clusters.items())),
    ]


def _cluster(name: str, address: Json, calls_max: int = CALLS_MAX) -> Json:
    thresholds = {
        "max_connections": CONNECTIONS_MAX,
        "max_pending_requests": calls_max,
        "max_requests": calls_max,
    }
    endpoint = {"lb_endpoints": [{"endpoint": {"address": address}}]}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": seconds(CONNECT_S_MAX),
        "per_connection_buffer_limit_bytes": BUFFER_BYTES_MAX,
        "circuit_breakers": {"thresholds": [thresholds]},
        "load_assignment": {"cluster_name": name, "endpoints": [endpoint]},
    }


def _remote(name: str, at: Address, site: Site) -> Json:
    if at.path:
        return _cluster(name, {"pipe": {"path": at.path}})
    socket = {"socket_address": {"address": at.host, "port_value": at.port}}
    cluster = _cluster(name, socket)
    if not _is_ip(at.host):
        cluster |= {"type": "STRICT_DNS", "dns_lookup_family": "V4_PREFERRED"}
    if site.mutual_tls:
        cluster["transport_socket"] = _mutual_tls(at, site.mutual_tls)
    return cluster


def _http2() -> Json:
    return _protocol(
        {
            "http2_protocol_options": {
                "initial_stream_window_size": STREAM_WINDOW_BYTES,
                "initial_connection_window_size": CONNECTION_WINDOW_BYTES,
            }
        }
    )


def _http1() -> Json:
    return _protocol({"http_protocol_options": {}})


def _protocol(explicit: Json) -> Json:
    kind = "extensions.upstreams.http.v3.HttpProtocolOptions"
    options = typed(kind, explicit_http_config=explicit)
    return {"typed_extension_protocol_options": {f"envoy.{kind}": options}}


def _mutual_tls(at: Address, folder: str) -> Json:
    """The gateway's own certificate; the other side must have one for the host we asked for."""
    kind = "IP_ADDRESS" if _is_ip(at.host) else "DNS"
    name = {"san_type": kind, "matcher": {"exact": at.host}}
    context = {
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_certificates": [
            {
                "certificate_chain": {"filename": f"{folder}/gateway.pem"},
                "private_key": {"filename": f"{folder}/gateway.key"},
            }
        ],
        "validation_context": {
            "trusted_ca": {"filename": f"{folder}/ca.pem"},
            "match_typed_subject_alt_names": [name],
        },
    }
    tls = typed(
        "extensions.transport_sockets.tls.v3.UpstreamTlsContext", common_tls_context=context
    )
    if kind == "DNS":
        tls["sni"] = at.host
    return {"name": "envoy.transport_sockets.tls", "typed_config": tls}


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
