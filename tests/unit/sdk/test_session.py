"""The last login: one file, readable by its owner alone, whole or not there."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from basalt import session
from basalt.session import Session

LOGIN = Session("127.0.0.1:7080", "a.b.c", "acme", "ann", time.time() + 900, time.time() + 43_200)


def test_login_is_kept_for_its_owner_alone() -> None:
    previous = os.umask(0)
    try:
        session.save(LOGIN)
    finally:
        os.umask(previous)
    assert session.load() == LOGIN
    file = session.session_file()
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in file.parent.iterdir()] == ["session.json"]


def test_login_replaces_the_one_before_whatever_its_mode_was() -> None:
    session.save(LOGIN)
    session.session_file().chmod(0o644)
    session.save(replace(LOGIN, name="ben"))
    assert session.session_file().stat().st_mode & 0o777 == 0o600
    assert session.load() == replace(LOGIN, name="ben")


def test_login_is_forgotten_once_and_again() -> None:
    session.save(LOGIN)
    session.forget()
    session.forget()
    assert session.load() is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "7",
        "{}",
        '{"endpoint": "127.0.0.1:7080"}',
        json.dumps({**LOGIN.__dict__, "more": 1}),
        json.dumps({**LOGIN.__dict__, "token": 7}),
        json.dumps({**LOGIN.__dict__, "expires_at": "soon"}),
        "\x00\xff",
    ],
)
def test_broken_file_is_no_login(content: str) -> None:
    session.save(LOGIN)
    session.session_file().write_text(content, encoding="latin-1")
    assert session.load() is None
    assert session.target().token == ""


def test_login_of_an_older_client_is_understood() -> None:
    session.save(LOGIN)
    old = {"endpoint": "h:1", "token": "t", "tenant": "acme", "name": "ann", "expires_at": 1}
    session.session_file().write_text(json.dumps(old))
    assert session.load() == Session("h:1", "t", "acme", "ann", 1)


def test_side_by_side_a_reader_sees_one_whole_login() -> None:
    logins = [replace(LOGIN, name=f"user-{number}", token="x" * 5_000) for number in range(20)]
    session.save(LOGIN)
    with ThreadPoolExecutor(8) as pool:
        saving = [pool.submit(session.save, login) for login in logins]
        while not all(each.done() for each in saving):
            assert session.load() in (LOGIN, *logins)
    assert [path.name for path in session.session_file().parent.iterdir()] == ["session.json"]


def test_what_is_given_comes_before_the_environment_before_the_login(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session.save(replace(LOGIN, tls_ca="/ca.pem"))
    assert session.target() == session.Target("127.0.0.1:7080", "a.b.c", "/ca.pem", session.load())
    monkeypatch.setenv("BASALT_TOKEN", "from-the-environment")
    monkeypatch.setenv("BASALT_TLS_CA", "/env.pem")
    assert session.target() == session.Target(
        "127.0.0.1:7080", "from-the-environment", "/env.pem", None
    )
    given = session.target(token="given", tls_ca="/given.pem")
    assert (given.token, given.tls_ca) == ("given", "/given.pem")
    assert session.target(token="").token == ""


def test_token_of_a_login_goes_to_its_own_platform_only(monkeypatch: pytest.MonkeyPatch) -> None:
    session.save(replace(LOGIN, tls_ca="/ca.pem"))
    elsewhere = session.Target("evil.example:7080", "", "", None)
    assert session.target("evil.example:7080") == elsewhere
    monkeypatch.setenv("BASALT_ENDPOINT", "evil.example:7080")
    assert session.target() == elsewhere


def test_without_a_login_the_address_is_this_machines_own(tmp_path: Path) -> None:
    assert session.target().endpoint == "127.0.0.1:7080"
    home = session.installation()
    home.mkdir()
    (home / "ports.json").write_text(json.dumps({"door": 7181}))
    assert session.target().endpoint == "127.0.0.1:7181"
    (home / "ports.json").write_text("[")
    assert session.target().endpoint == "127.0.0.1:7080"


def test_folder_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("BASALT_SESSION")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert session.session_file() == tmp_path / "basalt" / "session.json"
    monkeypatch.setenv("XDG_CONFIG_HOME", "")
    assert session.session_file() == Path.home() / ".config" / "basalt" / "session.json"
