"""Candidates, read from the trainer by RPC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from pydantic import ValidationError

from libs.common.errors import InvalidInputError
from libs.common.pb.basalt.v1 import trainer_pb2 as pb
from libs.common.pb.basalt.v1.trainer_pb2_grpc import TrainerServiceStub
from libs.common.rpc import Peers, translated
from services.inference.core.manifest import File
from services.inference.ports import Part

READ_S_MAX = 110.0  # Under the bus's RETRYABLE_S_MAX, so that a slow trainer gets another try.


@dataclass(frozen=True, slots=True)
class TrainerCandidates:
    peers: Peers

    async def read(self, job: str) -> AsyncIterator[Part]:
        with translated("trainer"):
            stub = self.peers.stub(TrainerServiceStub, "trainer")
            stream = stub.ReadCandidate(pb.ReadCandidateRequest(job=job), timeout=READ_S_MAX)
            async for answer in stream:
                yield Part(answer.part, _file(answer) if answer.HasField("file") else None)


def _file(answer: pb.ReadCandidateResponse) -> File:
    try:
        return File(
            name=answer.file.name, sha256=answer.file.sha256, size_bytes=answer.file.size_bytes
        )
    except ValidationError as error:
        raise InvalidInputError(
            f"The candidate has a file {answer.file.name!r} of {answer.file.size_bytes} bytes, "
            "which cannot be taken.",
            which=answer.file.name,
            next_step="Mend what made it; docs/reference/model.md describes the format.",
        ) from error
