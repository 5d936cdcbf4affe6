"""The dispatcher: gateway's hot path between Envoy and Triton."""

from services.gateway.dispatcher.dispatcher import Dispatcher
from services.gateway.dispatcher.limits import Limits
from services.gateway.dispatcher.recording import (
    LATENCY_BOUNDS_S,
    CallSpan,
    Sample,
    Sampler,
    Series,
    Snapshot,
    SpanBuffer,
)
from services.gateway.dispatcher.routing import Route, RoutingError, RoutingTable, Variant

__all__ = [
    "LATENCY_BOUNDS_S",
    "CallSpan",
    "Dispatcher",
    "Limits",
    "Route",
    "RoutingError",
    "RoutingTable",
    "Sample",
    "Sampler",
    "Series",
    "Snapshot",
    "SpanBuffer",
    "Variant",
]
