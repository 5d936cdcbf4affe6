from __future__ import annotations

import pytest

from libs.common.errors import InvalidInputError, NotFoundError
from services.gateway.core.limits import Limits
from services.gateway.core.table import Table
from tests.unit.gateway.test_door import ROUTE, TABLE, VARIANT


def test_a_table_is_read_as_it_was_written() -> None:
    limited = TABLE.limited({"acme": Limits(sample_fraction=0.0).effective()})
    assert Table.read(limited.text()) == limited


@pytest.mark.parametrize("text", ["", "[]", '{"routes": [{}]}', '{"version": "x"}'])
def test_what_is_no_table_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="cannot be read"):
        Table.read(text)


def test_a_tenant_sees_its_own_models_alone() -> None:
    assert TABLE.model("acme", "m") == ROUTE
    for tenant, model in (("globex", "m"), ("acme", "n")):
        with pytest.raises(NotFoundError, match="not deployed in your tenant"):
            TABLE.model(tenant, model)


def test_the_version_asked_for_or_the_one_with_the_most_traffic() -> None:
    canary = VARIANT.model_copy(update={"version": 2, "weight": 5})
    routed = ROUTE.model_copy(update={"variants": (canary, VARIANT)})
    assert routed.variant("").version == 1
    assert routed.variant("2").version == 2
    with pytest.raises(NotFoundError, match="2, 1"):
        routed.variant("3")


def test_the_dispatcher_gets_limits_and_the_share_that_is_sampled() -> None:
    route = TABLE.routing().models[("acme", "m")].targets[0].route
    assert (route.sample, route.merge, route.batch_size_max) == (1.0, True, 8)
    limits = Limits(sample_fraction=0.25, message_bytes_max=10).effective()
    limited = TABLE.limited({"acme": limits}).routing()
    assert limited.models[("acme", "m")].targets[0].route.sample == 0.25
    assert limited.tenant_message_bytes_max == {"acme": 10}


def test_a_model_without_batches_is_not_merged() -> None:
    single = ROUTE.model_copy(update={"batch_size_max": 0})
    routing = Table(version=1, routes=(single,)).routing()
    assert routing.models[("acme", "m")].targets[0].merge_rows_max == 1


@pytest.mark.parametrize(
    "limits",
    [
        Limits(requests_per_second=-1),
        Limits(requests_in_flight_max=1_000_000),
        Limits(message_bytes_max=2**40),
        Limits(sample_fraction=1.1),
        Limits(sample_fraction=float("nan")),
    ],
)
def test_limits_out_of_range_are_refused_by_name(limits: Limits) -> None:
    named = next(name for name in Limits.model_fields if getattr(limits, name) not in (0, None))
    with pytest.raises(InvalidInputError, match=named):
        limits.checked()
