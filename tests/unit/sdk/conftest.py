"""The client's tests are nobody's login and nobody's installation."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("BASALT_ENDPOINT", "BASALT_TOKEN", "BASALT_TLS_CA", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BASALT_SESSION", str(tmp_path / "config" / "session.json"))
    monkeypatch.setenv("BASALT_HOME", str(tmp_path / "home"))
