"""The project's own source: its files, and what its modules import and call."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from libs.common.settings import SERVICES

ROOT = Path(__file__).resolve().parents[2]
GENERATED = ("libs/common/pb/", "libs/sdk/basalt/pb/")
PACKAGES = ("libs", "services", "standalone", "tools", "apps")

__all__ = ["GENERATED", "PACKAGES", "ROOT", "SERVICES"]


@cache
def files() -> tuple[Path, ...]:
    """What is in the repository or about to be: tracked, or new and not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    paths = (ROOT / name for name in sorted(set(listed)) if name)
    return tuple(path for path in paths if path.is_file())


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def is_generated(path: Path) -> bool:
    return name_of(path).startswith(GENERATED)


def python_files(*folders: str) -> list[Path]:
    """Hand-written modules under any of the folders (all when none is named)."""
    return [
        path
        for path in files()
        if path.suffix == ".py"
        and not is_generated(path)
        and (not folders or name_of(path).startswith(tuple(f"{each}/" for each in folders)))
    ]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of each thing a module imports, also inside functions."""
    package = name_of(path).split("/")[:-1]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def dotted(node: ast.AST) -> str:
    """The name "os.environ.get" of the expression os.environ.get; "" of what is no plain name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        inner = dotted(node.value)
        return f"{inner}.{node.attr}" if inner else ""
    return ""


def is_within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)
