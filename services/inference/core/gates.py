"""What a candidate has to show before people look at it, measured here and never taken on trust."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import structlog

from libs.common import telemetry
from libs.common.clock import Clock
from libs.common.errors import BasaltError
from libs.common.events import ModelGated
from libs.common.journal import Change, Journal
from libs.common.stores.ports import Entry
from services.inference.core import deployments, names, versions
from services.inference.core.artifacts import Artifacts, require_alike
from services.inference.core.manifest import EVALUATION, MODEL, Manifest
from services.inference.core.versions import GateResult, ModelVersion, Stage
from services.inference.ports import Evaluator, Measurement, Question

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Gates:
    """Works through the candidates; safe to run in several processes, since one result counts."""

    journal: Journal
    clock: Clock
    artifacts: Artifacts
    evaluator: Evaluator

    async def work(self) -> None:
        """Judges every candidate there is. Raises the last error; the others are tried as well."""
        failure: BasaltError | None = None
        for entry in await self.journal.heads("version"):
            version = versions.of(entry)
            if version.stage != Stage.CANDIDATE:
                continue
            try:
                with telemetry.span(
                    "GateModelVersion", under=version.traceparent, basalt_model=version.model
                ):
                    await self.judge(version)
            except BasaltError as error:
                log.warning("gates_failed", version=version.label, error=str(error))
                failure = error
        if failure is not None:
            raise failure

    async def judge(self, version: ModelVersion) -> Entry:
        manifest = await self.artifacts.described(version)
        require_alike(version, manifest)
        champion = await self._champion(version)
        measured = await self.evaluator.measure(await self._question(version, manifest, champion))
        results = tuple(results_of(measured, manifest, champion.label if champion else ""))
        passed = all(result.passed for result in results)

        async def gated(latest: Entry | None) -> Change | None:
            if latest is None or versions.of(latest).stage != Stage.CANDIDATE:
                return None
            state = versions.of(latest).model_copy(
                update={
                    "stage": Stage.GATED if passed else Stage.REFUSED,
                    "gates": results,
                    "metrics": {**version.metrics, **_metrics(measured)},
                }
            )
            event = ModelGated(
                id=f"{latest.aggregate}/{latest.version + 1}",
                tenant=version.tenant,
                at=self.clock.now(),
                model=version.model,
                version=version.version,
                passed=passed,
                refusals=tuple(result.detail for result in results if not result.passed),
            )
            kind = "CandidateGated" if passed else "CandidateRefused"
            return Change(kind, state.model_dump(mode="json"), [event])

        return await self.journal.decide(version.aggregate, "gates", names.OWN_BY, gated)

    async def _champion(self, version: ModelVersion) -> ModelVersion | None:
        """The version that serves most of the traffic at this moment."""
        head = await self.journal.latest(names.deployment_aggregate(version.tenant, version.model))
        revision = deployments.of(head) if head else None
        if revision is None or not revision.variants:
            return None
        stable = revision.variants[0].version
        entry = await versions.find(self.journal, version.tenant, version.model, stable)
        return versions.of(entry)

    async def _question(
        self, version: ModelVersion, manifest: Manifest, champion: ModelVersion | None
    ) -> Question:
        fairness = manifest.gates.fairness
        served = await self.artifacts.described(champion) if champion else None
        return Question(
            model=await self.artifacts.file(version, MODEL),
            evaluation=await self.artifacts.file(version, EVALUATION),
            inputs=manifest.inputs,
            outputs=manifest.outputs,
            features=manifest.features,
            classes=manifest.classes,
            group=fairness.column if fairness else "",
            positive=max(len(manifest.classes) - 1, 1),
            champion=await self.artifacts.file(champion, MODEL) if champion else None,
            champion_features=served.features if served else (),
        )


def results_of(measured: Measurement, manifest: Manifest, champion: str) -> Iterator[GateResult]:
    """Every gate's result; a file that must not be served is refused before anything else."""
    yield _format(measured)
    if measured.objections:
        return
    limits = manifest.gates
    asked = f"; at least {limits.accuracy_min:.4f} is asked for" if limits.accuracy_min else ""
    yield _at_least(
        "accuracy",
        measured.accuracy,
        limits.accuracy_min,
        f"Of {measured.rows} rows that it has not seen in training, {measured.accuracy:.4f} were "
        f"answered rightly{asked}.",
    )
    yield from _rows_used(manifest)
    yield _chance(measured)
    yield from _baseline(measured, manifest)
    if champion:
        yield _in_service(measured, limits.accuracy_drop_max, champion)
    if limits.fairness is not None:
        yield _fairness(measured, limits.fairness.selection_rate_difference_max)
    yield GateResult(
        gate="latency",
        passed=measured.latency_ms_p99 <= limits.latency_ms_p99_max,
        value=measured.latency_ms_p99,
        limit=limits.latency_ms_p99_max,
        detail=f"A single row takes {measured.latency_ms_p99:.3f} ms at the 99th percentile on one "
        f"thread; at most {limits.latency_ms_p99_max:g} ms is asked for.",
    )


def _format(measured: Measurement) -> GateResult:
    count = len(measured.objections)
    detail = " ".join(measured.objections) or "The model is plain ONNX of standard operators."
    return GateResult(gate="format", passed=not count, value=count, limit=0, detail=detail)


def _chance(measured: Measurement) -> GateResult:
    """Balanced accuracy is the mean recall of the classes: 1/C for whoever does not look."""
    limit = 1.0 / max(measured.classes_seen, 1)
    return GateResult(
        gate="chance",
        passed=measured.classes_seen > 1 and measured.balanced_accuracy > limit,
        value=measured.balanced_accuracy,
        limit=limit,
        detail=f"Its balanced accuracy over {measured.classes_seen} classes is "
        f"{measured.balanced_accuracy:.4f}; answering without looking gives {limit:.4f}.",
    )


def _rows_used(manifest: Manifest) -> Iterator[GateResult]:
    """By what the trainer says: the rows that it left out are not among the candidate's files."""
    used, limit = manifest.metrics.get("rows_used"), manifest.gates.rows_used_min
    if used is None and not limit:
        return
    said = "It does not say how many" if used is None else f"{used:.1%}"
    yield _at_least(
        "rows_used",
        used or 0.0,
        limit,
        f"{said} of the dataset's rows were used, as the others lack a value; at least {limit:.1%}"
        " is asked for.",
    )


def _baseline(measured: Measurement, manifest: Manifest) -> Iterator[GateResult]:
    """A claimed baseline only ever makes the gate harder, so here the claim may be taken."""
    claimed = manifest.baseline_metrics.get("accuracy")
    if claimed is None:
        return
    limit = claimed - manifest.gates.accuracy_drop_max
    yield _at_least(
        "baseline",
        measured.accuracy,
        limit,
        f"Its accuracy is {measured.accuracy:.4f}; the baseline's is {claimed:.4f}, of which "
        f"{manifest.gates.accuracy_drop_max:g} may be lost.",
    )


def _in_service(measured: Measurement, drop_max: float, champion: str) -> GateResult:
    if measured.champion_accuracy is None:
        return GateResult(
            gate="in_service",
            passed=True,
            value=measured.accuracy,
            limit=0.0,
            detail=f"It cannot be compared with {champion}: {measured.champion_objection}",
        )
    return _at_least(
        "in_service",
        measured.accuracy,
        measured.champion_accuracy - drop_max,
        f"On the same rows its accuracy is {measured.accuracy:.4f} and that of {champion}, which "
        f"is in service, {measured.champion_accuracy:.4f}; {drop_max:g} may be lost.",
    )


def _fairness(measured: Measurement, limit: float) -> GateResult:
    rates = measured.selection_rates
    if not rates:
        return GateResult(
            gate="fairness", passed=False, value=1.0, limit=limit, detail=measured.group_objection
        )
    lowest, highest = min(rates, key=rates.__getitem__), max(rates, key=rates.__getitem__)
    difference = rates[highest] - rates[lowest]
    return GateResult(
        gate="fairness",
        passed=difference <= limit,
        value=difference,
        limit=limit,
        detail=f"The positive class is answered to {rates[highest]:.3f} of the group {highest} and "
        f"to {rates[lowest]:.3f} of the group {lowest}: a difference of {difference:.3f}, where at "
        f"most {limit:g} is asked for.",
    )


def _at_least(gate: str, value: float, limit: float, detail: str) -> GateResult:
    return GateResult(gate=gate, passed=value >= limit, value=value, limit=limit, detail=detail)


def _metrics(measured: Measurement) -> dict[str, float]:
    if measured.objections:
        return {}
    return {
        "accuracy": measured.accuracy,
        "balanced_accuracy": measured.balanced_accuracy,
        "evaluation_rows": float(measured.rows),
        "latency_ms_p50": measured.latency_ms_p50,
        "latency_ms_p99": measured.latency_ms_p99,
    }
