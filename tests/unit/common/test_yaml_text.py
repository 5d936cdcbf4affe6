"""YAML as 1.2 has it, the same for contracts and pipelines; what it lets pass is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest

from libs.common.yaml_text import YamlError, load, read


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("no", "no"),
        ("Yes", "Yes"),
        ("true", True),
        ("false", False),
        ("True", "True"),
        ("1:1:1", "1:1:1"),
        ("190:20:30.15", "190:20:30.15"),
        ("2026-01-01", "2026-01-01"),
        ("1_000", "1_000"),
        ("1e-3", 0.001),
        ("1E5", 1e5),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        ("0b1", "0b1"),
        ("+7", 7),
        ("-.5", -0.5),
        ("7.", 7.0),
        (".", "."),
        ("१२", "१२"),
        ("-.inf", -math.inf),
        ("nan", "nan"),
        ("~", None),
        ("null", None),
        ("'true'", "true"),
        ("<<", "<<"),
        ("=", "="),
    ],
)
def test_plain_words_are_what_yaml_1_2_says(text: str, value: Any) -> None:
    assert load(f"key: {text}") == {"key": value}
    assert type(load(f"key: {text}")["key"]) is type(value)
    # A key is a word all the same.
    assert load(f"[{text}]") == [value]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3", "line 3, column 1: 'a' is given twice"),
        ("x:\n  - {a: 1, a: 2}", "line 2, column 12: 'a' is given twice"),
        ("a: &x 1\nb: *x", "line 2, column 4: aliases are not allowed"),
        ("{[1]: 2}", "line 1, column 2: a key is"),
        ("[" * 10 + "]" * 10, "nested too deeply"),
        ("a: !!set {b}", "tag"),
        ("a: !!timestamp 2026-01-01", "tag"),
        ("a: !!python/name:os.system", "tag"),
        ("a: b: c", "line 1, column 5: the YAML cannot be read"),
        ("a: " + "9" * 5_000, "line 1: the YAML cannot be read"),
        ("a: \0", "cannot be read"),
        ("a: 1\n---\nb: 2", "line 2"),
    ],
)
def test_what_yaml_lets_pass_is_refused_with_its_line(text: str, said: str) -> None:
    with pytest.raises(YamlError, match=said):
        load(text)


BOMBS = {
    "deep": "[" * 200_000,
    "deep blocks": "\n".join(" " * at + "a:" for at in range(2_000)),
    "a laugh": "a: &a [x]\n" + "".join(f"a{n}: &a{n} [*a, *a]\n" for n in range(1_000)),
    "keys": "{" + ", ".join(f"k{n}: {n}" for n in range(10_000)) + "}",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_are_refused_or_read(kind: str) -> None:
    if kind == "keys":
        assert len(load(BOMBS[kind])) == 10_000
        return
    with pytest.raises(YamlError):
        load(BOMBS[kind])


def test_nothing_is_null_and_nodes_know_their_lines() -> None:
    assert read("") == (None, None)
    value, node = read("a: 1\nb:\n  - c\n")
    assert value == {"a": 1, "b": ["c"]}
    assert node is not None
    assert node.value[1][1].value[0].start_mark.line == 2
