"""What the documents promise is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.tidy.source import ROOT, files, name_of

DOCUMENTS = [path for path in files() if path.suffix == ".md"]
TARGET = re.compile(r"^([a-z][a-z-]*):", re.MULTILINE)
# In code only: "make sure" is prose.
CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
MAKES = re.compile(r"\bmake ([a-z][a-z-]*)")
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")


def test_there_is_a_readme() -> None:
    assert ROOT / "README.md" in DOCUMENTS


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_make_targets_that_are_named_exist(document: Path) -> None:
    targets = set(TARGET.findall((ROOT / "Makefile").read_text()))
    named = {name for code in CODE.findall(document.read_text()) for name in MAKES.findall(code)}

    assert named - targets == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_files_that_are_linked_exist(document: Path) -> None:
    links = LINK.findall(CODE.sub("", document.read_text()))

    assert [link for link in links if not (document.parent / link).exists()] == []
