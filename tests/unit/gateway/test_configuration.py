"""What Envoy's files say; that Envoy itself takes them is proved in tests/contract/gateway."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from libs.common.errors import InvalidInputError
from libs.common.policy import Policy
from services.gateway.core.envoy import guards
from services.gateway.core.envoy.configuration import Configuration, render
from services.gateway.core.envoy.inputs import Access, Address, DoorTls, Inputs, Site
from services.gateway.core.limits import Limits
from services.gateway.core.site import SERVICES, site
from tests.support.tokens import KeyRing

PEERS = {
    name: f"127.0.0.1:{port}"
    for port, name in enumerate(
        ("ingest", "trainer", "inference", "monitoring", "security", "gateway"), 7001
    )
}
ACCESS = Access(version=3, keys=tuple(KeyRing("one").jwks()["keys"]), tenants=("acme",))
ROUTES, LISTENERS = "rds.json", "lds.json"


def the_site(**changed: Any) -> Site:
    told: dict[str, Any] = {
        "listen": "127.0.0.1:7080",
        "folder": "/door",
        "slow_grpc": "0.0.0.0:7090",
        "slow_rest": "127.0.0.1:7091",
        "peers": PEERS,
        "policy": Policy.load(),
        "tls": None,
        "mutual_tls": "",
    }
    return site(**{**told, **changed})


def rendered(**changed: Any) -> Configuration:
    return render(Inputs(**{"site": the_site(), "access": ACCESS, **changed}))


def resource(configuration: Configuration, name: str) -> dict[str, Any]:
    return json.loads(dict(configuration.files)[name])["resources"][0]


def guard(configuration: Configuration, name: str) -> dict[str, Any]:
    return resource(configuration, f"ecds-{name}.json")["typed_config"]


def routed(configuration: Configuration) -> dict[str, str]:
    routes = resource(configuration, ROUTES)["virtual_hosts"][0]["routes"]
    return {
        next(iter(route["match"].values())): route["route"]["cluster"]
        for route in routes
        if "route" in route
    }


def test_the_same_inputs_make_the_same_files() -> None:
    assert rendered() == rendered()
    assert rendered().sha256 != rendered(access=replace(ACCESS, keys=())).sha256


def test_each_call_has_its_way() -> None:
    ways = routed(rendered())
    assert ways["/inference.GRPCInferenceService/ModelInfer"] == "dispatcher"
    assert ways["/inference.GRPCInferenceService/"] == "gateway-grpc"
    assert ways["/v2"] == "gateway-rest"
    assert ways["/basalt.v1.DeploymentService/"] == "inference"
    assert ways["/basalt.v1.AuditService/"] == "security"
    assert not [path for path in ways if "HealthService" in path]


def test_only_what_the_policy_opens_needs_no_token() -> None:
    rules = guard(rendered(), guards.TOKENS)["rules"]
    open_paths = {each["match"].get("path") for each in rules if "requires" not in each}
    assert "/basalt.v1.IdentityService/Login" in open_paths
    assert "/basalt.v1.IdentityService/IssueServiceToken" not in open_paths
    assert "/basalt.v1.IdentityService/CreateUser" not in open_paths
    assert rules[-1] == {"match": {"prefix": "/"}, "requires": {"provider_name": "basalt"}}


def test_who_may_predict_is_what_the_policy_says() -> None:
    assert the_site().infer_roles == ("application",)
    wrong_order = json.dumps(guard(rendered(), guards.ROLES))
    assert "application" in wrong_order
    assert "engineer" not in wrong_order


def test_a_change_touches_its_own_file_alone() -> None:
    def changed(other: Configuration) -> set[str]:
        before, after = dict(rendered().files), dict(other.files)
        return {name for name in before if before[name] != after[name]}

    keys = (*ACCESS.keys, *KeyRing("two").jwks()["keys"])
    assert changed(rendered(access=replace(ACCESS, keys=keys))) == {"ecds-tokens.json"}
    limits = {"acme": Limits(requests_per_second=5).effective()}
    assert changed(rendered(limits=limits)) == {"ecds-rates.json"}
    # What closes connections when it changes, never does by a key or a limit.
    assert LISTENERS not in changed(rendered(access=replace(ACCESS, tenants=("acme", "globex"))))


def test_clusters_and_keys_are_moved_before_the_routes_that_need_them() -> None:
    names = [name for name, _ in rendered().files]
    assert names.index("cds.json") < names.index(ROUTES)
    assert names.index("ecds-tokens.json") < names.index(ROUTES)
    assert names[-1] == "envoy.json"


def test_without_keys_only_what_needs_none_has_a_way() -> None:
    closed = rendered(access=Access())
    ways = routed(closed)
    assert "/basalt.v1.IdentityService/Login" in ways
    assert "/inference.GRPCInferenceService/ModelInfer" not in ways
    assert "/v2" not in ways
    last = resource(closed, ROUTES)["virtual_hosts"][0]["routes"][-1]
    assert last["direct_response"]["status"] == 503
    assert "providers" not in guard(closed, guards.TOKENS)


def test_a_tenants_limit_stands_beside_the_default() -> None:
    limits = {"acme": Limits(requests_per_second=5).effective()}
    buckets = {
        each["entries"][0]["value"]: each["token_bucket"]["tokens_per_fill"]
        for each in guard(rendered(limits=limits), guards.RATES)["descriptors"]
        if each["entries"][0]["key"] == "tenant"
    }
    assert buckets == {"acme": 5, "": 50_000}


def test_every_call_that_needs_no_token_has_a_bucket_by_address_and_ends_in_seconds() -> None:
    rows = guard(rendered(), guards.RATES)["rate_limits"]
    patterns = [
        each["actions"][0]["header_value_match"]["headers"][0]["string_match"]["safe_regex"]
        for each in rows
        if "header_value_match" in each["actions"][0]
    ]
    rules = guard(rendered(), guards.TOKENS)["rules"]
    needs_none = [rule["match"] for rule in rules if "requires" not in rule]
    for match in needs_none:
        path = match.get("path") or match["prefix"] + "health.v1.Health/Check"
        fitting = [each for each in patterns if re.fullmatch(each["regex"], path)]
        assert len(fitting) == 1, path
        first = next(
            route
            for route in resource(rendered(), ROUTES)["virtual_hosts"][0]["routes"]
            if path == route["match"].get("path")
            or path.startswith(route["match"].get("prefix", "\0"))
        )
        lasting = first.get("route", {}).get("max_stream_duration")
        assert "direct_response" in first or lasting == {"max_stream_duration": "10s"}, path


def test_what_shows_no_token_is_given_seconds() -> None:
    door = resource(rendered(), LISTENERS)
    manager = door["filter_chains"][0]["filters"][0]["typed_config"]
    for limit in (
        door["listener_filters_timeout"],
        manager["request_headers_timeout"],
        manager["common_http_protocol_options"]["idle_timeout"],
        manager["drain_timeout"],
        manager["stream_flush_timeout"],
    ):
        assert 0 < float(limit.rstrip("s")) <= 30
    assert not door["continue_on_listener_filters_timeout"]


def test_identity_from_outside_is_taken_away_first() -> None:
    manager = resource(rendered(), LISTENERS)["filter_chains"][0]["filters"][0]["typed_config"]
    mutations = manager["early_header_mutation_extensions"][0]["typed_config"]["mutations"]
    assert {each["remove"] for each in mutations} == {
        "x-basalt-tenant",
        "x-basalt-subject",
        "x-basalt-token-id",
        "x-basalt-login-id",
        "x-basalt-generation",
        "x-basalt-address",
        "forwarded",
        "x-forwarded-for",
        "x-real-ip",
    }


def test_every_way_but_the_predictions_says_the_callers_address() -> None:
    for route in resource(rendered(), ROUTES)["virtual_hosts"][0]["routes"]:
        if "route" not in route or route["route"]["cluster"] == "dispatcher":
            continue
        (added,) = route["request_headers_to_add"]
        assert added["header"]["key"] == "x-basalt-address", route["name"]
        assert "DIRECT_REMOTE_ADDRESS" in added["header"]["value"]
        assert added["append_action"] == "OVERWRITE_IF_EXISTS_OR_ADD"


def test_what_is_internal_has_no_way() -> None:
    policy = Policy.load()
    internal = {method for method in policy.methods if policy.access(method).internal}
    served = {method for method in internal if method.partition("/")[0] in SERVICES}
    routes = resource(rendered(), ROUTES)["virtual_hosts"][0]["routes"]
    first: dict[str, bool] = {}  # The first route that fits decides.
    for method in served:
        for route in routes:
            match = route["match"]
            path = f"/{method}"
            if match.get("path") == path or path.startswith(match.get("prefix", "no")):
                first[method] = "route" in route
                break
    assert first == dict.fromkeys(served, False)
    assert "basalt.v1.IdentityService/IssueServiceToken" in served


def test_no_secret_reaches_the_access_log() -> None:
    manager = resource(rendered(), LISTENERS)["filter_chains"][0]["filters"][0]["typed_config"]
    fields = manager["access_log"][0]["typed_config"]["log_format"]["json_format"]
    assert "authorization" not in json.dumps(fields).lower()
    assert fields["path"] == "%PATH(NQ)%"  # Without the query.


def test_certificates_are_asked_for_where_they_are_set() -> None:
    face = DoorTls("/face/door.pem", "/face/door.key", "/face/ca.pem")
    secured = rendered(site=the_site(tls=face, mutual_tls="/tls"))
    chain = resource(secured, LISTENERS)["filter_chains"][0]
    assert chain["transport_socket"]["typed_config"]["require_client_certificate"] is True
    clusters = json.loads(dict(secured.files)["cds.json"])["resources"]
    plain = [each["name"] for each in clusters if "transport_socket" not in each]
    assert plain == ["dispatcher"]


def test_whoever_listens_everywhere_is_reached_as_its_peers_reach_it() -> None:
    peers = {**PEERS, "gateway": "gateway.internal:7006"}
    placed = the_site(peers=peers)
    assert placed.slow_grpc == Address("gateway.internal", 7090)
    assert placed.slow_rest == Address("127.0.0.1", 7091)
    named = {
        each["name"]: each["type"]
        for each in json.loads(dict(rendered(site=placed).files)["cds.json"])["resources"]
    }
    assert named["gateway-grpc"] == "STRICT_DNS"
    assert named["gateway-rest"] == "STATIC"


@pytest.mark.parametrize("listen", ["7080", "host:", ":7080", "host:0", "host:99999", "host:x"])
def test_an_address_that_is_none_is_refused_by_its_settings_name(listen: str) -> None:
    with pytest.raises(InvalidInputError, match="BASALT_DOOR_LISTEN"):
        the_site(listen=listen)
