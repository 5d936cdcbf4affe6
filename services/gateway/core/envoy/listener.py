"""The door's listener. It does not change while the door is open: a change would close it."""

from __future__ import annotations

from services.gateway.core.envoy import guards, replies, routes, tokenless
from services.gateway.core.envoy.inputs import Address, DoorTls, Inputs, Site
from services.gateway.core.envoy.parts import (
    FORWARDING_HEADERS,
    IDENTITY_HEADERS,
    INFER_PATH,
    SUBJECT_HEADER,
    TENANT_HEADER,
    Json,
    from_file,
    seconds,
    typed,
)

NAME = "door"
ROUTES_FILE = "rds.json"
ACCESS_LOG = "access.log"
# Well below what the servers behind it read: longer ones would break connections that all share.
HEADERS_BYTES_MAX_KB = 16
# Of a request of HTTP/1.0, which names none; every host is the same here.
DEFAULT_HOST = "basalt"
CONCURRENT_STREAMS_MAX = 1_024
STREAM_WINDOW_BYTES = 1024 * 1024
CONNECTION_WINDOW_BYTES = 16 * 1024 * 1024
BUFFER_BYTES_MAX = 1024 * 1024
# Until a connection has shown what it speaks, has shaken hands, has sent a call's headers.
FIRST_BYTES_S_MAX = 3.0
HANDSHAKE_S_MAX = 5.0
REQUEST_HEADERS_S_MAX = 5.0
# Connections without a call: of those that never made one, a caller cannot be told from a flood.
# Clients open another when they need one; no usual period of polling is as long as these two.
IDLE_S_MAX = 12.0
DRAIN_S_MAX = 2.0
# An answer that is whole and that its caller does not take; bytes above the buffer's limit.
UNREAD_S_MAX = 30.0
STUCK_S_MAX = 60.0
# Calls that their caller took back, on one connection: as many at a time as it may have, and then
# a second. A flood of them (rapid reset) is closed.
RESETS_MAX = 2 * CONCURRENT_STREAMS_MAX
RESETS_PER_SECOND_MAX = 200
# Connections that the system keeps for us until we take them.
BACKLOG_MAX = 4_096
_IPPROTO_TCP = 6
_TCP_DEFER_ACCEPT = 9
# Of the answered predictions; whatever was refused or failed is always in the access log.
PREDICTIONS_LOGGED_PERCENT = 1


def guard_file(guard: str) -> str:
    return f"ecds-{guard}.json"


def listener(inputs: Inputs) -> Json:
    """As it is discovered: filters and routes come from files of their own."""
    site = inputs.site
    filters = [
        {
            "name": guard,
            "config_discovery": {
                "config_source": from_file(site.file(guard_file(guard))),
                "type_urls": [guards.TYPE_URLS[guard]],
            },
        }
        for guard in guards.GUARDS
    ]
    rds = {
        "config_source": from_file(site.file(ROUTES_FILE)),
        "route_config_name": routes.NAME,
    }
    return _listener(site, filters, {"rds": rds})


def whole_listener(inputs: Inputs) -> Json:
    """The same with filters and routes in it, for Envoy to judge all of it at once."""
    filters = [
        {"name": name, "typed_config": config} for name, config in guards.guards(inputs).items()
    ]
    return _listener(inputs.site, filters, {"route_config": routes.routes(inputs)})


def _listener(site: Site, filters: list[Json], route_source: Json) -> Json:
    manager = {
        "name": "http",
        "typed_config": typed(
            "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            stat_prefix=NAME,
            codec_type="AUTO",
            **route_source,
            http_filters=[tokenless.tokenless(), *filters, _router()],
            early_header_mutation_extensions=[_without_identity()],
            local_reply_config=replies.replies(site),
            access_log=[_access_log(site)],
            **_protocol_limits(),
        ),
    }
    chain: Json = {"filters": [manager]}
    if site.tls is not None:
        chain["transport_socket"] = _tls(site.tls)
        chain["transport_socket_connect_timeout"] = seconds(HANDSHAKE_S_MAX)
    return {
        "name": NAME,
        "address": _address(site.listen),
        "filter_chains": [chain],
        "listener_filters": [_inspector(site)],
        "listener_filters_timeout": seconds(FIRST_BYTES_S_MAX),
        "continue_on_listener_filters_timeout": False,
        "socket_options": [_deferred()],
        "tcp_backlog_size": BACKLOG_MAX,
        "per_connection_buffer_limit_bytes": BUFFER_BYTES_MAX,
        "per_connection_buffer_high_watermark_timeout": seconds(STUCK_S_MAX),
        "ignore_global_conn_limit": False,
    }


def _address(at: Address) -> Json:
    return {"socket_address": {"address": at.host, "port_value": at.port}}


def _inspector(site: Site) -> Json:
    """Waits for a connection's first bytes; what sends none has cost nothing but its socket."""
    if site.tls is None:
        kind = "extensions.filters.listener.http_inspector.v3.HttpInspector"
    else:
        kind = "extensions.filters.listener.tls_inspector.v3.TlsInspector"
    return {"name": "first-bytes", "typed_config": typed(kind)}


def _deferred() -> Json:
    """Linux hands a connection over when it has sent something, or after so many seconds."""
    return {
        "description": "TCP_DEFER_ACCEPT",
        "level": _IPPROTO_TCP,
        "name": _TCP_DEFER_ACCEPT,
        "int_value": int(FIRST_BYTES_S_MAX),
        "state": "STATE_LISTENING",
    }


def _router() -> Json:
    router = typed(
        "extensions.filters.http.router.v3.Router",
        suppress_envoy_headers=True,
        dynamic_stats=False,
    )
    return {"name": "router", "typed_config": router}


def _without_identity() -> Json:
    """Who calls is said by the token and the connection alone: what else says so is taken away."""
    mutation = typed(
        "extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
        mutations=[{"remove": header} for header in (*IDENTITY_HEADERS, *FORWARDING_HEADERS)],
    )
    return {"name": "envoy.http.early_header_mutation.header_mutation", "typed_config": mutation}


def _protocol_limits() -> Json:
    return {
        "use_remote_address": True,
        "skip_xff_append": True,
        "generate_request_id": False,
        "server_header_transformation": "PASS_THROUGH",
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "stream_idle_timeout": seconds(routes.STREAM_IDLE_S_MAX),
        "stream_flush_timeout": seconds(UNREAD_S_MAX),
        "request_headers_timeout": seconds(REQUEST_HEADERS_S_MAX),
        "drain_timeout": seconds(DRAIN_S_MAX),
        "max_request_headers_kb": HEADERS_BYTES_MAX_KB,
        "common_http_protocol_options": {
            "idle_timeout": seconds(IDLE_S_MAX),
            # Proxies read them in two ways; many clients send one that means nothing here.
            "headers_with_underscores_action": "DROP_HEADER",
        },
        # Old clients and probes send no host.
        "http_protocol_options": {
            "accept_http_10": True,
            "default_host_for_http_10": DEFAULT_HOST,
        },
        "http2_protocol_options": {
            "max_concurrent_streams": CONCURRENT_STREAMS_MAX,
            "initial_stream_window_size": STREAM_WINDOW_BYTES,
            "initial_connection_window_size": CONNECTION_WINDOW_BYTES,
            "stream_reset_burst": RESETS_MAX,
            "stream_reset_rate": RESETS_PER_SECOND_MAX,
        },
    }


def _access_log(site: Site) -> Json:
    """One JSON line a call: who, what, how it ended. No headers, so no tokens."""
    fields = {
        "at": "%START_TIME%",
        "method": "%REQ(:METHOD)%",
        "path": "%PATH(NQ)%",
        "status": "%RESPONSE_CODE%",
        "grpc_status": "%GRPC_STATUS(SNAKE_STRING)%",
        "flags": "%RESPONSE_FLAGS%",
        "details": "%RESPONSE_CODE_DETAILS%",
        "tenant": f"%REQ({TENANT_HEADER})%",
        "subject": f"%REQ({SUBJECT_HEADER})%",
        "duration_ms": "%DURATION%",
        "received_bytes": "%BYTES_RECEIVED%",
        "sent_bytes": "%BYTES_SENT%",
        "caller": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
        "cluster": "%UPSTREAM_CLUSTER%",
    }
    return {
        "name": "envoy.access_loggers.file",
        "filter": _worth_logging(),
        "typed_config": typed(
            "extensions.access_loggers.file.v3.FileAccessLog",
            path=site.file(ACCESS_LOG),
            log_format={"json_format": fields},
        ),
    }


def _worth_logging() -> Json:
    path = {"name": ":path", "string_match": {"exact": INFER_PATH}, "invert_match": True}
    failed = {"op": "GE", "value": {"default_value": 400, "runtime_key": "basalt.log.status"}}
    share = {"numerator": PREDICTIONS_LOGGED_PERCENT, "denominator": "HUNDRED"}
    return {
        "or_filter": {
            "filters": [
                {"header_filter": {"header": path}},
                {"status_code_filter": {"comparison": failed}},
                {"grpc_status_filter": {"statuses": ["OK"], "exclude": True}},
                {
                    "runtime_filter": {
                        "runtime_key": "basalt.log.predictions",
                        "percent_sampled": share,
                        "use_independent_randomness": True,
                    }
                },
            ]
        }
    }


def _tls(tls: DoorTls) -> Json:
    certificate = {
        "certificate_chain": {"filename": tls.certificate},
        "private_key": {"filename": tls.key},
        # A renewed certificate is taken without a restart.
        "watched_directory": {"path": tls.certificate.rpartition("/")[0] or "."},
    }
    context: Json = {
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "tls_certificates": [certificate],
    }
    if tls.client_ca:
        context["validation_context"] = {"trusted_ca": {"filename": tls.client_ca}}
    kind = "extensions.transport_sockets.tls.v3.DownstreamTlsContext"
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": typed(
            kind, common_tls_context=context, require_client_certificate=bool(tls.client_ca)
        ),
    }
