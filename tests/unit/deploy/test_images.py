"""An image holds what its service imports: found by reading the code, without importing any."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from libs.common.settings import SERVICES
from tests.unit.deploy import compose

OURS = ("libs", "services", "deploy")
IMAGES = compose.REPOSITORY / "deploy/images"
HEAVY = frozenset({"torch", "polars", "pyarrow", "scikit-learn", "onnxruntime"})
# What may be large, and where.
ALLOWED = {
    "trainer": HEAVY,
    "inference": HEAVY - {"torch"},
    "ingest": {"polars", "pyarrow"},
    "monitoring": {"pyarrow"},
}
# Given by Triton to what runs inside it.
INSIDE_TRITON = {"triton_python_backend_utils"}
# What the probes and one-shot programs of every image import.
PROGRAMS = ("deploy.probe", "deploy.first_start", "deploy.object_users")


def modules_of(service: str) -> Iterator[str]:
    for file in sorted((compose.REPOSITORY / "services" / service).rglob("*.py")):
        yield ".".join(file.relative_to(compose.REPOSITORY).with_suffix("").parts)


def file_of(module: str) -> Path | None:
    path = compose.REPOSITORY.joinpath(*module.split("."))
    found = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in found if file.exists()), None)


@cache
def imports(module: str) -> frozenset[str]:
    """The modules that a module imports, also within its functions, but not for types alone."""
    file = file_of(module)
    if file is None:
        return frozenset()
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(file.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting.extend(node.orelse)
            continue
        # What is tried, and done without where it is missing.
        if isinstance(node, ast.Try) and any(
            "ImportError" in ast.unparse(each) for each in node.handlers
        ):
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        waiting.extend(ast.iter_child_nodes(node))
    return frozenset(found)


def reached(beginnings: Sequence[str]) -> set[str]:
    """What is imported from these modules on, through ours."""
    seen: set[str] = set()
    waiting = list(beginnings)
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        if module.partition(".")[0] in OURS:
            waiting.extend(imports(module))
            # Python imports a package before what is in it.
            waiting.extend([module.rpartition(".")[0]] if "." in module else [])
    return seen


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(service: str) -> set[str]:
    lines = (IMAGES / f"requirements-{service}.lock").read_text().splitlines()
    return {normal(line.partition("==")[0]) for line in lines if "==" in line and line[0] != " "}


@pytest.fixture(scope="module")
def distributions() -> Mapping[str, list[str]]:
    return packages_distributions()


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_has_what_its_service_imports(
    service: str, distributions: Mapping[str, list[str]]
) -> None:
    modules = reached([*modules_of(service), *PROGRAMS])
    foreign = {module.partition(".")[0] for module in modules} - INSIDE_TRITON
    foreign -= {*OURS, *sys.stdlib_module_names}
    installed = locked(service)
    # A namespace such as `google` belongs to several packages: one of them at least.
    lacking = {
        name
        for name in foreign
        if not installed & {normal(each) for each in distributions.get(name, ())}
    }
    assert not lacking


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_copies_every_file_that_its_service_imports(service: str) -> None:
    copied = ("libs.common", f"services.{service}", "deploy")
    whole = {"libs", "services"}
    for module in reached([*modules_of(service), *PROGRAMS]):
        if module.partition(".")[0] in OURS and file_of(module):
            assert module in whole or module.startswith(copied), module


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_installs_locked_packages_and_none_of_the_others(service: str) -> None:
    lines = (IMAGES / f"requirements-{service}.lock").read_text().splitlines()
    names = locked(service)
    assert names
    assert not [line for line in lines if "://" in line or line.startswith("-")]
    assert sum("--hash=sha256:" in line for line in lines) >= len(names)
    assert names & HEAVY <= ALLOWED.get(service, set())
