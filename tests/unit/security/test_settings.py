"""Settings that lack or make no sense end the process with a plain message, and no secret in it."""

import base64
import json

import pytest

from libs.common.settings import read
from services.security.settings import Settings

COMPLETE = {
    "BASALT_KAFKA": "127.0.0.1:1",
    "BASALT_JOURNAL": "sqlite:/nowhere",
    "BASALT_OBJECTS": "directory:/nowhere",
    "BASALT_RPC_LISTEN": "127.0.0.1:1",
    "BASALT_PEERS": "{}",
    "BASALT_SERVICE_CREDENTIAL": "open-sesame",
    "BASALT_SERVICE_CREDENTIALS": json.dumps({"ingest": "open-sesame"}),
    "BASALT_MASTER_KEY": base64.b64encode(bytes(32)).decode(),
    "BASALT_FIRST_LOGIN_FILE": "/nowhere/first-login.txt",
    "BASALT_CHECKPOINTS": "directory:/nowhere/checkpoints",
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in COMPLETE.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_complete_settings_are_read_and_keep_their_secrets(
    environment: pytest.MonkeyPatch,
) -> None:
    settings = read(Settings)
    assert settings.master_key_bytes() == bytes(32)
    assert settings.service_credentials["ingest"].get_secret_value() == "open-sesame"
    assert "open-sesame" not in repr(settings)
    assert COMPLETE["BASALT_MASTER_KEY"] not in repr(settings)


@pytest.mark.parametrize("missing", sorted(COMPLETE))
def test_missing_setting_is_named(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    environment.delenv(missing)
    with pytest.raises(SystemExit) as ended:
        read(Settings)
    assert ended.value.code == 2
    assert missing in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BASALT_MASTER_KEY", "open-sesame"),
        ("BASALT_MASTER_KEY", base64.b64encode(b"open-sesame").decode()),
        ("BASALT_SERVICE_CREDENTIALS", "{open-sesame"),
        ("BASALT_SERVICE_CREDENTIALS", '["open-sesame"]'),
    ],
)
def test_senseless_setting_is_named_and_not_shown(
    environment: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
) -> None:
    environment.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        read(Settings)
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert name.removeprefix("BASALT_").lower() in said.lower()
    assert "sesame" not in said
