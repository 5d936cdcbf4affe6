"""The guard in front of every call, and the way between services, over real gRPC."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from opentelemetry.sdk.trace import ReadableSpan

from libs.common import telemetry
from libs.common.echo import encoded
from libs.common.errors import (
    BY_CODE,
    BasaltError,
    DependencyError,
    ForbiddenError,
    InternalError,
    InvalidInputError,
    NotFoundError,
    PreconditionError,
    UnauthenticatedError,
)
from libs.common.revocations import Revocation
from libs.common.rpc import Peers, Server, ServerTls, from_call_error, translated
from tests.support.certificates import write_certificates
from tests.support.echo import NAME, RING, EchoStub, Running, running_echo
from tests.support.eventually import eventually
from tests.support.tracing import Spans

HELLO = StringValue(value="hello")
# gRPC reads 8 KiB from a peer, Envoy more.
TRAILER_BYTES_MAX = 7 * 1024


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    async with running_echo() as running:
        yield running


async def refused(call: Any) -> BasaltError:
    with pytest.raises(BasaltError) as refusal, translated("echo"):
        await call
    return refusal.value


async def said(*values: str) -> AsyncIterator[StringValue]:
    for value in values:
        yield StringValue(value=value)


# Errors on the wire.


@pytest.mark.parametrize("kind", [kind for kind in BY_CODE.values() if kind is not InternalError])
async def test_an_error_arrives_as_it_was_raised(running: Running, kind: type[BasaltError]) -> None:
    running.echo.error = kind("It is so.", which="dataset/ü", next_step="Do this next.")

    error = await refused(running.stub().One(HELLO))

    assert type(error) is kind
    assert (error.what, error.which, error.next_step) == ("It is so.", "dataset/ü", "Do this next.")
    assert error.retryable is kind.retryable


@pytest.mark.parametrize("kind", [kind for kind in BY_CODE.values() if kind is not InternalError])
@pytest.mark.parametrize("name", ["a", "é", "\x00", "\n", "\u202e", "😀", "%"])
async def test_a_callers_words_come_back_bounded(
    running: Running, kind: type[BasaltError], name: str
) -> None:
    """Trailers beyond what a peer reads break the connection, for everybody who shares it."""
    long = name * 100_000
    running.echo.error = kind(
        f"There is no model {long} here.", which=long, next_step=f"Ask for {long}, or for another."
    )

    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await running.stub().One(HELLO)

    trailers = refusal.value.trailing_metadata() or ()
    said = refusal.value.details() or ""
    assert sum(len(encoded(str(v))) + len(k) for k, v in trailers) < TRAILER_BYTES_MAX
    assert len(encoded(said)) < TRAILER_BYTES_MAX - 4_000
    assert said.startswith("There is no model ")
    assert said.endswith(", or for another.")
    assert said.isprintable()
    assert from_call_error(refusal.value, "echo").code == kind.code


async def test_a_method_that_nobody_has_comes_back_bounded(running: Running) -> None:
    async with grpc.aio.insecure_channel(running.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await channel.unary_unary(f"/{NAME}/{'x' * 5_000}")(b"")
    assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert len(refusal.value.details() or "") < 500


async def test_an_error_without_a_next_step_arrives_too(running: Running) -> None:
    running.echo.error = NotFoundError("There is no such dataset.")

    error = await refused(running.stub().One(HELLO))

    assert (error.what, error.which, error.next_step) == ("There is no such dataset.", "", "")


@pytest.mark.parametrize(
    "fault",
    [
        ZeroDivisionError("password=hunter2"),
        InternalError("password=hunter2", which="hunter2", next_step="hunter2"),
        TimeoutError("hunter2"),
        KeyError("hunter2"),
        grpc.RpcError("hunter2"),
    ],
)
@pytest.mark.parametrize("method", ["One", "Many"])
async def test_a_fault_of_ours_leaks_nothing(
    running: Running, fault: Exception, method: str, spans: Spans
) -> None:
    running.echo.error = fault
    call = getattr(running.stub(), method)(HELLO)

    error = await refused(call if method == "One" else anext(aiter(call)))

    assert type(error) is InternalError
    assert "hunter2" not in f"{error} {error.which} {error.next_step}"
    assert "failed" in error.what

    def served() -> list[ReadableSpan]:
        return [each for each in spans.named(f"{NAME}/{method}") if each.kind.name == "SERVER"]

    # A span ends a moment after its caller has the answer.
    await eventually(served)
    (span,) = served()
    assert span.context
    assert error.which == f"{span.context.trace_id:032x}", "The operators find it by its trace."


async def test_a_method_of_no_service_here_is_named_to_every_form_of_call(running: Running) -> None:
    method = "inference.GRPCInferenceService/ModelConfig"
    async with grpc.aio.insecure_channel(running.address) as channel:
        one, many = channel.unary_unary(f"/{method}"), channel.unary_stream(f"/{method}")
        for call in (one(b""), anext(aiter(many(b"")))):
            with pytest.raises(grpc.aio.AioRpcError, match=f"There is no {method} here") as refusal:
                await call
            assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED
            assert "reflection lists" in (refusal.value.details() or "")


# The guard's order.


async def test_an_open_method_needs_no_token(running: Running) -> None:
    assert await running.stub("").Open(HELLO) == HELLO


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("", "carries no token"),
        ("nonsense", "does not hold"),
        (RING.token(iss="somebody"), "does not hold"),
        (RING.token(exp=int(time.time()) - 3_600), "has expired"),
    ],
)
async def test_without_a_token_that_holds_the_handler_never_runs(
    running: Running, token: str, reason: str
) -> None:
    for method in ("One", "Administer"):
        error = await refused(getattr(running.stub(token), method)(HELLO))
        assert type(error) is UnauthenticatedError
        assert reason in error.what
        assert "og in" in error.next_step

    assert running.echo.handled == []
    assert running.audit.records == []


@pytest.mark.parametrize("value", ["Basic abc", "Bearer", "Bearer ", "bearer", "token"])
async def test_other_kinds_of_authorization_are_no_token(running: Running, value: str) -> None:
    stub = running.stub("")

    error = await refused(stub.One(HELLO, metadata=(("authorization", value),)))

    assert type(error) is UnauthenticatedError


async def test_a_revoked_token_is_refused(running: Running) -> None:
    stub = running.stub()
    await stub.One(HELLO)
    running.verifier.revocations.add(Revocation(until=time.time() + 60, token_id="token-1"))

    error = await refused(stub.One(HELLO))

    assert type(error) is UnauthenticatedError
    assert running.echo.handled == ["One"]


async def test_before_the_keys_have_come_security_is_named(running: Running) -> None:
    running.verifier.update({"keys": []})

    error = await refused(running.stub().One(HELLO))

    assert type(error) is DependencyError
    assert error.which == "security"


async def test_a_role_that_may_not_is_refused_with_what_it_needs(running: Running) -> None:
    error = await refused(running.stub(RING.token(roles=["application"])).One(HELLO))

    assert type(error) is ForbiddenError
    assert "ada may not call" in error.what
    assert "role engineer" in error.what
    assert running.echo.handled == []


async def test_a_privileged_call_is_recorded_before_it_takes_effect(running: Running) -> None:
    seen: list[int] = []
    original = running.echo._begin

    def begin(method: str, open_: bool = False) -> None:
        seen.append(len(running.audit.records))
        original(method, open_)

    running.echo._begin = begin  # pyright: ignore[reportAttributeAccessIssue]
    await running.stub(RING.token(roles=["administrator"])).Administer(HELLO)

    assert seen == [1]
    assert running.audit.records == [("ada", "Administer", "permitted")]


async def test_a_privileged_call_that_is_refused_is_recorded_too(running: Running) -> None:
    error = await refused(running.stub().Administer(HELLO))

    assert type(error) is ForbiddenError
    assert running.audit.records == [("ada", "Administer", "refused")]
    assert running.echo.handled == []


async def test_with_the_audit_log_down_privileged_calls_are_refused(running: Running) -> None:
    running.audit.down = True

    error = await refused(running.stub(RING.token(roles=["administrator"])).Administer(HELLO))

    assert type(error) is DependencyError
    assert error.which == "audit"
    assert running.echo.handled == []
    assert await running.stub().One(HELLO) == HELLO, "Others go on."


async def test_the_tenant_is_the_tokens(running: Running) -> None:
    await running.stub(RING.token(tenant="beta")).One(HELLO, metadata=(("tenant", "acme"),))

    assert running.echo.callers == ["beta"]


async def test_calls_at_the_same_time_keep_their_callers_apart(running: Running) -> None:
    stubs = {tenant: running.stub(RING.token(tenant=tenant)) for tenant in ("acme", "beta")}

    await asyncio.gather(*(stubs[each].One(HELLO) for each in ["acme", "beta"] * 50))

    assert sorted(running.echo.callers) == ["acme"] * 50 + ["beta"] * 50


# The four kinds of call.


async def test_all_four_kinds_of_call_pass(running: Running) -> None:
    stub = running.stub()

    assert await stub.One(HELLO) == HELLO
    assert [answer.value async for answer in stub.Many(HELLO)] == list("hello")
    assert (await stub.Sum(said("a", "b"))).value == "ab"
    assert [answer.value async for answer in stub.Chat(said("a", "b"))] == ["A", "B"]


async def test_streams_also_pass_by_writing_and_reading(running: Running) -> None:
    chat = running.stub().Chat()
    for value in ("a", "b"):
        await chat.write(StringValue(value=value))
        assert (await chat.read()).value == value.upper()
    await chat.done_writing()
    assert await chat.read() is grpc.aio.EOF


async def test_all_four_kinds_of_call_are_guarded(running: Running) -> None:
    stub = running.stub("nonsense")

    for call in (
        stub.One(HELLO),
        anext(aiter(stub.Many(HELLO))),
        stub.Sum(said("a")),
        anext(aiter(stub.Chat(said("a")))),
    ):
        assert type(await refused(call)) is UnauthenticatedError
    assert running.echo.handled == []


async def test_an_error_in_the_middle_of_a_stream_arrives_after_what_came_before(
    running: Running,
) -> None:
    running.echo.error_at_the_end = NotFoundError("It ends here.")
    answers = aiter(running.stub().Many(HELLO))

    assert [(await anext(answers)).value for _ in "hello"] == list("hello")
    error = await refused(anext(answers))

    assert (type(error), error.what) == (NotFoundError, "It ends here.")


async def test_a_caller_that_leaves_a_stream_ends_its_handler(running: Running) -> None:
    running.echo.hangs = True
    call = running.stub().Many(HELLO)
    assert (await anext(aiter(call))).value == "h"

    call.cancel()

    await eventually(lambda: running.echo.ended == ["Many"])


# Health, reflection, start and stop.


async def test_health_answers_without_a_token_and_can_be_watched() -> None:
    async with running_echo() as running:
        channel = grpc.aio.insecure_channel(running.address)
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", NAME):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=NAME))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING

        stopping = asyncio.create_task(running.server.stop())

        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        await stopping
        await channel.close()


async def test_reflection_lists_the_services(running: Running) -> None:
    channel = grpc.aio.insecure_channel(running.address)
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)

    async def ask() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    answer = await anext(aiter(stub.ServerReflectionInfo(ask())))
    await channel.close()

    assert {NAME, "grpc.health.v1.Health"} <= {
        each.name for each in answer.list_services_response.service
    }


async def test_a_port_that_is_taken_is_named(running: Running) -> None:
    second = Server(running.address, running.server._guard, [], [])

    with pytest.raises(DependencyError, match="cannot be listened on") as refusal:
        await second.start()
    await second.stop()

    assert refusal.value.which == running.address
    assert "port" in refusal.value.next_step


async def test_stopping_lets_a_call_at_work_finish(running: Running) -> None:
    running.echo.go_on = asyncio.Event()
    calling = asyncio.ensure_future(running.stub().One(HELLO))
    await eventually(lambda: running.echo.handled == ["One"])

    stopping = asyncio.create_task(running.server.stop())
    error = await refused(running.stub().One(HELLO, timeout=1))
    running.echo.go_on.set()

    assert await calling == HELLO
    await stopping
    assert type(error) is DependencyError, "New calls are refused meanwhile."
    assert running.echo.handled == ["One"]


async def test_stopping_does_not_wait_for_a_call_that_hangs(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("libs.common.rpc.STOP_GRACE_S", 0.2)
    running.echo.hangs = True
    calling = asyncio.ensure_future(running.stub().One(HELLO))
    await eventually(lambda: running.echo.handled == ["One"])

    async with asyncio.timeout(5):
        await running.server.stop()

    assert await refused(calling)


# Mutual TLS.


async def test_services_prove_themselves_with_certificates(tmp_path: Path) -> None:
    folder = write_certificates(tmp_path / "tls", ["echo", "caller"])
    async with running_echo(lambda name: ServerTls(folder, name)) as running:
        assert await running.stub().One(HELLO) == HELLO

        strangers = write_certificates(tmp_path / "strangers", ["caller"])
        (strangers / "ca.pem").write_bytes((folder / "ca.pem").read_bytes())
        for stranger in (
            Peers({"echo": running.address}, tls=ServerTls(strangers, "caller")),
            Peers({"echo": running.address}),
        ):
            with pytest.raises(DependencyError), translated("echo"):
                await stranger.stub(EchoStub, "echo").Open(HELLO, timeout=5)
            await stranger.stop()
    assert running.echo.handled == ["One"]


async def test_a_server_of_another_authority_is_not_trusted(tmp_path: Path) -> None:
    folder = write_certificates(tmp_path / "tls", ["echo", "caller"])
    other = write_certificates(tmp_path / "other", ["caller"])
    async with running_echo(lambda name: ServerTls(folder, name)) as running:
        peers = Peers({"echo": running.address}, tls=ServerTls(other, "caller"))
        with pytest.raises(DependencyError), translated("echo"):
            await peers.stub(EchoStub, "echo").Open(HELLO, timeout=5)
        await peers.stop()


async def test_certificates_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(PreconditionError, match="No such file") as refusal:
        async with running_echo(lambda name: ServerTls(tmp_path, name)):
            pass

    assert refusal.value.which == str(tmp_path / "echo.key")
    assert "BASALT_TLS" in refusal.value.next_step


# One trace.


@pytest.mark.parametrize("method", ["One", "Many"])
async def test_caller_and_service_are_one_trace(
    running: Running, spans: Spans, method: str
) -> None:
    with telemetry.span("story"):
        call = getattr(running.stub(), method)(HELLO)
        if method == "One":
            await call
        else:
            assert [answer.value async for answer in call] == list("hello")

    await eventually(lambda: len(spans.named(f"{NAME}/{method}")) == 2)
    (story,) = spans.named("story")
    by_kind = {span.kind.name: span for span in spans.named(f"{NAME}/{method}")}
    client, server = by_kind["CLIENT"], by_kind["SERVER"]
    assert story.context
    assert client.parent
    assert client.context
    assert server.parent
    assert client.parent.span_id == story.context.span_id
    assert server.parent.span_id == client.context.span_id
    assert spans.trace_ids() == {story.context.trace_id}
    assert (server.attributes or {})[telemetry.TENANT] == "acme"
    assert (client.attributes or {})["peer.service"] == "echo"


async def test_spans_tell_errors(running: Running, spans: Spans) -> None:
    running.echo.error = InvalidInputError("No.")

    await refused(running.stub().One(HELLO))

    await eventually(lambda: len(spans.named(f"{NAME}/One")) == 2)
    assert {span.status.description for span in spans.named(f"{NAME}/One")} == {"INVALID_ARGUMENT"}


async def test_a_traceparent_that_is_none_begins_a_trace(running: Running, spans: Spans) -> None:
    async with grpc.aio.insecure_channel(running.address) as channel:
        await EchoStub(channel).Open(HELLO, metadata=(("traceparent", "00-nonsense"),))

    await eventually(lambda: spans.named(f"{NAME}/Open"))
    (span,) = spans.named(f"{NAME}/Open")
    assert span.parent is None


async def test_a_call_has_the_address_that_the_door_says_or_else_its_own(running: Running) -> None:
    stub = running.stub()
    for told in ("203.0.113.9", "2001:db8::1", "f" * 1_000):
        await stub.One(HELLO, metadata=(("x-basalt-address", told),))
    await stub.One(HELLO)
    await stub.Open(HELLO)

    assert running.echo.addresses[:2] == ["203.0.113.9", "2001:db8::1"]
    assert len(running.echo.addresses[2]) <= 64
    assert running.echo.addresses[3:] == ["127.0.0.1"] * 2
