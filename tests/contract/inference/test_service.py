"""inference as others meet it: its real server with real Kafka, security and Triton."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import polars as pl
import pytest
import pytest_asyncio
import tritonclient.grpc.aio as client

from libs.common.errors import BasaltError
from libs.common.pb.basalt.v1 import common_pb2, security_pb2
from libs.common.pb.basalt.v1 import inference_pb2 as pb
from libs.common.pb.basalt.v1.security_pb2_grpc import AuditServiceStub
from libs.common.rpc import from_call_error
from services.inference.core.manifest import MANIFEST
from tests.support.candidates import (
    ROWS,
    Candidate,
    contrary_model,
    dense_softmax,
    evaluation_rows,
    good_model,
)
from tests.support.eventually import eventually
from tests.support.inference import Inference, running_inference
from tests.support.platform import bearer, running_security, stop_part
from tests.support.servers import TRITON_CONTROL_KEY
from tools.servers import Kafka, Triton


@pytest_asyncio.fixture
async def inference(tmp_path: Path, kafka: Kafka, triton: Triton) -> AsyncIterator[Inference]:
    async with (
        running_security(tmp_path, kafka.bootstrap) as security,
        running_inference(security, triton.grpc_address, TRITON_CONTROL_KEY) as started,
    ):
        yield started


@contextmanager
def refused(code: str, said: str = ".") -> Iterator[list[BasaltError]]:
    """The call ends with this code and says what to do next."""
    seen: list[BasaltError] = []
    with pytest.raises(grpc.aio.AioRpcError, match=said) as raised:
        yield seen
    error = from_call_error(raised.value, "inference")
    seen.append(error)
    assert error.code == code, str(error)
    assert error.next_step


async def test_from_a_completed_training_to_an_answer(inference: Inference, triton: Triton) -> None:
    candidate = Candidate()
    await inference.tell(candidate)
    version = await inference.judged(1)

    assert version.stage == pb.MODEL_STAGE_GATED
    assert {gate.gate for gate in version.gates} == {
        "format",
        "accuracy",
        "chance",
        "baseline",
        "latency",
    }
    assert {metric.name: metric.value for metric in version.metrics}["accuracy"] == 1.0
    assert version.card.startswith("# Boxes")
    assert version.lineage.dataset_version == 3

    approval = pb.ApproveModelVersionRequest(model="boxes", version=1, comment="fine")
    with refused("PERMISSION_DENIED", "ada is the author"):
        await inference.models.ApproveModelVersion(approval, **await inference.as_user("ada"))
    answer = await inference.models.ApproveModelVersion(approval, **await inference.as_user("bob"))
    assert answer.version.stage == pb.MODEL_STAGE_SIGNED
    assert answer.version.signed_by_key
    assert answer.version.reviews[0].reviewer == "bob"
    assert not answer.already_approved
    again = await inference.models.ApproveModelVersion(approval, **await inference.as_user("bob"))
    assert again.already_approved
    assert again.version.reviews == answer.version.reviews

    deployment = await inference.deploy(1)
    assert deployment.problem == ""
    assert [variant.ready for variant in deployment.variants] == [True]

    table = await inference.routes()
    [route] = table.routes
    assert (route.tenant, route.model, route.revision) == ("acme", "boxes", 1)
    assert route.variants[0].internal_name == "acme--boxes--v1"
    assert route.variants[0].manifest_sha256 == version.manifest_sha256
    assert [list(output.shape) for output in route.outputs] == [[-1, 1], [-1, 2]]
    rows = np.array([[3, 0, 0], [-3, 0, 0]], np.float32)
    given = client.InferInput("features", [2, 3], "FP32")
    given.set_data_from_numpy(rows)
    async with client.InferenceServerClient(triton.grpc_address) as asking:
        result = await asking.infer("acme--boxes--v1", [given])
    label = result.as_numpy("label")
    assert label is not None
    assert label.reshape(-1).tolist() == [1, 0]


async def test_a_canary_a_promotion_a_rollback_and_the_history(inference: Inference) -> None:
    await inference.signed(Candidate(), 1)
    await inference.signed(Candidate(job="job-2", onnx=good_model(2.0)), 2)
    await inference.deploy(1)
    canary = await inference.deploy(2, weight=20)
    assert [(each.version, each.weight) for each in canary.variants] == [(1, 80), (2, 20)]
    [route] = (await inference.routes()).routes
    assert [each.weight for each in route.variants] == [80, 20]

    ops = await inference.as_user("ops")
    promoted = await inference.deployments.Promote(pb.PromoteRequest(model="boxes"), **ops)
    assert promoted.deployment.problem == ""
    back = await inference.deployments.Rollback(pb.RollbackRequest(model="boxes"), **ops)
    assert back.deployment.revision == 4
    [route] = (await inference.routes()).routes
    assert [(each.version, each.weight) for each in route.variants] == [(1, 100)]

    answer = await inference.deployments.ListDeploymentHistory(
        pb.ListDeploymentHistoryRequest(model="boxes"), **ops
    )
    actions = [record.deployment.action for record in answer.records]
    assert actions == ["rollback", "promote", "canary", "deploy"]
    assert {who for record in answer.records for who in record.approved_by} == {"bob"}
    assert answer.records[2].lineages[1].job == "job-2"
    at = answer.records[1].deployment.changed.at.ToDatetime() + timedelta(microseconds=1)
    asked = pb.ListDeploymentHistoryRequest()
    asked.at.FromDatetime(at)
    then = await inference.deployments.ListDeploymentHistory(asked, **ops)
    assert [record.deployment.revision for record in then.records] == [3]


async def test_a_worse_version_is_refused_at_the_gate(inference: Inference) -> None:
    await inference.signed(Candidate(), 1)
    await inference.deploy(1)

    await inference.tell(Candidate(job="job-2", onnx=contrary_model()))
    version = await inference.judged(2)

    assert version.stage == pb.MODEL_STAGE_REFUSED
    failed = {gate.gate: gate for gate in version.gates if not gate.passed}
    assert set(failed) == {"accuracy", "chance", "baseline", "in_service"}
    assert f"Of {ROWS} rows" in failed["accuracy"].detail
    assert "boxes version 1" in failed["in_service"].detail
    with refused("FAILED_PRECONDITION", "is refused, not gated"):
        await inference.models.ApproveModelVersion(
            pb.ApproveModelVersionRequest(model="boxes", version=2),
            **await inference.as_user("bob"),
        )


async def test_operators_of_somebody_elses_are_refused_at_the_gate(inference: Inference) -> None:
    foreign = dense_softmax(np.ones((3, 2)), domain="com.example").SerializeToString()

    await inference.tell(Candidate(onnx=foreign))
    version = await inference.judged(1)

    assert version.stage == pb.MODEL_STAGE_REFUSED
    [gate] = version.gates
    assert gate.detail == "It needs operators that are not ONNX's own: com.example."


async def test_fairness_is_measured_by_a_column_beside_the_features(inference: Inference) -> None:
    rows = pl.read_parquet(evaluation_rows())
    group = np.where(rows["width"].to_numpy() > 0, "wide", "narrow")
    fairness = {"accuracy_min": 0.5, "fairness": {"column": "kind"}}
    candidate = Candidate(
        evaluation=evaluation_rows(extra={"kind": group}), changes={"gates": fairness}
    )

    await inference.tell(candidate)
    version = await inference.judged(1)

    [failed] = [gate for gate in version.gates if not gate.passed]
    assert failed.gate == "fairness"
    assert failed.value > 0.3
    assert "the group wide" in failed.detail


async def test_a_repeated_fact_makes_one_version(inference: Inference) -> None:
    candidate = Candidate()
    for _ in range(3):
        await inference.tell(candidate)
    await inference.tell(Candidate(job="job-2"))
    await inference.judged(2)

    answer = await inference.models.ListModelVersions(
        pb.ListModelVersionsRequest(model="boxes"), **await inference.as_user("ada")
    )
    assert [version.version for version in answer.versions] == [2, 1]


async def test_the_files_come_back_as_they_were_made(inference: Inference) -> None:
    candidate = Candidate()
    await inference.signed(candidate, 1)
    files: dict[str, bytearray] = {}
    name = ""

    async for answer in inference.models.ReadModelVersion(
        pb.ReadModelVersionRequest(model="boxes", version=1), **await inference.as_user("ada")
    ):
        name = answer.file.name if answer.HasField("file") else name
        files.setdefault(name, bytearray()).extend(answer.part)

    assert list(files) == [MANIFEST, *candidate.files, "manifest.sig"]
    assert files[MANIFEST] == candidate.manifest
    for each, content in candidate.files.items():
        assert files[each] == content


async def test_without_security_an_approval_says_so_and_does_nothing(
    inference: Inference,
) -> None:
    await inference.tell(Candidate())
    await inference.judged(1)
    bob = await inference.as_user("bob")
    await stop_part(inference.security.service, "rpc")

    with refused("UNAVAILABLE"):
        await inference.models.ApproveModelVersion(
            pb.ApproveModelVersionRequest(model="boxes", version=1), **bob, timeout=8
        )

    assert (await inference.version(1)).stage == pb.MODEL_STAGE_GATED


async def test_unknown_and_foreign_things_are_not_found(inference: Inference) -> None:
    await inference.signed(Candidate(), 1)
    await inference.deploy(1)
    foreign = await inference.as_user("ops", tenant="other")
    ops = await inference.as_user("ops")

    with refused("NOT_FOUND", "no model boxes"):
        await inference.models.GetModelVersion(pb.GetModelVersionRequest(model="boxes"), **foreign)
    with refused("NOT_FOUND", "no version 1 of the model boxes"):
        await inference.deployments.Deploy(pb.DeployRequest(model="boxes", version=1), **foreign)
    with refused("NOT_FOUND", "boxes was never deployed"):
        await inference.deployments.Rollback(pb.RollbackRequest(model="boxes"), **foreign)
    with refused("NOT_FOUND", "boxes was never deployed"):
        await inference.deployments.GetDeployment(pb.GetDeploymentRequest(model="boxes"), **foreign)
    with refused("INVALID_ARGUMENT", "is not a name"):
        await inference.models.GetModelVersion(pb.GetModelVersionRequest(model="a/b"), **ops)
    with refused("INVALID_ARGUMENT", "Give 1 to 100"):
        await inference.deploy(1, weight=300)
    with refused("INVALID_ARGUMENT", "A page of 501"):
        await inference.models.ListModels(
            pb.ListModelsRequest(page=common_pb2.PageRequest(size=501)), **ops
        )
    answer = await inference.models.ListModels(pb.ListModelsRequest(), **foreign)
    assert not answer.models


async def test_routes_are_for_the_gateway(inference: Inference) -> None:
    with refused("PERMISSION_DENIED"):
        async for _ in inference.deployments.WatchRoutes(
            pb.WatchRoutesRequest(), **await inference.as_user("ops")
        ):
            pass


async def test_the_gateway_hears_of_a_change_at_once(inference: Inference) -> None:
    await inference.signed(Candidate(), 1)
    seen: list[pb.WatchRoutesResponse] = []

    async def watch() -> None:
        token = await inference.security.service_token("gateway")
        watching = inference.deployments.WatchRoutes(
            pb.WatchRoutesRequest(), metadata=(("authorization", f"Bearer {token}"),)
        )
        async for table in watching:
            seen.append(table)  # noqa: PERF401 - it never ends.

    task = asyncio.create_task(watch())
    await eventually(lambda: len(seen) == 1)
    await inference.deploy(1)
    await eventually(lambda: len(seen) == 2)
    task.cancel()

    assert [len(table.routes) for table in seen] == [0, 1]
    assert seen[0].table_version < seen[1].table_version


async def test_a_foreign_model_is_in_the_audit_log_with_what_and_when(
    inference: Inference, triton: Triton
) -> None:
    await inference.signed(Candidate(), 1)
    await inference.deploy(1)
    foreign = b"class TritonPythonModel:\n    def execute(self, requests):\n        return []\n"
    config = {
        "backend": "python",
        "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [1]}],
        "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [1]}],
    }
    async with client.InferenceServerClient(triton.grpc_address) as intruding:
        await intruding.load_model(
            "acme--boxes--v1",
            headers={Triton.control_header: TRITON_CONTROL_KEY},
            config=json.dumps(config),
            files={"file:1/model.py": foreign},
        )
    auditor = bearer(await inference.security.user("acme", "otto", ["auditor"]))
    audit = inference.security.stub(AuditServiceStub)
    asked = security_pb2.ListAuditRequest(action="inference/ForeignModelFound")

    async def recorded() -> list[security_pb2.AuditRecord]:
        return list((await audit.ListAudit(asked, **auditor)).records)

    [record] = await eventually(recorded, within_s=30)
    assert (record.actor, record.decision) == ("service:inference", "refused")
    assert record.resource == "model/acme--boxes--v1"
    assert set(json.loads(record.request_json)) == {"name", "what", "at"}

    async def ready_again() -> bool:
        answer = await inference.deployments.GetDeployment(
            pb.GetDeploymentRequest(model="boxes"), **await inference.as_user("ops")
        )
        return answer.deployment.problem == ""

    await eventually(ready_again, within_s=30)
