import pytest

from tools.servers import go
from tools.servers.__main__ import main


def test_an_unknown_server_is_told_with_those_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["obtain", "nats"]) == 1

    assert "kafka, envoy, triton, minio, ferretdb" in " ".join(capsys.readouterr().err.split())


def test_what_is_obtained_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["obtain", "envoy"]) == 0

    assert "envoy" in capsys.readouterr().out


def test_without_go_it_says_who_needs_it(
    tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(go.shutil, "which", lambda name: None)
    monkeypatch.setenv("BASALT_CACHE", str(tmp_path))
    monkeypatch.setattr(go, "BUILD_BYTES", 0)

    assert main(["obtain", "ferretdb"]) == 1

    assert "no Go on PATH" in capsys.readouterr().err
