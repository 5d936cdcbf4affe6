"""How the story reads in a terminal."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from apps.hospital.stage import Stage, StoryError


def test_long_claim_goes_on_below_its_first_word() -> None:
    console = Console(file=StringIO(), width=40)
    Stage(console).check(True, "the wrong unit and the missing field are held, with reasons")
    assert isinstance(console.file, StringIO)
    assert [line.rstrip() for line in console.file.getvalue().splitlines()] == [
        "  ✓ the wrong unit and the missing field",
        "    are held, with reasons",
    ]


def test_claim_that_does_not_hold_ends_the_story() -> None:
    with pytest.raises(StoryError, match="nobody is awake"):
        Stage(Console(quiet=True)).check(False, "nobody is awake")
