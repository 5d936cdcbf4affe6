"""`source key`: what upstream systems log in to Kafka with."""

from __future__ import annotations

import typer

from basalt.cli.client import pages, platform
from basalt.cli.output import Json, Limit, listed, told, when
from basalt.pb.basalt.v1 import ingest_pb2 as pb
from basalt.pb.basalt.v1.security_pb2 import SourceKey

keys = typer.Typer(
    help="Keys of upstream systems, each for one source's topic on Kafka.", no_args_is_help=True
)
HOW = "by SASL_PLAINTEXT (SASL_SSL beyond one machine) and SCRAM-SHA-256"


@keys.command("create")
def create_key(source: str, json: Json = False) -> None:
    """Create a key that may publish to a source's topic, and nothing else. Shown once.

    Example: basalt source key create patients
    """
    with platform() as client:
        request = pb.CreateSourceKeyRequest(source=source)
        answer = client.call(client.ingest.CreateSourceKey, request)
    told(answer, json, f"{_may(answer.key)} The password is shown once:")
    if not json:
        typer.echo(answer.password)


@keys.command("list")
def list_keys(source: str, limit: Limit = 100, json: Json = False) -> None:
    """List the keys of a source, also those that were revoked.

    Example: basalt source key list patients
    """
    with platform() as client:
        request = pb.ListSourceKeysRequest(source=source)
        found = pages(client, client.ingest.ListSourceKeys, request, "keys", limit)
    listed(
        found,
        json,
        f"Keys of {source}",
        ("id", "user", "revoked", "changed", "by"),
        lambda k: (
            k.id,
            k.user,
            "revoked" if k.revoked else "",
            when(k.changed.at),
            k.changed.by,
        ),
    )


@keys.command("rotate")
def rotate_key(source: str, key_id: str, json: Json = False) -> None:
    """Give a key another password; the old one opens no new session. Shown once.

    To change over without a gap, create a second key, then revoke the first one.

    Example: basalt source key rotate patients 01k5xw3q4n
    """
    with platform() as client:
        request = pb.RotateSourceKeyRequest(source=source, id=key_id)
        answer = client.call(client.ingest.RotateSourceKey, request)
    told(answer, json, f"{_may(answer.key)} The new password is shown once:")
    if not json:
        typer.echo(answer.password)


@keys.command("revoke")
def revoke_key(source: str, key_id: str, json: Json = False) -> None:
    """Revoke a key: Kafka refuses it from now on, open sessions too.

    Example: basalt source key revoke patients 01k5xw3q4n
    """
    with platform() as client:
        request = pb.RevokeSourceKeyRequest(source=source, id=key_id)
        answer = client.call(client.ingest.RevokeSourceKey, request)
    told(answer, json, f"The key {key_id} of {source} is revoked.")


def _may(key: SourceKey) -> str:
    return f"{key.user} may publish to {key.topic}, {HOW}."
