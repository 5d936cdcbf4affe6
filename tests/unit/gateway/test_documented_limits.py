"""The limits that docs/reference/gateway.md names are those that the code keeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from basalt.model import ROWS_A_CALL_MAX
from libs.common import rpc, sharing
from services.gateway.core import limits
from services.gateway.core.envoy import configuration, listener, rates, routes
from services.gateway.dispatcher import Limits
from services.inference.core.artifacts import BATCH_SIZE_MAX

REFERENCE = Path(__file__).parents[3] / "docs/reference/gateway.md"
MIB = 1024 * 1024

SAID = [
    f"| {limits.REQUESTS_PER_SECOND_DEFAULT:,} a tenant | Envoy |",
    f"| {limits.REQUESTS_IN_FLIGHT_DEFAULT} a tenant | dispatcher |",
    f"| {Limits().buffered_bytes_max // MIB} MiB, of one tenant "
    f"{Limits().tenant_buffered_bytes_max // MIB} MiB |",
    f"| {configuration.CONNECTIONS_MAX:,}, {listener.CONCURRENT_STREAMS_MAX:,}, "
    f"{listener.HEADERS_BYTES_MAX_KB} KiB |",
    f"| {configuration.HEAP_BYTES_MAX // MIB} MiB: from {configuration.CROWDED_FROM:.0%}".replace(
        "%", " %"
    ),
    f"down to {configuration.CROWDED_IDLE_S:g} s at {configuration.CROWDED_AT:.0%}".replace(
        "%", " %"
    ),
    f"| {Limits().timeout_s_max:g} s | dispatcher; by REST Envoy |",
    f"| {routes.PREDICTION_S_MAX:g} s | dispatcher; by REST Envoy |",
    f"| logins and changes of passwords | {rates.LOGINS_PER_SECOND_MAX} |",
    f"(`GetJwks`, `GetSigningKeys`) | {rates.KEYS_PER_SECOND_MAX} |",
    f"| `/ready` | {rates.READY_PER_SECOND_MAX} |",
    f"reflection | {rates.HEALTH_PER_SECOND_MAX} |",
    f"after {listener.FIRST_BYTES_S_MAX:g} s (Linux",
    f"call's headers | after {listener.REQUEST_HEADERS_S_MAX:g} s |",
    f"after {listener.IDLE_S_MAX:g} s, and {listener.DRAIN_S_MAX:g} s for",
    f"after {routes.OPEN_S_MAX:g} s: a `Watch`",
    f"does not take its answer | after {listener.UNREAD_S_MAX:g} s |",
    f"{listener.RESETS_MAX:,} at once or {listener.RESETS_PER_SECOND_MAX} a second",
    f"| {rpc.CONCURRENT_CALLS_MAX:,} | {sharing.TENANT_CALLS_MAX} |",
    *(
        f"{what} at a time | {at_once} | {at_once // 2} |"
        for what, at_once in (
            ("reads (`Get…`, `List…`, `Count…`)", sharing.READS_AT_ONCE),
            ("uploads", sharing.UPLOADS_AT_ONCE),
            ("sealings", sharing.SEALINGS_AT_ONCE),
        )
    ),
    f"by /{rates.IPV6_PREFIX_BITS})",
    f"| rows of one request | {BATCH_SIZE_MAX:,} of a model of the platform's; the Python client"
    f" sends {ROWS_A_CALL_MAX} at a time |",
]


@pytest.mark.parametrize("words", SAID)
def test_the_reference_says_what_is_kept(words: str) -> None:
    assert words in REFERENCE.read_text()
