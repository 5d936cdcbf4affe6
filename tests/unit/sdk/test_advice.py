"""What the platform advises can be done: each command that it names is one."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from basalt.cli import app, identity
from libs.common import policy
from services.security.core import api_keys

REPOSITORY = Path(__file__).parents[3]
ADVISERS = ("libs/common", "libs/sdk", "services", "standalone")


def fault(line: str) -> str:
    """What is wrong with a command line; words that name no command are its arguments."""
    node: Any = typer.main.get_command(app)
    words = line.split()
    while commands := getattr(node, "commands", None):
        if not words or (words[0] not in commands and words[0] != "--help"):
            return f"`basalt {line}` names no command"
        if words[0] == "--help":
            return ""
        node = commands[words.pop(0)]
    options = {option for each in node.params for option in each.opts}
    unknown = [word for word in words if word.startswith("--") and word not in options]
    return f"`basalt {line}` has no {unknown[0]}" if unknown else ""


@pytest.mark.parametrize("adviser", ADVISERS)
def test_every_command_that_is_advised_exists(adviser: str) -> None:
    texts = [file.read_text() for file in (REPOSITORY / adviser).rglob("*.py")]
    lines = {line for text in texts for line in re.findall(r"`basalt ([^`\n]*)`", text)}
    assert lines
    assert [told for line in sorted(lines) if (told := fault(line))] == []


def test_the_roles_that_are_offered_can_be_given() -> None:
    assert ", ".join(policy.ROLES) == identity.ROLES
    assert ", ".join(api_keys.ROLES) == identity.KEY_ROLES
    command: Any = typer.main.get_command(app)
    (role,) = [
        each for each in command.commands["key"].commands["create"].params if each.name == "role"
    ]
    assert identity.KEY_ROLES in role.help
