"""`basalt status` of a platform that does not tell: what it shows, says and exits with agree."""

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from basalt.cli import local
from basalt.pb.basalt.v1 import health_pb2, monitoring_pb2
from libs.common.history import Happening, HistoryFile
from tests.support.answering import Answering, RefusalError, answering
from tests.support.terminal import piped
from tools.servers.ports import free_ports

HEALTH = "basalt.v1.MonitoringService/GetPlatformHealth"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Answering]:
    def refuse(*_: object) -> None:
        raise RefusalError(grpc.StatusCode.UNAUTHENTICATED, "Jwt is expired. Log in and send it.")

    with answering({HEALTH: refuse}) as started:
        monkeypatch.setenv("BASALT_ENDPOINT", started.address)
        yield started


@pytest.mark.parametrize(
    ("token", "why"),
    [
        ("", "You are not logged in. Run `basalt login`."),
        ("old", "The token in BASALT_TOKEN is refused: Jwt is expired. Unset BASALT_TOKEN"),
    ],
)
def test_stranger_learns_what_shows_and_that_details_need_a_login(
    server: Answering, token: str, why: str
) -> None:
    shown = piped("status", BASALT_TOKEN=token)
    assert (shown.status, shown.complaint) == (0, "")
    assert "All that shows from outside serves." in shown.output
    assert f"Details need a login. {why}" in shown.output
    told = piped("status", "--json", BASALT_TOKEN=token)
    assert (told.status, told.complaint) == (0, "")
    assert json.loads(told.output)["state"] == "HEALTH_STATE_SERVING"


def test_stranger_learns_that_nobody_answers() -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    told = piped("status", "--json", BASALT_ENDPOINT=address)
    assert told.status == 1
    assert json.loads(told.output)["state"] == "HEALTH_STATE_NOT_SERVING"
    assert f"Nobody answers at {address}" in told.complaint
    assert "Next: Start it with `basalt up`" in told.complaint


def test_monitoring_that_is_silent_is_what_is_wrong_when_nothing_else_is(server: Answering) -> None:
    seen = local.seen_from_outside(server.address, "It did not answer in time.")
    assert seen.state == health_pb2.HEALTH_STATE_NOT_SERVING
    assert [(each.component, each.problem) for each in seen.components] == [
        ("monitoring", "It did not answer in time."),
        ("door", ""),
    ]


def test_logs_are_where_it_says(server: Answering) -> None:
    down = monitoring_pb2.GetPlatformHealthResponse(state=health_pb2.HEALTH_STATE_NOT_SERVING)
    server.handlers[HEALTH] = lambda *_: down
    shown = piped("status", BASALT_TOKEN="t")
    assert shown.status == 1
    assert f"logs: {os.environ['BASALT_HOME']}/logs.\n" in shown.complaint


EVENTS = "basalt.v1.MonitoringService/ListPlatformEvents"


def test_history_is_what_monitoring_tells(server: Answering) -> None:
    event = monitoring_pb2.PlatformEvent(
        component="kafka", kind="restarted", mended_by="supervisor", took_s=4.25
    )
    event.at.GetCurrentTime()
    answer = monitoring_pb2.ListPlatformEventsResponse(events=[event])
    server.handlers[EVENTS] = lambda *_: answer
    shown = piped("status", "--history", BASALT_TOKEN="t")
    assert shown.status == 0, shown
    for part in ("kafka", "restarted", "supervisor", "4.2 s"):
        assert part in shown.output
    (told,) = json.loads(piped("status", "--history", "--json", BASALT_TOKEN="t").output)
    assert (told["component"], told["took_s"]) == ("kafka", 4.25)


def test_history_is_read_from_the_disk_while_nothing_runs(tmp_path: Path) -> None:
    down = {"BASALT_ENDPOINT": f"127.0.0.1:{free_ports(1)[0]}", "BASALT_HOME": str(tmp_path)}
    assert piped("status", "--history", BASALT_TOKEN="t", **down).status == 1
    file = HistoryFile(tmp_path / "history", "supervisor")
    file.note(Happening(datetime.now(UTC), "triton", "silent", "It was stopped (SIGSTOP)."))
    shown = piped("status", "--history", BASALT_TOKEN="t", **down)
    assert shown.status == 0, shown
    assert "triton" in shown.output
    assert "SIGSTOP" in shown.output
