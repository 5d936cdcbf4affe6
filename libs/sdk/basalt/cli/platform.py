"""`up`, `down`, `status`: the platform itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from basalt import session
from basalt.cli import local
from basalt.cli.client import platform
from basalt.cli.output import (
    Json,
    as_json,
    complain,
    done,
    question_open,
    require_terminal,
    say,
    table,
    told,
    when,
    word,
)
from basalt.errors import BasaltError
from basalt.pb.basalt.v1 import common_pb2, health_pb2, monitoring_pb2

if TYPE_CHECKING:
    from tools.servers.errors import ServerError

Home = Annotated[
    Path | None,
    typer.Option("--home", help="The installation's folder.", envvar="BASALT_HOME"),
]
Port = Annotated[int | None, typer.Option(help="The door's port.", min=1, max=65_535)]
KafkaPort = Annotated[int | None, typer.Option(help="Kafka's port.", min=1, max=65_535)]
MARKS = {
    health_pb2.HEALTH_STATE_SERVING: Text("●", style="green"),
    health_pb2.HEALTH_STATE_DEGRADED: Text("●", style="yellow"),
    health_pb2.HEALTH_STATE_NOT_SERVING: Text("●", style="red"),
}
HISTORY_EVENTS_MAX = 100
START = "Start it with `basalt up`, or give the address of another in BASALT_ENDPOINT."
LOOK = "What is wrong stands above. While `basalt up` runs it brings back what died; try again."
# With these the platform itself cannot say what is wrong with it.
SILENT = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "UNAUTHENTICATED")


def add_to(app: typer.Typer) -> None:
    app.command()(up)
    app.command()(down)
    app.command()(status)


def up(
    home: Home = None, port: Port = None, kafka_port: KafkaPort = None, json: Json = False
) -> None:
    """Run the platform on this machine until Ctrl-C: Kafka, Triton, Envoy and six services.

    With --json one line is printed when it is ready.

    Example: basalt up --port 7080
    """
    try:
        from standalone.up import run
        from tools.servers.errors import ServerError
    except ImportError as error:
        raise _not_installed(error, "Clone the repository and run `make up` there.") from error
    try:
        ended = run(home, door_port=port, kafka_port=kafka_port, as_program=json)
    except ServerError as error:
        raise _server(error) from error
    raise typer.Exit(ended)


def down(
    home: Home = None,
    purge: Annotated[
        bool, typer.Option("--purge", help="Remove everything it ever stored, for good.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Stop the platform that runs on this machine.

    Example: basalt down --purge
    """
    try:
        from standalone.down import stop
        from tools.servers.errors import ServerError
    except ImportError as error:
        raise _not_installed(error, "Run this where `basalt up` was run.") from error
    if purge and not yes:
        require_terminal(
            "Whether to remove everything is asked",
            "--purge",
            "Add --yes to remove all data, models, keys and the audit log for good.",
        )
        with question_open():
            typer.confirm("Remove all data, models, keys and the audit log for good?", abort=True)
    try:
        ended = stop(home, purge=purge)
    except ServerError as error:
        raise _server(error) from error
    told(ended.as_dict(), json, str(ended))


def _server(error: ServerError) -> BasaltError:
    about = "" if error.which == "basalt" else f"{error.which}: "
    what, next_step = f"{about}{error.what}", error.next_step
    return BasaltError(
        f"{what[:1].upper()}{what[1:]}.",
        code="UNAVAILABLE",
        which=error.which,
        next_step=f"{next_step[:1].upper()}{next_step[1:]}.",
    )


def _not_installed(error: ImportError, next_step: str) -> BasaltError:
    missing = (error.name or "").partition(".")[0]
    if missing in ("standalone", "libs", "services", "tools"):
        what = "The platform is not installed here; only its client is."
    else:
        what = f"The platform is here, but not all that it needs: {missing} is not installed."
        next_step = "Run `make setup` in the repository."
    return BasaltError(what, code="FAILED_PRECONDITION", which=missing, next_step=next_step)


def status(
    history: Annotated[
        bool, typer.Option("--history", help="What happened: faults, and what mended them.")
    ] = False,
    json: Json = False,
) -> None:
    """Show every service and dependency, the wrong ones first.

    Exits 1 when something is wrong. Without a login it is seen from outside only.
    On the platform's own machine its history can be read also while it is down.

    Example: basalt status --history
    """
    if history:
        _history(json)
        return
    try:
        with platform() as client:
            health = client.call(
                client.monitoring.GetPlatformHealth, monitoring_pb2.GetPlatformHealthRequest()
            )
    except BasaltError as error:
        if error.code not in SILENT:
            raise
        _outside(error, json)
        return
    _show(health, json)
    if health.state != health_pb2.HEALTH_STATE_SERVING:
        if not json:
            complain(
                "Not everything serves.",
                f"See what is wrong above; logs: {session.installation() / 'logs'}.",
            )
        raise typer.Exit(1)
    if not json:
        done("Everything serves.")


def _history(json: bool) -> None:
    try:
        with platform() as client:
            answer = client.call(
                client.monitoring.ListPlatformEvents,
                monitoring_pb2.ListPlatformEventsRequest(
                    page=common_pb2.PageRequest(size=HISTORY_EVENTS_MAX)
                ),
            )
        events = list(answer.events)
    except BasaltError as error:
        events = local.happened(HISTORY_EVENTS_MAX) if error.code in SILENT else []
        if not events:
            raise
    if json:
        as_json(events)
        return
    if not events:
        done("Nothing happened so far.")
        return
    table(
        "What happened",
        ("at", "component", "what", "details", "mended by", "after"),
        (
            (
                when(each.at),
                each.component,
                each.kind,
                each.detail,
                each.mended_by,
                f"{each.took_s:.1f} s" if each.took_s else "",
            )
            for each in events
        ),
    )


def _outside(error: BasaltError, json: bool) -> None:
    """What shows without the platform's own word. Raises BasaltError when that is not all well."""
    stranger = error.code == "UNAUTHENTICATED"
    seen = local.seen_from_outside(session.target().endpoint, "" if stranger else error.what)
    _show(seen, json)
    if seen.state != health_pb2.HEALTH_STATE_SERVING:
        raise _first_of_all(error, seen) from error
    if not json:
        done("All that shows from outside serves.")
        say(f"Details need a login. {error}")


def _first_of_all(
    error: BasaltError, seen: monitoring_pb2.GetPlatformHealthResponse
) -> BasaltError:
    """Why the platform could not tell: before anybody logs in, somebody has to be there."""
    problems = {each.component: each.problem for each in seen.components}
    if problems["door"]:
        runs_here = problems.get(local.UP) == ""
        return BasaltError(
            problems["door"], code="UNAVAILABLE", next_step=LOOK if runs_here else START
        )
    if error.code == "UNAUTHENTICATED":
        return BasaltError("Not everything serves.", code="UNAVAILABLE", next_step=LOOK)
    return BasaltError(error.what, code=error.code, which=error.which, next_step=LOOK)


def _show(health: monitoring_pb2.GetPlatformHealthResponse, json: bool) -> None:
    if json:
        as_json(health)
        return
    table(
        "Basalt",
        ("", "component", "state", "reported by", "what is wrong"),
        (
            (
                MARKS.get(each.state, ""),
                each.component,
                word(health_pb2.HealthState, each.state),
                each.reported_by,
                each.problem,
            )
            for each in health.components
        ),
    )
    if all(each.reported_by == local.OUTSIDE for each in health.components):
        say("Seen from outside; the services themselves were not asked.")
