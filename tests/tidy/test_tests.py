"""How tests are written: on real parts, and no slower than what they wait for."""

from __future__ import annotations

import ast
import ctypes
import os
import re

import pytest

from tests.tidy.source import dotted, imported, is_within, name_of, python_files, tree

# It waits for what must become true, a little at a time.
WAITS = {"tests/support/eventually.py"}
SLEEPS = {"time.sleep", "asyncio.sleep", "sleep", "anyio.sleep"}
LEAVES_OUT = re.compile(r"(^|\.)(skip|skipif|skipIf|xfail|importorskip)$")


def test_no_test_sleeps() -> None:
    found = [
        f"{name_of(path)}:{node.lineno} {ast.unparse(node)}"
        for path in python_files("tests")
        if name_of(path) not in WAITS
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and dotted(node.func) in SLEEPS
        # Zero gives others their turn; it waits for nothing.
        and [ast.unparse(argument) for argument in node.args] != ["0"]
    ]
    assert found == []


def test_no_test_mocks_our_own_code() -> None:
    found = [
        f"{name_of(path)}:{line} {name}"
        for path in python_files("tests")
        for line, name in imported(path)
        if is_within(name, ("unittest.mock", "mock", "pytest_mock"))
    ]
    assert found == []


def test_no_test_is_left_out() -> None:
    found = [
        f"{name_of(path)}:{node.lineno} {dotted(node)}"
        for path in python_files("tests")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and LEAVES_OUT.search(dotted(node))
    ]
    assert found == []


def test_every_folder_of_tests_is_a_package() -> None:
    """Else two modules of one name hide each other."""
    folders = {path.parent for path in python_files("tests")}

    assert [name_of(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_no_test_changes_what_native_threads_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The C library's environment: changed while gRPC's threads read it, it ends the process."""
    libc = ctypes.CDLL(None)
    libc.getenv.restype = ctypes.c_char_p
    monkeypatch.setenv("BASALT_SET_BY_A_TEST", "1")
    monkeypatch.delenv("PATH")
    assert os.environ["BASALT_SET_BY_A_TEST"] == "1"
    assert libc.getenv(b"BASALT_SET_BY_A_TEST") is None
    assert libc.getenv(b"PATH") is not None
