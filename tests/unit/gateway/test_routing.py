from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.dispatcher import Route, RoutingError, RoutingTable, Variant
from services.gateway.dispatcher.routing import NotDeployedError

STABLE = Variant("acme.risk.1", "1", "sha256:aa", 90)
CANARY = Variant("acme.risk.2", "2", "sha256:bb", 10)


def routed(*variants: Variant):
    table = RoutingTable.of([Route("acme", "risk", variants)])
    return table.models["acme", "risk"]


@given(st.binary(min_size=1))
def test_equal_request_ids_get_equal_versions(request_id: bytes) -> None:
    model = routed(STABLE, CANARY)
    assert model.choose("", request_id) is model.choose("", request_id)


def test_traffic_is_shared_by_weight() -> None:
    model = routed(STABLE, CANARY)
    by_id = Counter(model.choose("", str(n).encode()).variant.version for n in range(10_000))
    by_chance = Counter(model.choose("", b"").variant.version for _ in range(10_000))

    assert 800 < by_id["2"] < 1_200
    assert 800 < by_chance["2"] < 1_200


def test_a_version_without_weight_answers_only_when_asked_for() -> None:
    model = routed(STABLE, Variant("acme.risk.3", "3", "sha256:cc", 0))

    assert {model.choose("", b"").variant.version for _ in range(1_000)} == {"1"}
    assert model.choose("3", b"").variant.internal_name == "acme.risk.3"


def test_a_version_that_is_not_deployed_is_named_with_those_that_are() -> None:
    with pytest.raises(NotDeployedError, match=r"version '9' of model 'risk'.*deployed: 1, 2"):
        routed(STABLE, CANARY).choose("9", b"")


@pytest.mark.parametrize(
    "routes",
    [
        [Route("acme", "risk", ())],
        [Route("acme", "risk", (Variant("a", "1", "", 0),))],
        [Route("acme", "risk", (Variant("a", "1", "", -1), STABLE))],
        [Route("acme", "risk", (STABLE, STABLE))],
        [Route("acme", "risk", (STABLE,)), Route("acme", "risk", (CANARY,))],
        [Route("acme", "risk", (STABLE,), sample=1.5)],
        [Route("acme", "risk", (STABLE,), outstanding_max=0)],
    ],
)
def test_a_table_that_makes_no_sense_is_refused(routes: list[Route]) -> None:
    with pytest.raises(RoutingError):
        RoutingTable.of(routes)
