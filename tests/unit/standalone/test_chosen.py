"""What an operator chooses reaches the services; what the installation says of itself stays so."""

from __future__ import annotations

from pathlib import Path

import pytest

from libs.common.settings import SERVICES
from services.trainer.settings import Settings
from standalone.home import Home
from standalone.processes import ServiceProcess, lay_out


def environment_of(service: str, root: Path) -> dict[str, str]:
    edition = lay_out(Home.at(root))
    process = next(each for each in edition.processes if each.name == service)
    assert isinstance(process, ServiceProcess)
    return process.environment


def test_numbers_and_tables_are_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASALT_TENANT_SHARES", '{"acme": 2}')
    monkeypatch.setenv("BASALT_JOBS_AT_ONCE", "3")
    monkeypatch.setenv("BASALT_DRIFT_KS_LIMIT", "0.2")

    told = {service: environment_of(service, tmp_path) for service in SERVICES}

    assert {each["BASALT_TENANT_SHARES"] for each in told.values()} == {'{"acme": 2}'}
    assert told["trainer"]["BASALT_JOBS_AT_ONCE"] == "3"
    assert told["monitoring"]["BASALT_DRIFT_KS_LIMIT"] == "0.2"
    assert "BASALT_JOBS_AT_ONCE" not in told["ingest"]


def test_places_and_secrets_are_the_installations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = ("KAFKA", "JOURNAL", "TLS", "SECRETS", "MASTER_KEY", "S3_SECRET_KEY", "TOKEN", "WORK")
    for name in others:
        monkeypatch.setenv(f"BASALT_{name}", "elsewhere")

    for service in SERVICES:
        assert "elsewhere" not in environment_of(service, tmp_path).values()


def test_an_empty_setting_is_one_that_nobody_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment_of("trainer", tmp_path).items():
        monkeypatch.setenv(name, value)
    for name in ("TENANT_SHARES", "JOBS_AT_ONCE", "TENANT_JOBS_AT_ONCE"):
        monkeypatch.setenv(f"BASALT_{name}", "")

    settings = Settings()  # pyright: ignore[reportCallIssue] - from the environment.

    assert settings.tenant_shares == {}
    assert (settings.jobs_at_once, settings.tenant_jobs_at_once) == (1, 0)
