"""Who knows one service knows six."""

from __future__ import annotations

import ast
import re

import pytest

from tests.tidy.source import ROOT, SERVICES, files, name_of, tree

ALIKE = {
    "README.md",
    "__init__.py",
    "__main__.py",
    "app.py",
    "settings.py",
    "ports.py",
    "core/",
    "inbound/",
    "outbound/",
}
EDGES = {"__init__.py", "events.py", "rpc.py"}
# What runs beside a service's own process has a folder of its own.
OWN = {
    "gateway": {"dispatcher/"},  # The hot path behind Envoy.
    "trainer": {"training/"},  # What runs in the training process.
}
SECTIONS = ("consumes", "publishes", "serves", "stores")


def entries(folder: str) -> set[str]:
    """What lies directly in a folder of the repository; folders end in a slash."""
    inside = (
        name_of(path).removeprefix(folder) for path in files() if name_of(path).startswith(folder)
    )
    return {re.sub(r"/.*", "/", name) for name in inside}


def test_there_are_six_services() -> None:
    assert entries("services/") == {"__init__.py", *(f"{service}/" for service in SERVICES)}


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_has_the_same_files_as_the_others(service: str) -> None:
    assert entries(f"services/{service}/") == ALIKE | OWN.get(service, set())
    assert entries(f"services/{service}/inbound/") >= EDGES
    for folder in ("core", "outbound"):
        assert "__init__.py" in entries(f"services/{service}/{folder}/")


@pytest.mark.parametrize("service", SERVICES)
def test_its_readme_says_what_it_consumes_publishes_serves_and_stores(service: str) -> None:
    text = (ROOT / "services" / service / "README.md").read_text().lower()

    assert not [section for section in SECTIONS if section not in text]


@pytest.mark.parametrize("service", SERVICES)
def test_its_main_runs_what_its_root_builds_and_nothing_more(service: str) -> None:
    module = tree(ROOT / "services" / service / "__main__.py")
    body = [
        node
        for node in module.body
        if not isinstance(node, ast.Import | ast.ImportFrom)
        and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    ]

    assert [ast.unparse(node) for node in body] == [
        "if __name__ == '__main__':\n    run(build(read(Settings)))"
    ]


@pytest.mark.parametrize("service", SERVICES)
def test_its_root_builds_a_service_from_settings(service: str) -> None:
    functions = {
        node.name: node
        for node in tree(ROOT / "services" / service / "app.py").body
        if isinstance(node, ast.FunctionDef)
    }

    build = functions["build"]
    assert [ast.unparse(argument) for argument in build.args.args][:1] == ["settings: Settings"]
    assert build.returns is not None
    assert ast.unparse(build.returns).endswith("Service")
