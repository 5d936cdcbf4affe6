"""Every topic is a row in flow.py, and the row is true."""

from __future__ import annotations

import ast
import inspect
import re

import pytest

from libs.common import events, flow
from libs.common.events import Event
from libs.common.flow import Topic
from libs.common.kafka_rights import Operation, Resource, rights_of
from tests.tidy.source import ROOT, SERVICES, dotted, name_of, python_files, tree

ROWS = {name: row for name, row in vars(flow).items() if isinstance(row, Topic)}


def subscribed(service: str) -> list[str]:
    """The rows that a service's handlers are registered for, as `flow.DATASET_VERSIONED`."""
    return [
        dotted(argument).removeprefix("flow.")
        for path in python_files(f"services/{service}")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and dotted(node.func).endswith(".subscriber")
        for argument in node.args
    ]


def made(service: str) -> set[str]:
    """The classes of events that a service makes."""
    names = {kind.__name__ for kind in flow.BY_EVENT}
    return {
        called
        for path in python_files(f"services/{service}")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and (called := dotted(node.func).rpartition(".")[2]) in names
    }


def test_every_row_is_in_the_list_and_every_event_has_one_row() -> None:
    kinds = [
        kind
        for _, kind in inspect.getmembers(events, inspect.isclass)
        if issubclass(kind, Event) and kind is not Event
    ]

    assert tuple(ROWS.values()) == flow.TOPICS
    assert sorted(row.event.__name__ for row in flow.TOPICS) == sorted(k.__name__ for k in kinds)
    assert len(flow.BY_NAME) == len(flow.BY_EVENT) == len(flow.TOPICS)


@pytest.mark.parametrize("row", flow.TOPICS, ids=lambda row: row.name)
def test_a_row_is_well_formed(row: Topic) -> None:
    assert re.fullmatch(r"[a-z]+\.[a-z]+\.v[0-9]+", row.name)
    assert row.producer in SERVICES
    assert set(row.consumers) <= set(SERVICES)
    assert row.key[0] == "tenant"
    assert set(row.key) <= set(row.event.model_fields)
    assert row.retention_ms > 0
    assert row.partitions > 0


@pytest.mark.parametrize("row", flow.TOPICS, ids=lambda row: row.name)
def test_its_producer_makes_its_event_and_nobody_else_does(row: Topic) -> None:
    makers = {service for service in SERVICES if row.event.__name__ in made(service)}

    assert makers == {row.producer}


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_consumes_exactly_what_the_rows_say(service: str) -> None:
    rows = [row for row in flow.TOPICS if row is not flow.LETTER_REPLAYED]
    wanted = sorted(name for name, row in ROWS.items() if row in rows and service in row.consumers)

    assert sorted(subscribed(service)) == wanted
    # The bus of each consumer takes its letters again, by itself.
    consumes = any(service in row.consumers for row in rows)
    assert (service in flow.LETTER_REPLAYED.consumers) == consumes


@pytest.mark.parametrize("service", SERVICES)
def test_its_readme_names_its_topics(service: str) -> None:
    text = (ROOT / "services" / service / "README.md").read_text()
    rows = [row for row in flow.TOPICS if service == row.producer or service in row.consumers]

    missing = [row.name for row in rows if row.name.removesuffix(".v1") not in text]
    assert missing == []


def test_topics_are_named_nowhere_else() -> None:
    """A name in quotes would go its own way when the row changes."""
    names = set(flow.BY_NAME)
    found = [
        f"{name_of(path)}:{node.lineno} {node.value}"
        for path in python_files("libs", "services", "standalone")
        if name_of(path) != "libs/common/flow.py"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Constant) and node.value in names
    ]
    assert found == []


def test_the_names_of_upstream_topics_can_be_read_back() -> None:
    topic = flow.upstream_topic("acme", "hospital.lab-1")

    assert topic == "upstream.acme.hospital.lab-1"
    assert flow.upstream_names(topic) == ("acme", "hospital.lab-1")


def test_one_module_alone_tells_clients_how_to_come_to_kafka() -> None:
    """Whoever names servers by hand has forgotten to say who it is."""
    words = {"bootstrap_servers", "security_protocol", "sasl_mechanism", "sasl_plain_password"}
    found = [
        f"{name_of(path)}:{node.value.lineno} {node.arg}"
        for path in python_files("libs", "services", "standalone")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.keyword) and node.arg in words
    ]
    assert found == []


def rights_table() -> str:
    """What docs/reference/security.md says of who may do what on Kafka, as the code grants it."""
    lines = ["| who | writes | reads, in groups of its own |", "|---|---|---|"]
    for service in SERVICES:
        rights = rights_of(service)
        cells = [
            ", ".join(
                f"`{right.name}*`" if right.prefixed else f"`{right.name}`"
                for right in rights
                if (right.resource, right.operation) == (Resource.TOPIC, operation)
            )
            for operation in (Operation.WRITE, Operation.READ)
        ]
        lines.append(f"| {service} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def test_the_page_on_security_says_who_may_do_what_on_kafka() -> None:
    page = (ROOT / "docs/reference/security.md").read_text()

    assert rights_table() in page, f"The table should be:\n{rights_table()}"
