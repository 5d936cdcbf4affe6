"""What the commands about upstream systems' keys ask for, and what they show once."""

from __future__ import annotations

from typing import Any

import pytest

from basalt.pb.basalt.v1 import ingest_pb2 as pb
from basalt.pb.basalt.v1.security_pb2 import SourceKey
from tests.support.answering import Answering
from tests.support.terminal import piped

INGEST = "basalt.v1.IngestService/"
USER = "upstream.hospital.beds.k1"
KEY = SourceKey(id="k1", source="beds", topic="upstream.hospital.beds", user=USER)
REVOKED = SourceKey(id="k0", source="beds", user="upstream.hospital.beds.k0", revoked=True)
PASSWORD = "shown-once"
HOW = "may publish to upstream.hospital.beds, by SASL_PLAINTEXT (SASL_SSL beyond one machine)"


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (["create", "beds"], pb.CreateSourceKeyResponse(key=KEY, password=PASSWORD)),
        (["rotate", "beds", "k1"], pb.RotateSourceKeyResponse(key=KEY, password=PASSWORD)),
    ],
)
def test_a_password_is_shown_alone_on_its_line(
    server: Answering, command: list[str], answer: Any
) -> None:
    asked: list[Any] = []
    name = f"{command[0].capitalize()}SourceKey"
    server.handlers[INGEST + name] = lambda request, *_: asked.append(request) or answer

    shown = piped("source", "key", *command).output.splitlines()

    assert f"{USER} {HOW}" in shown[0]
    assert shown[1:] == [PASSWORD]
    assert [asked[0].source, *([asked[0].id] if len(command) > 2 else [])] == command[1:]


def test_a_list_shows_which_are_revoked_and_no_password(server: Answering) -> None:
    answer = pb.ListSourceKeysResponse(keys=[KEY, REVOKED])
    server.handlers[INGEST + "ListSourceKeys"] = lambda *_: answer

    shown = piped("source", "key", "list", "beds").output

    lines = {line.split()[0]: line for line in shown.splitlines()}
    assert "revoked" not in lines["k1"]
    assert "revoked" in lines["k0"]


def test_a_key_is_revoked_by_its_source_and_its_id(server: Answering) -> None:
    asked: list[Any] = []
    server.handlers[INGEST + "RevokeSourceKey"] = lambda request, *_: (
        asked.append(request) or pb.RevokeSourceKeyResponse()
    )

    said = piped("source", "key", "revoke", "beds", "k1").output

    assert (asked[0].source, asked[0].id) == ("beds", "k1")
    assert said == "✓ The key k1 of beds is revoked.\n"
