"""Settings that lack or are wrong end the process with a message that names each of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

COMPLETE = {
    "BASALT_KAFKA": "127.0.0.1:9092",
    "BASALT_JOURNAL": "sqlite:/tmp/journal",
    "BASALT_OBJECTS": "directory:/tmp/objects",
    "BASALT_RPC_LISTEN": "127.0.0.1:0",
    "BASALT_PEERS": json.dumps({"security": "127.0.0.1:1"}),
    "BASALT_SERVICE_CREDENTIAL": "hunter2",
}
PROGRAM = """
from libs.common.settings import read
from {module} import {settings} as Settings
settings = read(Settings)
print(settings.kafka, settings.peers, settings.service_credential)
"""


def read_with(
    environment: dict[str, str],
    module: str = "libs.common.settings",
    settings: str = "CommonSettings",
) -> subprocess.CompletedProcess[str]:
    others = {name: os.environ[name] for name in os.environ if not name.startswith("BASALT_")}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(module=module, settings=settings)],
        env=others | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_settings_come_from_the_environment_and_secrets_are_not_shown() -> None:
    done = read_with(COMPLETE)

    assert done.returncode == 0, done.stderr
    assert done.stdout == "127.0.0.1:9092 {'security': '127.0.0.1:1'} **********\n"


def test_each_setting_that_lacks_is_named() -> None:
    done = read_with({})

    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for name in COMPLETE:
        assert f"  {name}: Field required" in done.stderr
    assert "docs/reference/settings.md" in done.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BASALT_PEERS", "security=127.0.0.1:1"),
        ("BASALT_PEERS", '["security"]'),
    ],
)
def test_a_setting_that_is_wrong_is_named(name: str, value: str) -> None:
    assert_named(read_with(COMPLETE | {name: value}), name)


@pytest.mark.parametrize("value", ["many", "0"])
def test_a_services_own_number_that_is_wrong_is_named(value: str) -> None:
    wrong = COMPLETE | {"BASALT_REPLICATION": value}
    assert_named(read_with(wrong, "services.security.settings", "Settings"), "BASALT_REPLICATION")


def assert_named(done: subprocess.CompletedProcess[str], name: str) -> None:
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert name.removeprefix("BASALT_").lower() in done.stderr.lower()
    assert "hunter2" not in done.stderr
