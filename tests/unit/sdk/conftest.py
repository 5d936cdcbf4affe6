"""The client's tests are nobody's login and nobody's installation."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.answering import Answering, answering


@pytest.fixture(autouse=True)
def _nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("BASALT_ENDPOINT", "BASALT_TOKEN", "BASALT_TLS_CA", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BASALT_SESSION", str(tmp_path / "config" / "session.json"))
    monkeypatch.setenv("BASALT_HOME", str(tmp_path / "home"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Answering]:
    """A platform that knows no call yet, and a caller who has a token."""
    with answering({}) as started:
        monkeypatch.setenv("BASALT_ENDPOINT", started.address)
        monkeypatch.setenv("BASALT_TOKEN", "t")
        yield started
