"""Logging in and out: what is kept, what is refused, and which token was meant."""

import os
from pathlib import Path

import grpc

from basalt.pb.basalt.v1 import inference_pb2, security_pb2
from libs.common.errors import LimitError, UnauthenticatedError
from tests.support.answering import Answering, RefusalError
from tests.support.certificates import write_certificates
from tests.support.terminal import failed, piped

LIST = "basalt.v1.ModelService/ListModels"
LOGIN = "basalt.v1.IdentityService/Login"
LOGOUT = "basalt.v1.IdentityService/Logout"
WHO = ("--tenant", "acme", "--name", "ann")


def logged_in(request: security_pb2.LoginRequest, _: object) -> security_pb2.LoginResponse:
    if request.password != "right":
        raise UnauthenticatedError("The name or the password is wrong.", next_step="Check both.")
    answer = security_pb2.LoginResponse(token="the-token")
    answer.expires_at.FromSeconds(4_000_000_000)
    answer.login_ends_at.FromSeconds(4_000_040_000)
    return answer


def test_login_is_kept_for_the_next_command(server: Answering) -> None:
    server.handlers |= {LOGIN: logged_in, LIST: lambda *_: inference_pb2.ListModelsResponse()}
    shown = piped("login", *WHO, "--endpoint", server.address, BASALT_PASSWORD="right")
    assert shown.status == 0
    assert "ann of acme is logged in until" in shown.output
    assert "right" not in shown.output
    nothing = {"BASALT_ENDPOINT": "", "BASALT_TOKEN": ""}
    assert piped("model", "list", **nothing).status == 0
    assert server.calls[-1].metadata["authorization"] == "Bearer the-token"
    said = failed("model", "list", BASALT_ENDPOINT="127.0.0.1:1", BASALT_TOKEN="")
    assert f"You are logged in at {server.address}, not at 127.0.0.1:1." in said


def test_wrong_password(server: Answering) -> None:
    server.handlers[LOGIN] = logged_in
    said = failed("login", *WHO, "--password", "wrong")
    assert said == "Error: The name or the password is wrong.\nNext: Check both.\n"
    assert not Path(os.environ["BASALT_SESSION"]).exists()


def test_too_many_wrong_passwords_are_said_at_once(server: Answering) -> None:
    def refuse(*_: object) -> None:
        raise LimitError("10 wrong passwords within 300 s.", next_step="Try again in 290 s.")

    server.handlers[LOGIN] = refuse
    assert "Try again in 290 s." in failed("login", *WHO, "--password", "x")
    assert len(server.calls) == 1


def test_login_that_cannot_be_kept(server: Answering, tmp_path: Path) -> None:
    server.handlers[LOGIN] = logged_in
    (tmp_path / "file").write_text("")
    target = tmp_path / "file" / "session.json"
    said = failed("login", *WHO, "--password", "right", BASALT_SESSION=str(target))
    assert f"The login holds, but cannot be kept in {target}: File exists." in said
    assert "BASALT_SESSION" in said


def test_expired_login(server: Answering) -> None:
    def expired(*_: object) -> security_pb2.LoginResponse:
        answer = security_pb2.LoginResponse(token="old")
        answer.expires_at.FromSeconds(1_000)
        return answer

    def refuse(*_: object) -> None:
        raise UnauthenticatedError("The token has expired.", next_step="Log in again.")

    server.handlers |= {LOGIN: expired, LIST: refuse}
    assert piped("login", *WHO, "--password", "right").status == 0
    assert failed("model", "list", BASALT_TOKEN="") == (
        "Error: The login of ann has expired.\nNext: Run `basalt login` again.\n"
    )


def test_token_of_the_environment_that_is_refused(server: Answering) -> None:
    def refuse(*_: object) -> None:
        raise RefusalError(grpc.StatusCode.UNAUTHENTICATED, "Jwt is expired. Log in and send it.")

    server.handlers |= {LOGIN: logged_in, LIST: refuse}
    # Not even somebody who is logged in is left to guess which of the two was refused.
    assert piped("login", *WHO, "--password", "right").status == 0
    assert failed("model", "list", BASALT_TOKEN="old") == (
        "Error: The token in BASALT_TOKEN is refused: Jwt is expired.\n"
        "Next: Unset BASALT_TOKEN and run `basalt login`, or set it to a token that holds.\n"
    )


def test_logout_ends_the_login_whatever_the_environment_says(server: Answering) -> None:
    server.handlers |= {LOGIN: logged_in, LOGOUT: lambda *_: security_pb2.LogoutResponse()}
    assert piped("login", *WHO, "--password", "right").status == 0
    assert piped("logout", BASALT_TOKEN="another").status == 0
    assert server.calls[-1].metadata["authorization"] == "Bearer the-token"


def test_door_without_tls_is_told_at_once_and_without_the_log_of_grpc(
    server: Answering, tmp_path: Path
) -> None:
    door = write_certificates(tmp_path / "door", ["door"])
    said = failed("login", *WHO, "--password", "right", "--tls-ca", str(door / "ca.pem"))
    assert said == (
        f"Error: What answers at {server.address} does not seem to speak TLS.\n"
        "Next: Leave out --tls-ca and BASALT_TLS_CA for a door without TLS, or correct the"
        " address.\n"
    )


def test_token_of_the_environment_that_is_none(server: Answering) -> None:
    assert failed("model", "list", BASALT_TOKEN="t\nx") == (
        "Error: The token in BASALT_TOKEN has the character '\\n', which no token has.\n"
        "Next: Give it as it was issued: one word, without blanks or a line's end.\n"
    )
    assert server.calls == []
