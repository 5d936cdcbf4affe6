"""What `basalt up` says when it is up: whole paths and commands, however narrow the terminal."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from standalone.home import DOOR_PORT, Home
from standalone.processes import Edition
from standalone.up import show_first_screen

PORT = 27_080
DOOR = f"127.0.0.1:{PORT}"


def shown(home: Home, columns: int, port: int = PORT) -> list[str]:
    ports = {"door": port, "kafka": 9_092}
    edition = Edition(stages=(), door=DOOR, kafka="127.0.0.1:9092", ports=ports)
    console = Console(file=StringIO(), width=columns)
    show_first_screen(console, home, edition, 12.3)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_paths_and_commands_can_be_copied(tmp_path: Path, columns: int) -> None:
    home = Home.at(tmp_path)
    home.first_login.write_text("")
    lines = [line.strip("│ ") for line in shown(home, columns)]
    assert f"cat {home.first_login}" in lines
    assert f"home   {tmp_path}" in lines
    assert f"2. basalt login --endpoint {DOOR} --tenant platform --name admin" in lines


def test_frame_holds_what_fits_into_it(tmp_path: Path) -> None:
    home = Home(Path("/root/.basalt"))
    lines = shown(home, 80)
    assert lines[0].startswith("╭")
    assert {len(line) for line in lines} == {len(lines[0])}
    assert not any("╭" in line for line in shown(Home(tmp_path / ("x" * 80)), 80))


def test_later_starts_need_no_password(tmp_path: Path) -> None:
    said = "\n".join(shown(Home(tmp_path), 120, DOOR_PORT))
    assert "1. basalt login " in said
    assert "one-time" not in said
