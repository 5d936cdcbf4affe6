"""docker-compose.yml as its readers take it: anchors and merges resolved, defaults filled in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[3]
FILE = REPOSITORY / "docker-compose.yml"
_VARIABLE = re.compile(r"(?<!\$)\$\{(\w+):-([^}]*)\}")


def text() -> str:
    return FILE.read_text()


def containers() -> dict[str, dict[str, Any]]:
    """Each container by its name, with the defaults of the variables that people may set."""
    return yaml.safe_load(_VARIABLE.sub(r"\2", text()))["services"]


def runs_once(container: dict[str, Any]) -> bool:
    """Whether it does its work and ends."""
    return container.get("restart") == "no"


def user_id(container: dict[str, Any]) -> int:
    return int(str(container["user"]).partition(":")[0])


def mounts(container: dict[str, Any]) -> dict[str, str]:
    """What is mounted where: target by source; without what a container has for itself."""
    split = [mount.split(":") for mount in container.get("volumes", []) if ":" in mount]
    return {source: target for source, target, *_ in split}
