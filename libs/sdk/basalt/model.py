"""A model to predict with, as the asynchronous client gives it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from basalt import prediction
from basalt.errors import BasaltError, InvalidInputError
from basalt.pb.basalt.v1 import inference_pb2
from basalt.pb.inference import grpc_inference_service_pb2 as oip
from basalt.prediction import Prediction
from basalt.rows import Rows, as_matrix

if TYPE_CHECKING:
    from basalt.aio import AsyncClient

# Models are deployed with batches of at most 1,024 rows.
ROWS_A_CALL_MAX = 512
# Versions whose description is kept by a model; a canary and what it replaces are two.
VERSIONS_KNOWN_MAX = 16


class AsyncModel:
    """A model to predict with; what it takes is read from the registry when first needed."""

    def __init__(self, client: AsyncClient, name: str, version: int | str = "") -> None:
        """Raises InvalidInputError for a version that is no number."""
        self.client = client
        self.name = name
        self.version = str(version or "")
        if self.version and not self.version.isdecimal():
            raise InvalidInputError(
                f"{self.version!r} is no version of {name}.",
                which="version",
                next_step="Give its number; `basalt model versions` lists them.",
            )
        self._current: int | None = None
        self._known: dict[int, inference_pb2.ModelVersion] = {}

    async def describe(self) -> inference_pb2.ModelVersion:
        """The version that is asked for, or the one that most of the traffic goes to."""
        if self._current is None:
            self._current = int(self.version) if self.version else await self._deployed()
        return await self._version(self._current)

    async def predict(
        self, rows: Rows, *, timeout_s: float | None = None, traceparent: str = ""
    ) -> Prediction:
        """Labels and probabilities for `rows`: numpy [rows, features], a DataFrame, dict(s).

        `traceparent` (W3C) makes the prediction part of the caller's own trace.
        """
        known = await self.describe()
        matrix = as_matrix(rows, list(known.features))
        answers: list[Prediction] = []
        for start in range(0, len(matrix), ROWS_A_CALL_MAX):
            # What answered the first rows answers them all, whatever is deployed meanwhile.
            version = answers[0].model_version if answers else self.version
            part = prediction.request(self.name, version, matrix[start : start + ROWS_A_CALL_MAX])
            answer = await self._infer(part, timeout_s, traceparent)
            version_of = await self._answered_by(known, answer.model_version)
            answers.append(prediction.from_response(answer, prediction.classes(version_of)))
        return prediction.together(answers)

    async def _infer(
        self, part: oip.ModelInferRequest, timeout_s: float | None, traceparent: str
    ) -> oip.ModelInferResponse:
        try:
            return await self.client.call(
                self.client.inference.ModelInfer,
                part,
                timeout_s=timeout_s,
                traceparent=traceparent,
            )
        except BasaltError:
            # What is deployed may have changed: the next prediction looks again.
            self._current = None
            raise

    async def _answered_by(
        self, known: inference_pb2.ModelVersion, answered_by: str
    ) -> inference_pb2.ModelVersion:
        """The version that answered: a canary, or what was deployed since, may be another."""
        if answered_by.isdecimal() and int(answered_by) != known.version:
            if not self.version:
                self._current = None
            known = await self._version(int(answered_by))
        return known

    async def _deployed(self) -> int:
        request = inference_pb2.GetDeploymentRequest(model=self.name)
        answer = await self.client.call(self.client.deployments.GetDeployment, request)
        variants = answer.deployment.variants
        if not variants:
            raise BasaltError(
                f"{self.name} is not in service.",
                code="FAILED_PRECONDITION",
                which=self.name,
                next_step=f"Put a version in service: `basalt deploy put {self.name} VERSION`.",
            )
        return max(variants, key=lambda variant: variant.weight).version

    async def _version(self, number: int) -> inference_pb2.ModelVersion:
        """A version never changes in what it takes and gives."""
        if number not in self._known:
            request = inference_pb2.GetModelVersionRequest(model=self.name, version=number)
            answer = await self.client.call(self.client.models.GetModelVersion, request)
            if len(self._known) >= VERSIONS_KNOWN_MAX:
                self._known.clear()
            self._known[number] = answer.version
        return self._known[number]
