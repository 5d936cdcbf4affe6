"""The one way in which the platform reads YAML that people write: YAML 1.2's core schema, no more.

So `on`, `no`, `2026-01-01` and `1:1:1` are text and `1e-3` is a number. A key that is given twice,
an alias, another tag and deep nesting are refused, as soon as they are met.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from typing import Any, ClassVar

import yaml

DEPTH_MAX = 8
_CORE = "tag:yaml.org,2002:"


class YamlError(ValueError):
    """What is wrong, with its line."""


class _Loader(yaml.SafeLoader):
    # Of its own, where SafeLoader has those of YAML 1.1.
    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # pyright: ignore[reportIncompatibleVariableOverride]
    yaml_constructors: ClassVar[dict[str | None, Callable[[Any, Any], Any]]] = {}  # pyright: ignore
    depth_max = DEPTH_MAX
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise YamlError(f"{_place(self.peek_event().start_mark)}: aliases are not allowed")
        self.depth += 1
        if self.depth > self.depth_max + 1:
            raise YamlError(f"{_place(self.peek_event().start_mark)}: it is nested too deeply")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[Hashable] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise YamlError(f"{_place(key.start_mark)}: a key is one word or text")
            if key.value in seen:
                raise YamlError(f"{_place(key.start_mark)}: {key.value!r} is given twice")
            seen.add(key.value)
        return node


def _scalar(name: str, rule: str, first: str, made: Callable[[str], Any]) -> None:
    """A kind of plain scalar: what it looks like, what it begins with, what becomes of it."""
    tag = _CORE + name

    def construct(loader: _Loader, node: yaml.ScalarNode) -> Any:
        return made(loader.construct_scalar(node))

    _Loader.add_implicit_resolver(tag, re.compile(rf"(?:{rule})\Z"), list(first))
    _Loader.add_constructor(tag, construct)


def _integer(text: str) -> int:
    sign, digits = (text[0], text[1:]) if text[0] in "+-" else ("", text)
    base = {"0o": 8, "0x": 16}.get(digits[:2], 10)
    return int(sign + digits.removeprefix("0o").removeprefix("0x"), base)


def _float(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


_scalar("null", "~|null|Null|NULL|", "~nN", lambda _: None)
_Loader.yaml_implicit_resolvers[""] = [(_CORE + "null", re.compile(r"\Z"))]
_scalar("bool", "true|false", "tf", lambda text: text == "true")
_scalar("int", "[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789", _integer)
_scalar(
    "float",
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)"
    r"|\.(?:nan|NaN|NAN)",
    "-+.0123456789",
    _float,
)
for _name, _made in (
    ("str", yaml.SafeLoader.construct_yaml_str),
    ("seq", yaml.SafeLoader.construct_yaml_seq),
    ("map", yaml.SafeLoader.construct_yaml_map),
):
    _Loader.add_constructor(_CORE + _name, _made)
_Loader.add_constructor(None, yaml.SafeLoader.construct_undefined)


def read(text: str, depth_max: int = DEPTH_MAX) -> tuple[Any, yaml.Node | None]:
    """The value and the nodes that it was made from, which know their lines. Raises YamlError."""
    try:
        loader = _Loader(text)
    except yaml.YAMLError as error:
        raise YamlError(f"line 1: the YAML cannot be read: {error}") from error
    loader.depth_max = depth_max
    try:
        node = loader.get_single_node()
        return (None if node is None else loader.construct_document(node)), node
    except yaml.MarkedYAMLError as error:
        where = _place(error.problem_mark or error.context_mark)
        raise YamlError(f"{where}: the YAML cannot be read: {error.problem}") from error
    except YamlError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise YamlError(f"line 1: the YAML cannot be read: {error}") from error
    finally:
        loader.dispose()


def load(text: str, depth_max: int = DEPTH_MAX) -> Any:
    """The value alone. Raises YamlError."""
    return read(text, depth_max)[0]


def _place(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}" if mark else "line 1"
