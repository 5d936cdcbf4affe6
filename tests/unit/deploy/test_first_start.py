"""The secrets of an installation: random, private, complete, and made once."""

from __future__ import annotations

import base64
import json
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store

from deploy import certificates
from deploy.certificates import Pair, new_authority, new_certificate
from deploy.first_start import OWNERS, hand_over, make
from libs.common.settings import SERVICES


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in files(folder)}


def files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def test_only_the_owner_reads_what_was_made(tmp_path: Path) -> None:
    make(tmp_path)
    for file in files(tmp_path):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    for folder in tmp_path.iterdir():
        if folder.is_dir():
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder


def test_a_second_start_changes_nothing(tmp_path: Path) -> None:
    make(tmp_path)
    before = contents(tmp_path)
    make(tmp_path)
    assert contents(tmp_path) == before


def test_what_is_missing_is_made_again_from_what_is_kept(tmp_path: Path) -> None:
    make(tmp_path)
    before = contents(tmp_path)
    (tmp_path / "security/basalt_master_key").unlink()
    (tmp_path / "triton/control_key").unlink()
    make(tmp_path)
    assert contents(tmp_path) == before


def test_a_secret_that_came_with_a_newer_version_is_added(tmp_path: Path) -> None:
    make(tmp_path)
    known = json.loads((tmp_path / "platform.json").read_bytes())
    kept = known["master_key"]
    del known["grafana_password"]
    (tmp_path / "platform.json").write_text(json.dumps(known))
    make(tmp_path)
    again = json.loads((tmp_path / "platform.json").read_bytes())
    assert again["master_key"] == kept
    assert again["grafana_password"]


def test_two_installations_have_nothing_in_common(tmp_path: Path) -> None:
    make(tmp_path / "one")
    make(tmp_path / "other")
    one, other = contents(tmp_path / "one"), contents(tmp_path / "other")
    alike = {name for name in one if one[name] == other[name]}
    assert {Path(name).name for name in alike} == {"root_user", "basalt_s3_access_key"}


def test_services_are_given_what_security_and_the_stores_expect(tmp_path: Path) -> None:
    make(tmp_path)
    expected = json.loads((tmp_path / "security/basalt_service_credentials").read_bytes())
    passwords = json.loads((tmp_path / "objects-init/passwords.json").read_bytes())
    users = (tmp_path / "mongodb/users.js").read_text()
    for service in SERVICES:
        folder = tmp_path / service
        assert (folder / "basalt_service_credential").read_text() == expected[service]
        assert (folder / "basalt_s3_secret_key").read_text() == passwords[service]
        _, _, rest = (folder / "basalt_journal").read_text().partition(f"mongodb://{service}:")
        password, _, place = rest.partition("@")
        assert place == f"mongodb:27017/basalt-{service}"
        assert f'"user": "{service}", "pwd": "{password}"' in users
    assert len(set(expected.values())) == len(SERVICES)
    key = (tmp_path / "inference/basalt_triton_control_key").read_text()
    assert key == (tmp_path / "triton/control_key").read_text()
    assert len(base64.b64decode((tmp_path / "security/basalt_master_key").read_text())) == 32


def test_one_service_is_not_given_another_ones_secrets(tmp_path: Path) -> None:
    make(tmp_path)
    platform = json.loads((tmp_path / "platform.json").read_bytes())
    for service in SERVICES:
        others = [
            value
            for kind in ("mongodb_passwords", "minio_passwords", "service_credentials")
            for name, value in platform[kind].items()
            # Security knows what each service proves itself with.
            if name != service and not (service == "security" and kind == "service_credentials")
        ]
        given = b"".join(file.read_bytes() for file in files(tmp_path / service)).decode()
        assert not [other for other in others if other in given]


@pytest.mark.parametrize("service", SERVICES)
def test_certificates_hold_for_the_services_name_on_both_sides(
    tmp_path: Path, service: str
) -> None:
    make(tmp_path)
    tls = tmp_path / service / "tls"
    authority = x509.load_pem_x509_certificate((tls / "ca.pem").read_bytes())
    certificate = x509.load_pem_x509_certificate((tls / f"{service}.pem").read_bytes())
    policy = PolicyBuilder().store(Store([authority]))
    for name in (service, "localhost"):
        policy.build_server_verifier(x509.DNSName(name)).verify(certificate, [])
    policy.build_client_verifier().verify(certificate, [])
    with pytest.raises(x509.verification.VerificationError):
        policy.build_server_verifier(x509.DNSName("another")).verify(certificate, [])
    # The key belongs to the certificate: loading the pair fails otherwise.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls / f"{service}.pem", tls / f"{service}.key")


def test_certificates_are_renewed_before_they_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path)
    before = contents(tmp_path)
    monkeypatch.setattr(certificates, "RENEWAL_DAYS", certificates.CERTIFICATE_DAYS + 1)
    make(tmp_path)
    after = contents(tmp_path)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {
        f"{holder}/tls/{holder}.{kind}"
        for holder in (*SERVICES, "kafka", "triton")
        for kind in ("pem", "key")
    } | {"kafka/tls/keystore.pem"}


def test_a_new_authority_makes_every_certificate_anew(tmp_path: Path) -> None:
    make(tmp_path)
    before = contents(tmp_path)
    (tmp_path / "authority/ca.key").unlink()
    make(tmp_path)
    after = contents(tmp_path)
    for service in SERVICES:
        for file in ("ca.pem", f"{service}.pem", f"{service}.key"):
            assert before[f"{service}/tls/{file}"] != after[f"{service}/tls/{file}"]


def test_a_certificate_is_outdated_well_before_its_end() -> None:
    pair = new_certificate(new_authority(), "ingest")
    assert isinstance(pair, Pair)
    assert not pair.outdated(datetime.now(UTC))
    assert pair.outdated(pair.valid_until() - timedelta(days=certificates.RENEWAL_DAYS - 1))


def test_kafka_is_told_whom_to_let_in_and_each_client_its_own_password(tmp_path: Path) -> None:
    make(tmp_path)
    platform = json.loads((tmp_path / "platform.json").read_bytes())
    told = (tmp_path / "kafka/server.properties").read_text()

    assert platform["kafka_broker_password"] in told
    assert platform["kafka_administrator_password"] in told
    for service, password in platform["kafka_passwords"].items():
        assert password not in told, "Services' are in Kafka, as security puts them there."
        assert (tmp_path / service / "basalt_kafka_password").read_text() == password
    known = json.loads((tmp_path / "security/basalt_kafka_passwords").read_bytes())
    assert known == platform["kafka_passwords"]
    knows = tmp_path.glob("*/basalt_kafka_administrator_password")
    assert [file.parent.name for file in knows] == ["security"]


def test_an_installation_from_before_gets_what_it_lacks(tmp_path: Path) -> None:
    make(tmp_path)
    file = tmp_path / "platform.json"
    new = json.loads(file.read_bytes())
    older = {name: value for name, value in new.items() if not name.startswith("kafka_")}
    file.write_text(json.dumps(older))
    make(tmp_path)
    again = json.loads(file.read_bytes())

    assert older.items() <= again.items()
    assert set(again) == set(new)


def test_volumes_are_private_to_their_containers(tmp_path: Path) -> None:
    (tmp_path / "kafka").mkdir(mode=0o777)
    hand_over(tmp_path)
    assert stat.S_IMODE((tmp_path / "kafka").stat().st_mode) == 0o700
    (tmp_path / "stranger").mkdir()
    with pytest.raises(ValueError, match="belongs to no container"):
        hand_over(tmp_path)
    assert "stranger" not in OWNERS


def test_a_folder_that_is_not_ours_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "platform.json").write_text('{"somebody": "else"}')
    done = subprocess.run(
        [sys.executable, "-m", "deploy.first_start", "--secrets", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert str(tmp_path / "platform.json") in done.stderr
    assert contents(tmp_path) == {"platform.json": b'{"somebody": "else"}'}


def test_the_program_prints_no_secret(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deploy.first_start", "--secrets", str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    platform = json.loads((tmp_path / "platform.json").read_bytes())
    for value in platform.values():
        for secret in value.values() if isinstance(value, dict) else [value]:
            assert secret not in done.stdout + done.stderr
