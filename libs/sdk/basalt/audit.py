"""Verifies a tenant's audit log without trusting who keeps it.

Each record holds the SHA-256 of the one before and itself. A changed field, a removed record, a
changed order or an inserted record shows at the record where it happened. What a chain alone
cannot show is that its newest records were cut off, or that all of it was written anew: keep
checkpoints, and give them (`basalt.checkpoint`). docs/reference/audit.md has the bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from basalt.checkpoint import Checkpoint, Tree
from basalt.pb.basalt.v1.security_pb2 import AuditRecord

GENESIS = "0" * 64
NANOS_PER_MICRO = 1_000


@dataclass(frozen=True, slots=True)
class Problem:
    """`sequence` is the record's place in the chain, from 1."""

    sequence: int
    what: str

    def __str__(self) -> str:
        return f"Record {self.sequence}: {self.what}"


def hash_of(previous_hash: str, record: AuditRecord) -> str:
    """Hex SHA-256 of the previous hash, a line feed, and the record's canonical JSON, as UTF-8."""
    content = {
        "tenant": record.tenant,
        "sequence": record.sequence,
        "at": _written(record),
        "actor": record.actor,
        "action": record.action,
        "resource": record.resource,
        "decision": record.decision,
        "request_json": record.request_json,
        "trace_id": record.trace_id,
    }
    # These came later; where they say nothing the record is as it was before.
    if record.address:
        content["address"] = record.address
    if record.outcome_of:
        content["outcome_of"] = record.outcome_of
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(f"{previous_hash}\n{canonical}".encode()).hexdigest()


def verify(
    records: Iterable[AuditRecord],
    noted: Mapping[int, str] | None = None,
    checkpoints: Sequence[Checkpoint] = (),
) -> list[Problem]:
    """What is wrong with a whole chain, oldest record first; nothing when every link holds.

    `noted` are hashes by sequence, `checkpoints` heads, that somebody kept earlier, elsewhere;
    whether a checkpoint is signed is another question: `Checkpoint.signed_by`.
    """
    tree = Tree(each.size for each in checkpoints)
    problems: list[Problem] = []
    expected, previous, tenant = 1, GENESIS, None
    seen: dict[int, str] = {}
    for record in records:
        tenant = record.tenant if tenant is None else tenant
        problems += _problems(record, expected, previous, tenant)
        seen[record.sequence] = record.hash
        tree.add(record)
        expected, previous = record.sequence + 1, record.hash
    for sequence, known_hash in sorted((noted or {}).items()):
        if sequence not in seen:
            problems.append(Problem(sequence, "it was noted earlier, and is missing."))
        elif seen[sequence] != known_hash:
            problems.append(Problem(sequence, "it is not the record that was noted earlier."))
    return [*problems, *_against(tree, checkpoints, tenant)]


def _against(
    tree: Tree, checkpoints: Iterable[Checkpoint], tenant: str | None
) -> Iterator[Problem]:
    for each in checkpoints:
        if tenant is not None and each.tenant != tenant:
            yield Problem(each.size, f"the checkpoint is of the tenant {each.tenant}.")
        elif each.size > tree.size:
            yield Problem(
                tree.size + 1, f"it is missing: the log had {each.size} records at the checkpoint."
            )
        elif tree.heads[each.size] != each.head:
            yield Problem(each.size, "it or one before it is not what the checkpoint has signed.")


def _problems(record: AuditRecord, expected: int, previous: str, tenant: str) -> list[Problem]:
    if record.sequence > expected:
        return [Problem(expected, f"it is missing; record {record.sequence} is in its place.")]
    if record.sequence < expected:
        return [Problem(record.sequence, f"it is out of order, where {expected} should be.")]
    if record.tenant != tenant:
        return [Problem(record.sequence, f"it is of the tenant {record.tenant}, not {tenant}.")]
    if hash_of(record.previous_hash, record) != record.hash:
        return [Problem(record.sequence, "its content is not what its hash says.")]
    if record.previous_hash != previous:
        return [Problem(record.sequence, "it does not continue the record before it.")]
    return []


def _written(record: AuditRecord) -> str:
    """UTC in RFC 3339 with six digits of a second's fraction."""
    whole = record.at.ToDatetime().replace(microsecond=0).isoformat()
    return f"{whole}.{record.at.nanos // NANOS_PER_MICRO:06d}Z"
