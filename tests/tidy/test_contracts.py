"""The RPC contracts: documented, generated afresh, and each method known to the policy."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

from libs.common.policy import Policy
from tests.tidy.source import ROOT

METHOD = re.compile(r"^\s*rpc (\w+)\(")
SERVICE = re.compile(r"^service (\w+) \{")


def methods() -> Iterator[tuple[str, str, bool]]:
    """File, full name and whether a comment stands before it, of each RPC."""
    for path in sorted((ROOT / "protos" / "basalt").rglob("*.proto")):
        service, before = "", ""
        for line in path.read_text().splitlines():
            if found := SERVICE.match(line):
                service = found[1]
            if found := METHOD.match(line):
                yield path.name, f"basalt.v1.{service}/{found[1]}", before.startswith("//")
            before = line.strip() or before


def test_every_method_is_documented() -> None:
    assert [f"{file} {name}" for file, name, documented in methods() if not documented] == []


def test_every_method_is_known_to_the_policy_and_no_other() -> None:
    names = {name for _, name, _ in methods()}
    known = {name for name in Policy.load().methods if name.startswith("basalt.v1.")}

    assert len(names) > 50
    assert known == names


def test_generated_code_is_fresh_and_nothing_breaks_callers() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.protos", "check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
