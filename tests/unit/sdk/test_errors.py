"""A failed call says what, which and what next, whoever worded it."""

from pathlib import Path

import grpc
import pytest

import basalt
from basalt.errors import BasaltError, ClosedError, InvalidInputError, UnreachableError
from basalt.pb.basalt.v1 import inference_pb2 as pb
from libs.common import errors as platform
from tests.support.answering import RefusalError, answering
from tests.support.certificates import write_certificates
from tools.servers.ports import free_ports

METHOD = "basalt.v1.ModelService/ListModels"


def failure(raised: Exception, timeout_s: float = 0.3) -> BasaltError:
    """What the client makes of what a server answers."""

    def refuse(request: object, metadata: object) -> None:
        raise raised

    with (
        answering({METHOD: refuse}) as server,
        basalt.connect(server.address, token="t", timeout_s=timeout_s) as client,
        pytest.raises(BasaltError) as caught,
    ):
        client.call(client.models.ListModels, pb.ListModelsRequest())
    return caught.value


@pytest.mark.parametrize("kind", platform.BY_CODE.values())
def test_error_of_the_platform_arrives_whole(kind: type[platform.BasaltError]) -> None:
    sent = kind("It is so. Really.", which="the-thing", next_step="Do this: `that`.")
    got = failure(sent)
    assert (got.code, got.which) == (sent.code, "the-thing")
    assert (got.what, got.next_step) == ("It is so. Really.", "Do this: `that`.")
    assert got.retryable == sent.retryable
    assert str(got) == str(sent)


def test_error_without_a_next_step_arrives_as_it_is() -> None:
    got = failure(platform.NotFoundError("There is no such model.", which="model"))
    assert (got.what, got.next_step) == ("There is no such model.", "")


@pytest.mark.parametrize(
    ("code", "retryable"),
    [
        (grpc.StatusCode.UNAVAILABLE, True),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, True),
        (grpc.StatusCode.ABORTED, True),
        (grpc.StatusCode.UNAUTHENTICATED, False),
        (grpc.StatusCode.INTERNAL, False),
        (grpc.StatusCode.UNIMPLEMENTED, False),
    ],
)
def test_bare_status_keeps_its_text(code: grpc.StatusCode, retryable: bool) -> None:
    got = failure(RefusalError(code, "upstream connect error or disconnect/reset before headers"))
    assert got.code == code.name
    assert got.what == "upstream connect error or disconnect/reset before headers"
    assert got.retryable == retryable
    assert not isinstance(got, UnreachableError)


def test_status_without_words_says_at_least_its_name() -> None:
    got = failure(RefusalError(grpc.StatusCode.OUT_OF_RANGE, ""))
    assert got.what == "The call ended as OUT_OF_RANGE."


def test_message_that_is_too_large_is_not_tried_again() -> None:
    text = "SERVER: Received message larger than max (70000000 vs. 67108864)"
    got = failure(RefusalError(grpc.StatusCode.RESOURCE_EXHAUSTED, text), timeout_s=30)
    assert isinstance(got, InvalidInputError)
    assert "67108864" in got.what
    assert got.next_step == "Send less at a time."


def list_models(address: str, tls_ca: Path | None = None, timeout_s: float = 0.3) -> None:
    with basalt.connect(address, token="t", timeout_s=timeout_s, tls_ca=tls_ca) as client:
        client.call(client.models.ListModels, pb.ListModelsRequest())


def test_nobody_at_the_address() -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(UnreachableError) as raised:
        list_models(address)
    assert raised.value.what == f"The platform at {address} cannot be reached."
    assert "basalt up" in raised.value.next_step
    assert (raised.value.code, raised.value.which) == ("UNAVAILABLE", address)


def test_no_such_host() -> None:
    with pytest.raises(UnreachableError, match=r"There is no host 'nowhere\.invalid'"):
        list_models("nowhere.invalid:7080", timeout_s=5)


def test_door_whose_certificate_is_not_from_the_authority(tmp_path: Path) -> None:
    door = write_certificates(tmp_path / "door", ["door"])
    other = write_certificates(tmp_path / "other", ["door"])
    with answering({METHOD: lambda *_: pb.ListModelsResponse()}, tls=door) as server:
        list_models(server.address, tls_ca=door / "ca.pem", timeout_s=5)
        with pytest.raises(UnreachableError, match="does not prove") as raised:
            list_models(server.address, tls_ca=other / "ca.pem", timeout_s=5)
    assert "BASALT_TLS_CA" in raised.value.next_step


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:7080", "127.0.0.1", "host:", ":7080", "host:port", "a/b:1"]
)
def test_what_is_no_address_is_refused_before_anything_is_sent(address: str) -> None:
    with pytest.raises(InvalidInputError, match="no address of a platform") as raised:
        basalt.connect(address)
    assert "host:port" in raised.value.next_step


def test_certificate_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="cannot be read: No such file"):
        basalt.connect("127.0.0.1:7080", tls_ca=tmp_path / "none.pem")


@pytest.mark.parametrize("content", ["", "hello\n", "é"])
def test_authority_that_is_no_certificate(tmp_path: Path, content: str) -> None:
    (tmp_path / "ca.pem").write_text(content)
    with pytest.raises(InvalidInputError, match=r"ca\.pem is empty or not in PEM\.") as raised:
        basalt.connect("127.0.0.1:7080", tls_ca=tmp_path / "ca.pem")
    assert "PEM file of the authority" in raised.value.next_step


def test_door_without_tls_is_not_tried_again(tmp_path: Path) -> None:
    door = write_certificates(tmp_path, ["door"])
    with (
        answering({METHOD: lambda *_: pb.ListModelsResponse()}) as server,
        pytest.raises(BasaltError, match="does not seem to speak TLS") as raised,
    ):
        list_models(server.address, tls_ca=door / "ca.pem", timeout_s=30)
    assert not raised.value.retryable
    assert "--tls-ca" in raised.value.next_step


@pytest.mark.parametrize(
    ("token", "shown"), [("ab\n", r"'\\n'"), ("a b", "' '"), ("é", r"'\\xe9'")]
)
def test_token_with_a_character_that_no_token_has(
    monkeypatch: pytest.MonkeyPatch, token: str, shown: str
) -> None:
    with pytest.raises(InvalidInputError, match=f"in token has the character {shown}"):
        basalt.connect("127.0.0.1:7080", token=token)
    monkeypatch.setenv("BASALT_TOKEN", token)
    with pytest.raises(InvalidInputError, match="in BASALT_TOKEN has") as raised:
        basalt.connect("127.0.0.1:7080")
    assert raised.value.which == "BASALT_TOKEN"


def test_closed_client_says_so() -> None:
    assert str(ClosedError()).startswith("This client is closed.")
