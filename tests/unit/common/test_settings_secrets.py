"""Settings that are secrets come from files, as containers get them."""

from __future__ import annotations

from pathlib import Path

import pytest

from libs.common.settings import SECRETS_FOLDER, CommonSettings, read

ENVIRONMENT = {
    "BASALT_KAFKA": "kafka:9092",
    "BASALT_OBJECTS": "s3:http://minio:9000/ingest",
    "BASALT_RPC_LISTEN": "0.0.0.0:7000",
    "BASALT_PEERS": '{"security": "security:7000"}',
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(SECRETS_FOLDER, str(tmp_path))
    (tmp_path / "basalt_service_credential").write_text("from a file\n")
    (tmp_path / "basalt_journal").write_text("mongodb://mongodb/ingest")
    return tmp_path


def test_what_the_environment_lacks_is_read_from_the_folder(folder: Path) -> None:
    settings = read(CommonSettings)
    assert settings.service_credential.get_secret_value() == "from a file"
    assert settings.journal == "mongodb://mongodb/ingest"
    assert settings.kafka == "kafka:9092"


def test_the_environment_comes_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASALT_SERVICE_CREDENTIAL", "from the environment")
    assert read(CommonSettings).service_credential.get_secret_value() == "from the environment"


def test_a_missing_secret_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "basalt_service_credential").unlink()
    with pytest.raises(SystemExit) as ended:
        read(CommonSettings)
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "BASALT_SERVICE_CREDENTIAL" in told
    assert SECRETS_FOLDER in told


def test_a_folder_that_is_none_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(SECRETS_FOLDER, str(folder / "absent"))
    with pytest.raises(SystemExit) as ended:
        read(CommonSettings)
    assert ended.value.code == 2
    assert f"{folder / 'absent'} is no folder" in capsys.readouterr().err
