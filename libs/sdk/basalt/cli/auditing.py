"""`audit`: who did what, and proofs that nobody changed it since."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToJson, Parse, ParseError

from basalt import audit as chain
from basalt import checkpoint as checkpoints
from basalt.checkpoint import Checkpoint
from basalt.cli.client import pages, platform
from basalt.cli.output import (
    Json,
    Limit,
    as_json,
    complain,
    done,
    listed,
    note,
    read_text,
    short,
    told,
    when,
)
from basalt.client import Client
from basalt.errors import InvalidInputError
from basalt.pb.basalt.v1 import security_pb2

audit = typer.Typer(help="The hash-chained audit log.", no_args_is_help=True)
OtherTenant = Annotated[str, typer.Option("--tenant", help="Another tenant than your own.")]
Keys = Annotated[
    list[str] | None,
    typer.Option("--key", help="Only these may have signed; empty: those of the platform."),
]


def add_to(app: typer.Typer) -> None:
    app.add_typer(audit, name="audit")


@audit.command("list")
def list_audit(
    action: Annotated[str, typer.Option(help="Of one action only.")] = "",
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """List who did what, newest first.

    Example: basalt audit list
    """
    request = security_pb2.ListAuditRequest(action=action)
    with platform() as client:
        found = pages(client, client.audit.ListAudit, request, "records", limit)
    listed(
        found,
        json,
        "Audit",
        ("no.", "at", "who", "from", "what", "on", "decision", "of", "hash"),
        lambda r: (
            r.sequence,
            when(r.at),
            r.actor,
            r.address,
            r.action,
            r.resource,
            r.decision,
            r.outcome_of or "",
            short(r.hash),
        ),
    )


@audit.command("export")
def export_audit(
    to: Annotated[Path, typer.Argument(help="The file to write, JSON lines.")],
    json: Json = False,
) -> None:
    """Write the whole chain to a file, for others to verify.

    Example: basalt audit export audit.jsonl
    """
    count = 0
    with platform() as client, to.open("w") as file:
        for record in _chain(client):
            file.write(MessageToJson(record, indent=None, preserving_proto_field_name=True) + "\n")
            count += 1
    told({"file": str(to), "records": count}, json, f"{count} records are in {to}.")


@audit.command("checkpoint")
def checkpoint(
    to: Annotated[
        Path | None, typer.Argument(help="The file to write; empty: <tenant>-<records>.checkpoint")
    ] = None,
    tenant: OtherTenant = "",
    json: Json = False,
) -> None:
    """Write a signed head of the log to a file. Keep it elsewhere: it shows any rewriting later.

    Example: basalt audit checkpoint
    """
    request = security_pb2.GetAuditCheckpointRequest(tenant=tenant)
    with platform() as client:
        answer = client.call(client.audit.GetAuditCheckpoint, request)
    read = checkpoints.read(answer.note)
    file = to or Path(f"{read.tenant}-{read.size}.checkpoint")
    file.write_text(answer.note, encoding="utf-8")
    said = {"file": str(file), "records": read.size, "key": answer.verifier_key}
    by = answer.verifier_key
    told(said, json, f"{file} has the head of {read.size} records, signed by {by}.")


@audit.command("verify")
def verify_audit(
    file: Annotated[
        Path | None, typer.Argument(help="An export; empty: the platform's own.")
    ] = None,
    kept: Annotated[
        list[Path] | None,
        typer.Option("--checkpoint", help="A checkpoint that you kept; may be repeated."),
    ] = None,
    key: Keys = None,
    json: Json = False,
) -> None:
    """Verify every link of the chain yourself, and that it is the log of your checkpoints.

    Exits 1 if something does not hold.

    Example: basalt audit verify --checkpoint acme-4711.checkpoint
    """
    noted = [_kept(each) for each in kept or []]
    if file is not None:
        records = list(_exported(file))
        if not records:
            raise InvalidInputError(
                f"{file} is empty: there is no record to verify.",
                which=str(file),
                next_step="Give a file that `basalt audit export` wrote.",
            )
        proofs: list[chain.Problem] = []
    else:
        with platform() as client:
            # Asked for in any case: no platform makes one of a log that is not the one it kept.
            now = _checkpoint(client)
            records = list(_chain(client))
            if noted:
                key = key or _published(client)
            proofs = _proven(client, [each for _, each in noted], now, key or [])
    problems = [*chain.verify(records, checkpoints=[each for _, each in noted]), *proofs]
    # Offline nothing says whose key it is: without one given, the records alone are compared.
    for path, each in noted if key else []:
        if not each.signed_by(key or []):
            problems.append(chain.Problem(each.size, f"{path} is not signed by a known key."))
    head = records[-1].hash if records else ""
    if json:
        found = [{"sequence": each.sequence, "what": each.what} for each in problems]
        as_json({"records": len(records), "head": head, "problems": found})
    elif not problems:
        done(f"{len(records)} records, every link holds; the head is {short(head) or 'empty'}.")
        if noted:
            signed = "signed" if key else "with signatures that --key was not given for"
            done(f"It is the log of {len(noted)} checkpoints, {signed}.")
        else:
            note(
                "Only a checkpoint that you keep elsewhere shows that nothing was cut or rewritten:"
                " `basalt audit checkpoint`, later `--checkpoint FILE`."
            )
    for problem in problems:
        complain(str(problem), "")
    if problems:
        raise typer.Exit(1)


def _published(client: Client) -> list[str]:
    answer = client.call(client.signing.GetSigningKeys, security_pb2.GetSigningKeysRequest())
    return list(answer.checkpoint_keys)


def _kept(file: Path) -> tuple[Path, Checkpoint]:
    try:
        return file, checkpoints.read(read_text(file))
    except InvalidInputError as error:
        raise InvalidInputError(
            f"{file} is no checkpoint of an audit log.", which=str(file), next_step=error.next_step
        ) from error


def _checkpoint(client: Client) -> Checkpoint:
    request = security_pb2.GetAuditCheckpointRequest()
    return checkpoints.read(client.call(client.audit.GetAuditCheckpoint, request).note)


def _proven(
    client: Client, noted: Iterable[Checkpoint], now: Checkpoint, keys: Sequence[str]
) -> list[chain.Problem]:
    """What the platform cannot prove: that its log of now goes on from each checkpoint."""
    problems: list[chain.Problem] = []
    for each in noted:
        if now.tenant != each.tenant:
            problems.append(chain.Problem(each.size, f"the log is of {now.tenant}."))
        elif now.size < each.size:
            problems.append(chain.Problem(now.size + 1, "the newest records were cut off."))
        elif not now.signed_by(keys):
            problems.append(chain.Problem(now.size, "its checkpoint of now is not signed."))
        else:
            request = security_pb2.ProveAuditRequest(first_size=each.size, second_size=now.size)
            proof = client.call(client.audit.ProveAudit, request)
            if not checkpoints.consistent(each, now, proof.consistency):
                what = "the platform cannot prove that its log goes on from the checkpoint."
                problems.append(chain.Problem(each.size, what))
    return problems


def _exported(file: Path) -> Iterator[security_pb2.AuditRecord]:
    for number, line in enumerate(read_text(file).splitlines(), 1):
        try:
            yield Parse(line, security_pb2.AuditRecord())
        except ParseError as error:
            raise InvalidInputError(
                f"Line {number} of {file} is no audit record: {error}",
                which=str(file),
                next_step="Give a file that `basalt audit export` wrote.",
            ) from error


def _chain(client: Client) -> Iterator[security_pb2.AuditRecord]:
    for answer in client.stream(client.audit.ExportAudit, security_pb2.ExportAuditRequest()):
        yield from answer.records
