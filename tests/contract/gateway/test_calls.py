"""What a caller meets at the door: real Envoy, dispatcher, Triton, control plane."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from libs.common.pb.basalt.v1 import gateway_pb2, ingest_pb2, security_pb2
from libs.common.pb.basalt.v1.gateway_pb2_grpc import GatewayServiceStub
from libs.common.pb.basalt.v1.ingest_pb2_grpc import IngestServiceStub
from libs.common.pb.basalt.v1.security_pb2_grpc import IdentityServiceStub
from libs.common.pb.inference import grpc_inference_service_pb2 as pb
from services.gateway.core.site import SERVICES
from tests.support.door import Door, digest, outcome, request
from tests.support.eventually import eventually
from tests.support.tokens import KeyRing

pytestmark = pytest.mark.asyncio(loop_scope="module")
Code = grpc.StatusCode


async def refusal(door: Door, token: str | None, made: Any = None) -> tuple[Code, str]:
    metadata = [("authorization", f"Bearer {token}")] if token is not None else []
    async with door.inference() as stub:
        return await outcome(
            stub.ModelInfer(made or request([[1, 2]]), metadata=metadata, timeout=10)
        )


async def test_a_prediction_says_which_version_made_it(shared_door: Door) -> None:
    async with shared_door.inference() as stub:
        call = stub.ModelInfer(request([[1, 2]]), metadata=shared_door.bearer(), timeout=10)
        answer, headers = await call, dict(await call.initial_metadata())

    assert answer.model_name == "double"
    assert answer.model_version == headers["basalt-model-version"] == "1"
    assert answer.parameters["basalt_digest"].string_param == digest(1)
    assert headers["basalt-model-digest"] == digest(1)


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("none", "missing"),
        ("garbage", "Jwt"),
        ("forged", "verification"),
        ("expired", "expired"),
        ("too early", "not yet valid"),
        ("for somebody else", "Audiences"),
    ],
)
async def test_without_a_token_that_holds_nobody_gets_in(
    shared_door: Door, case: str, said: str
) -> None:
    token = {
        "none": None,
        "garbage": "x.y.z",
        "forged": KeyRing("one").token(roles=["application"]),
        "expired": shared_door.token(exp=int(time.time()) - 120),
        "too early": shared_door.token(nbf=int(time.time()) + 120),
        "for somebody else": shared_door.token(aud="another-platform"),
    }[case]

    code, message = await refusal(shared_door, token)

    assert code is Code.UNAUTHENTICATED
    assert said in message
    assert "basalt login" in message


async def test_a_role_that_may_not_predict_is_told_which_one_may(shared_door: Door) -> None:
    code, message = await refusal(shared_door, shared_door.token(sub="eve", roles=["engineer"]))

    assert code is Code.PERMISSION_DENIED
    assert "eve" in message
    assert "application" in message


async def test_the_tenant_comes_from_the_token_alone(shared_door: Door) -> None:
    claimed = (("x-basalt-tenant", "acme"), ("x-basalt-subject", "root"))
    async with shared_door.inference() as stub:
        answer = await stub.ModelInfer(
            request([[1, 2]]),
            metadata=(*shared_door.bearer(tenant="globex"), *claimed),
            timeout=10,
        )
        code, _ = await outcome(stub.ModelInfer(request([[1, 2]]), metadata=claimed, timeout=10))

    assert answer.raw_output_contents[0] == request([[10, 20]]).raw_input_contents[0]
    assert code is Code.UNAUTHENTICATED


@pytest.mark.parametrize("model", ["canary", "nobody-s"])
async def test_another_tenants_model_is_as_unknown_as_one_that_never_was(
    shared_door: Door, model: str
) -> None:
    made = request([[1, 2]], model)
    code, message = await refusal(shared_door, shared_door.token(tenant="globex"), made)

    assert code is Code.NOT_FOUND
    assert model in message
    assert "deployed" in message


async def test_a_malformed_tensor_is_refused_with_what_is_wrong(shared_door: Door) -> None:
    short = request([[1, 2]])
    short.raw_input_contents[0] = b"123"

    code, message = await refusal(shared_door, shared_door.token(), short)

    assert code is Code.INVALID_ARGUMENT
    assert "needs 8 bytes" in message


async def test_an_oversize_message_is_refused_by_its_limit(shared_door: Door) -> None:
    large = pb.ModelInferRequest(model_name="double", raw_input_contents=[bytes(65 * 1024 * 1024)])
    large.inputs.add(name="x", datatype="FP32", shape=[1, 65 * 1024 * 256])
    options = [("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(shared_door.listen, options) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer", None, None)
        call = infer(large.SerializeToString(), metadata=shared_door.bearer(), timeout=30)
        code, message = await outcome(call)

    assert code is Code.RESOURCE_EXHAUSTED
    assert str(64 * 1024 * 1024) in message


async def test_an_error_of_the_model_reaches_its_caller(shared_door: Door) -> None:
    code, message = await refusal(shared_door, shared_door.token(), request([[-1, 2]]))
    assert (code, message) == (Code.INTERNAL, "a value is negative")


async def test_a_canary_gets_its_share(shared_door: Door) -> None:
    async with shared_door.inference() as stub:
        versions: Counter[str] = Counter()
        for _ in range(400):
            answer = await stub.ModelInfer(
                request([[1, 2]], "canary"), metadata=shared_door.bearer(), timeout=10
            )
            versions[answer.model_version] += 1

    # Binomial, p = 0.2, n = 400: six standard deviations are 48.
    assert 32 <= versions["2"] <= 128
    assert versions["1"] + versions["2"] == 400


async def test_a_version_can_be_asked_for(shared_door: Door) -> None:
    async with shared_door.inference() as stub:
        for version in ("1", "2"):
            made = request([[1, 2]], "canary", model_version=version)
            answer = await stub.ModelInfer(made, metadata=shared_door.bearer(), timeout=10)
            assert answer.model_version == version
        made = request([[1, 2]], "canary", model_version="9")
        code, message = await refusal(shared_door, shared_door.token(), made)
    assert code is Code.NOT_FOUND
    assert "1, 2" in message


async def test_metadata_is_of_the_tenants_own_models(shared_door: Door) -> None:
    asked = {"metadata": shared_door.bearer(), "timeout": 10}
    async with shared_door.inference() as stub:
        assert (await stub.ServerLive(pb.ServerLiveRequest(), **asked)).live
        assert (await stub.ServerReady(pb.ServerReadyRequest(), **asked)).ready
        assert (await stub.ServerMetadata(pb.ServerMetadataRequest(), **asked)).name == "basalt"
        assert (await stub.ModelReady(pb.ModelReadyRequest(name="canary"), **asked)).ready
        metadata = await stub.ModelMetadata(pb.ModelMetadataRequest(name="canary"), **asked)
        foreign = {**asked, "metadata": shared_door.bearer(tenant="globex")}
        for call in (
            stub.ModelMetadata(pb.ModelMetadataRequest(name="canary"), **foreign),
            stub.ModelReady(pb.ModelReadyRequest(name="canary"), **foreign),
            stub.ModelMetadata(pb.ModelMetadataRequest(name="canary", version="9"), **asked),
        ):
            assert (await outcome(call))[0] is Code.NOT_FOUND
        assert (await outcome(stub.ServerLive(pb.ServerLiveRequest())))[0] is Code.UNAUTHENTICATED

    assert metadata.name == "canary"
    assert list(metadata.versions) == ["1", "2"]
    assert [(t.name, t.datatype) for t in metadata.inputs] == [("x", "FP32")]


async def test_a_stream_is_answered_message_by_message(shared_door: Door) -> None:
    async with shared_door.inference() as stub:
        stream = stub.ModelStreamInfer(metadata=shared_door.bearer(), timeout=20)
        for number in range(1, 6):
            # Each answer is awaited before the next question, as an interactive caller would.
            await stream.write(request([[number, 0]], id=str(number)))
            answer: Any = await stream.read()
            assert answer.infer_response.id == str(number)
            assert answer.infer_response.model_version == "1"
            assert answer.infer_response.parameters["basalt_digest"].string_param == digest(1)
        for number in (7, -8, 9):
            await stream.write(request([[number, 0]], id=str(number)))
        await stream.done_writing()
        rest: list[Any] = [await stream.read() for _ in range(3)]

    assert [each.infer_response.id for each in rest] == ["7", "-8", "9"]
    assert [each.error_message for each in rest] == ["", "a value is negative", ""]


async def test_a_cancelled_stream_leaves_the_door_and_triton_well(shared_door: Door) -> None:
    async with shared_door.inference() as stub:
        stream = stub.ModelStreamInfer(metadata=shared_door.bearer(), timeout=20)
        for _ in range(50):
            await stream.write(request([[1, 2]]))
        await stream.read()
        stream.cancel()
    assert await shared_door.answers()


async def test_health_and_reflection_are_open(shared_door: Door) -> None:
    async with shared_door.channel() as channel:
        health = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=10
        )
        reflected = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
            iter(
                [
                    reflection_pb2.ServerReflectionRequest(list_services=""),
                    reflection_pb2.ServerReflectionRequest(
                        file_containing_symbol="inference.GRPCInferenceService"
                    ),
                ]
            ),
            timeout=10,
        )
        listed, described = [each async for each in reflected]

    assert health.status == health_pb2.HealthCheckResponse.SERVING
    names = {each.name for each in listed.list_services_response.service}
    assert "inference.GRPCInferenceService" in names
    assert described.file_descriptor_response.file_descriptor_proto


async def test_reflection_knows_every_service_behind_the_door_and_its_methods(
    shared_door: Door,
) -> None:
    """As grpcurl asks before it describes a method, and ghz before it calls one."""
    methods = [
        "inference.GRPCInferenceService.ModelInfer",
        "basalt.v1.IngestService.PutSource",
        "basalt.v1.ModelService.ListModels",
        "basalt.v1.GatewayService.GetDoor",
        "basalt.v1.QuarantineFilter",
        *SERVICES,
        "google.protobuf.Timestamp",
    ]
    unknown = ["basalt.v1.IngestService.Nothing", "basalt.v1.Nothing", "", "..", "x"]
    async with shared_door.channel() as channel:
        asked = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
            iter(
                [
                    reflection_pb2.ServerReflectionRequest(list_services=""),
                    *(
                        reflection_pb2.ServerReflectionRequest(file_containing_symbol=each)
                        for each in [*methods, *unknown]
                    ),
                ]
            ),
            timeout=10,
        )
        listed, *described = [each async for each in asked]

    names = {each.name for each in listed.list_services_response.service}
    assert names >= {*SERVICES, "inference.GRPCInferenceService", "grpc.health.v1.Health"}
    for each in described[: len(methods)]:
        assert each.file_descriptor_response.file_descriptor_proto
    assert {each.error_response.error_code for each in described[len(methods) :]} == {
        Code.NOT_FOUND.value[0]
    }


async def test_other_services_are_behind_the_same_door(shared_door: Door) -> None:
    async with shared_door.channel() as channel:
        gateway = GatewayServiceStub(channel)
        report = await gateway.GetDoor(
            gateway_pb2.GetDoorRequest(), metadata=shared_door.bearer(), timeout=10
        )
        assert report.routes == 3
        assert report.refused == ""
        assert len(report.configuration_sha256) == 64
        nameless = await outcome(gateway.GetDoor(gateway_pb2.GetDoorRequest(), timeout=10))
        assert nameless[0] is Code.UNAUTHENTICATED
        # A login needs no token: security itself answers, here a neighbour that cannot.
        login = IdentityServiceStub(channel).Login(security_pb2.LoginRequest(), timeout=10)
        assert "not implemented" in (await outcome(login))[1]
        # What is the platform's own is not served to anybody outside, whatever their token says.
        for roles in (["administrator"], ["service"]):
            bearer = shared_door.bearer(tenant="platform", roles=roles, sub="service:ingest")
            issue = IdentityServiceStub(channel).IssueServiceToken(
                security_pb2.IssueServiceTokenRequest(), metadata=bearer, timeout=10
            )
            watch = IdentityServiceStub(channel).WatchAccess(
                security_pb2.WatchAccessRequest(), metadata=bearer, timeout=10
            )
            for call in (issue, watch.read()):
                code, message = await outcome(call)
                assert code is Code.UNIMPLEMENTED
                assert message.startswith("The door has no such way")
        absent = IngestServiceStub(channel).ListSources(
            ingest_pb2.ListSourcesRequest(), metadata=shared_door.bearer(), timeout=10
        )
        code, message = await outcome(absent)
        assert code is Code.UNIMPLEMENTED
        assert "ListSources" in message


async def test_services_are_told_the_callers_address_by_the_door_alone(shared_door: Door) -> None:
    claimed = tuple(
        (header, "203.0.113.9")
        for header in ("x-basalt-address", "x-forwarded-for", "forwarded", "x-real-ip")
    )
    async with shared_door.channel() as channel:
        identity = IdentityServiceStub(channel)
        await identity.GetJwks(security_pb2.GetJwksRequest(), metadata=claimed, timeout=10)

    told = shared_door.neighbours.headers[-1]
    assert told["x-basalt-address"] == "127.0.0.1"
    assert "203.0.113.9" not in told.values()


async def put(door: Door, who: Any = None, **limits: Any) -> tuple[Code, str]:
    administrator = door.bearer(tenant="platform", roles=["administrator"], sub="root")
    async with door.channel() as channel:
        return await outcome(
            GatewayServiceStub(channel).PutLimits(
                gateway_pb2.PutLimitsRequest(limits=gateway_pb2.Limits(**limits)),
                metadata=who or administrator,
                timeout=10,
            )
        )


async def test_a_tenants_rate_is_limited_and_nobody_elses(shared_door: Door) -> None:
    assert await put(shared_door, tenant="acme", requests_per_second=5) == (Code.OK, "")
    try:

        async def limited() -> str:
            code, message = await shared_door.ask()
            return message if code is Code.RESOURCE_EXHAUSTED else ""

        # The limit is in force when it was answered; Envoy may have begun with a full bucket.
        message = await eventually(limited, within_s=2)
        assert "requests_per_second" in message
        assert "acme" in message
        assert (await shared_door.ask(tenant="globex"))[0] is Code.OK
    finally:
        await put(shared_door, tenant="acme")
    await eventually(shared_door.answers, within_s=3)
    assert "basalt.v1.GatewayService/PutLimits" in shared_door.neighbours.audited


async def test_a_tenants_message_size_is_limited(shared_door: Door) -> None:
    assert (await put(shared_door, tenant="acme", message_bytes_max=1_000))[0] is Code.OK
    try:

        async def refused() -> str:
            code, message = await refusal(shared_door, shared_door.token(), request([[1, 2]] * 500))
            return message if code is Code.RESOURCE_EXHAUSTED else ""

        assert "message_bytes_max" in await eventually(refused, within_s=3)
    finally:
        await put(shared_door, tenant="acme")


async def test_limits_are_checked_and_for_the_platform_to_put(shared_door: Door) -> None:
    code, message = await put(shared_door, tenant="acme", requests_per_second=-1)
    assert code is Code.INVALID_ARGUMENT
    assert "requests_per_second" in message
    assert (await put(shared_door, tenant="acme", sample_fraction=1.5))[0] is Code.INVALID_ARGUMENT
    assert (await put(shared_door, tenant="unheard-of"))[0] is Code.NOT_FOUND
    forbidden = await put(shared_door, shared_door.bearer(roles=["administrator"]), tenant="acme")
    assert forbidden[0] is Code.PERMISSION_DENIED
