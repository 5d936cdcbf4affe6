"""What earlier releases kept is read by today's classes, and nothing of it gets lost.

An entry whose state gains a field gives it a default. A field that is called otherwise, or moves,
is read in its old place by a validator of the class (`mode="before"`), and stands in MOVED.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from libs.common import flow
from libs.common.settings import SERVICES
from tests.contract.history import samples

ROOT = Path(__file__).resolve().parents[3]
# Where a field kept earlier is today: "user.tokens" → "user.live"; "": left out on purpose.
MOVED: Mapping[str, str] = {
    # Tokens of before say no generation, which is 0: the user's own revokes all of them in one row.
    "user.tokens": "",
    # Who logged in before a login could be renewed by its id logs in once again.
    "user.logins": "",
}
MAKES_AGGREGATES = ("aggregate", "journal.aggregate")
BY_HAND = re.compile(r"\.state(\[|\.get\()|\*\*\w+\.state\b")
RECORD = "add what makes one to tests/contract/history/driving.py, then record: CONTRIBUTING.md"


def states_of(service: str) -> Mapping[str, type[BaseModel]]:
    return importlib.import_module(f"services.{service}.core.states").STATES


def kinds_in_code(service: str) -> set[str]:
    """The kinds of aggregates that a service names, wherever it does."""
    found: set[str] = set()
    for file in sorted((ROOT / "services" / service / "core").glob("**/*.py")):
        for call in ast.walk(ast.parse(file.read_text())):
            if isinstance(call, ast.Call) and ast.unparse(call.func) in MAKES_AGGREGATES:
                module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
                names = vars(importlib.import_module(module))
                found.add(str(eval(ast.unparse(call.args[1]), names)))  # noqa: S307 - our code.
    return found


@pytest.mark.parametrize("service", SERVICES)
def test_each_kind_of_aggregate_has_a_class_and_a_sample(service: str) -> None:
    kinds = kinds_in_code(service)
    sampled = {each.kind for r in samples.releases() for each in samples.entries(r, service)}
    assert kinds == set(states_of(service)), f"services/{service}/core/states.py names them all"
    assert kinds <= sampled, f"no sample of {kinds - sampled}: {RECORD}"


def test_each_event_has_a_sample() -> None:
    sampled = {each.topic for r in samples.releases() for each in samples.events(r)}
    missing = set(flow.BY_NAME) - sampled
    assert not missing, f"no sample of {missing}: {RECORD}"


@pytest.mark.parametrize("release", samples.releases(), ids=lambda release: release.name)
@pytest.mark.parametrize("service", SERVICES)
def test_each_state_is_read_whole(service: str, release: Path) -> None:
    states = states_of(service)
    problems = [
        f"{entry.id} ({entry.type}): {problem}"
        for entry in samples.entries(release, service)
        for problem in problems_of(states[entry.kind], entry.state, entry.kind)
    ]
    assert not problems, "\n".join(problems[:20])


@pytest.mark.parametrize("release", samples.releases(), ids=lambda release: release.name)
def test_each_event_is_read_whole(release: Path) -> None:
    problems = [
        f"{each.topic}: {problem}"
        for each in samples.events(release)
        for problem in problems_of(
            flow.BY_NAME[each.topic].event, json.loads(each.body), each.topic
        )
    ]
    assert not problems, "\n".join(problems[:20])


@pytest.mark.parametrize("release", samples.releases(), ids=lambda release: release.name)
@pytest.mark.parametrize("service", SERVICES)
def test_each_outbox_can_still_be_published(service: str, release: Path) -> None:
    """What waited in an outbox over an upgrade is an event of today."""
    for entry in samples.entries(release, service):
        for outgoing in entry.outbox:
            topic = flow.BY_NAME[outgoing.topic]
            assert not list(problems_of(topic.event, json.loads(outgoing.payload), topic.name))


@pytest.mark.parametrize("service", SERVICES)
def test_no_state_is_read_by_hand(service: str) -> None:
    """Field by field out of a dictionary a renamed one is missed only when it is asked for."""
    by_hand = [
        f"{file.relative_to(ROOT)}: {line.strip()}"
        for file in sorted((ROOT / "services" / service).rglob("*.py"))
        for line in file.read_text().splitlines()
        if BY_HAND.search(line)
    ]
    assert not by_hand, "\n".join(by_hand)


def problems_of(kind: type[BaseModel], stored: Mapping[str, Any], what: str) -> Iterator[str]:
    try:
        read = kind.model_validate(stored)
    except ValidationError as error:
        yield f"{kind.__name__} does not read it: {error}"
        return
    yield from _lost(stored, read.model_dump(mode="json"), what)


def _lost(stored: Any, read: Any, at: str) -> Iterator[str]:
    if at in MOVED:
        return
    if isinstance(stored, dict) and isinstance(read, dict):
        for name, value in stored.items():
            if name in read:
                yield from _lost(value, read[name], f"{at}.{name}")
            elif f"{at}.{name}" not in MOVED:
                yield f"{at}.{name} was kept and is not read: give the class a validator for it"
    elif isinstance(stored, list) and isinstance(read, list) and len(stored) == len(read):
        for value, again in zip(stored, read, strict=True):
            yield from _lost(value, again, f"{at}[]")
    elif stored != read and _moment(stored) != _moment(read):
        yield f"{at} was kept as {stored!r} and is read as {read!r}"


def _moment(value: Any) -> Any:
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return value
