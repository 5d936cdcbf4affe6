"""Every command has an example that works and speaks JSON; every failure says what to do."""

import asyncio
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from basalt.cli import app
from basalt.pb.basalt.v1 import (
    inference_pb2,
    ingest_pb2,
    monitoring_pb2,
    security_pb2,
    trainer_pb2,
)
from libs.common.errors import (
    DependencyError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
)
from tests.support.answering import Answering, answering
from tests.support.terminal import COMMAND, environment, failed, piped
from tools.servers.ports import free_ports

LIST = "basalt.v1.ModelService/ListModels"
APPROVE = "basalt.v1.ModelService/ApproveModelVersion"
REPLAY = "basalt.v1.IngestService/ReplayQuarantined"
REPLAY_LETTER = "basalt.v1.MonitoringService/ReplayDeadLetter"
UPLOAD = "basalt.v1.IngestService/UploadFile"
PUT_PIPELINE = "basalt.v1.TrainerService/PutPipeline"
PUT_SOURCE = "basalt.v1.IngestService/PutSource"
LOG = "basalt.v1.TrainerService/FollowJobLog"
RUN = "basalt.v1.TrainerService/RunPipeline"
GET_JOB = "basalt.v1.TrainerService/GetJob"
WATCH = "basalt.v1.TrainerService/WatchJob"
EXPORT = "basalt.v1.AuditService/ExportAudit"
# What is promised; each is a command, or a group of them.
PROMISED = (
    *("up", "down", "status", "login", "source", "data", "train", "model", "deploy", "predict"),
    *("monitor", "history", "trace", "audit", "quarantine", "deadletter"),
)


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


# A blank at either end is typer's.
HELP_COLUMNS = 78
ROOT = typer.main.get_command(app)
COMMANDS = dict(commands(ROOT))


def test_everything_promised_is_there() -> None:
    assert {path[0] for path in COMMANDS} >= set(PROMISED)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_command_shows_an_example_that_it_understands(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    summary, _, example = command.help.partition("Example: ")
    assert summary.strip().endswith(".")
    # Only the first paragraph is set anew for the terminal; what follows keeps its lines.
    lines = command.help.partition("\n\n")[2].splitlines()
    assert max(map(len, lines)) <= HELP_COLUMNS
    words = shlex.split(example)
    assert tuple(words[: len(path) + 1]) == ("basalt", *path)
    command.make_context(path[-1], words[len(path) + 1 :], resilient_parsing=False)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_command_speaks_json_and_explains_its_options(path: tuple[str, ...]) -> None:
    options = {name: each for each in COMMANDS[path].params for name in each.opts}
    assert "--json" in options
    for name, option in options.items():
        if name.startswith("--"):
            assert option.help, name


@pytest.mark.parametrize("path", [(), *{path[:-1] for path in COMMANDS if len(path) > 1}])
def test_help_is_shown_for_every_group(path: tuple[str, ...]) -> None:
    shown = piped(*path, "--help")
    assert shown.status == 0
    assert "Usage:" in shown.output
    assert "\x1b" not in shown.output


def test_help_of_a_command_shows_its_example() -> None:
    assert "Example: basalt model show tumour" in piped("model", "show", "--help").output


def test_version() -> None:
    assert piped("--version").output == "basalt 0.1.0\n"


@pytest.mark.parametrize(
    "arguments",
    [("nonsense",), ("model", "nonsense"), ("model", "show"), ("model", "list", "--nonsense")],
)
def test_wrong_use_is_2_and_shows_the_usage(arguments: tuple[str, ...]) -> None:
    assert "Usage: " in failed(*arguments, status=2)


def test_number_that_is_none_is_wrong_use() -> None:
    assert "'--limit'" in failed("model", "list", "--limit", "many", status=2)
    assert "is no time" in failed("history", "--at", "yesterday", status=2, BASALT_TOKEN="t")


def test_nobody_is_logged_in() -> None:
    assert failed("model", "list") == ("Error: You are not logged in.\nNext: Run `basalt login`.\n")


def test_nobody_answers() -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    assert failed("model", "list", BASALT_ENDPOINT=address, BASALT_TOKEN="t") == (
        f"Error: The platform at {address} cannot be reached.\n"
        "Next: Start it with `basalt up`, or give its address in BASALT_ENDPOINT.\n"
    )


def test_address_that_is_none() -> None:
    said = failed("model", "list", BASALT_ENDPOINT="http://127.0.0.1", BASALT_TOKEN="t")
    assert "Write host:port" in said


def test_platform_that_is_starting_here_is_waited_for(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    home = tmp_path / "home"
    home.mkdir()
    # As `basalt up` does: whoever holds the lock is running the installation.
    with (
        (home / "basalt.pid").open("w") as lock,
        subprocess.Popen(
            [*COMMAND, "model", "list"],
            env=environment({"BASALT_ENDPOINT": f"127.0.0.1:{port}", "BASALT_TOKEN": "t"}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as command,
    ):
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(subprocess.TimeoutExpired):
            # Longer than anybody is waited for who is not starting.
            command.wait(6)
        handlers = {LIST: lambda *_: inference_pb2.ListModelsResponse()}
        with answering(handlers, listen=f"127.0.0.1:{port}"):
            output, complaint = command.communicate(timeout=60)
    assert (command.returncode, output, complaint) == (0, "Models: none.\n", "")


@pytest.mark.parametrize(
    "error",
    [
        NotFoundError("There is no [bold]model[/].", next_step="See `basalt model list`."),
        ForbiddenError("ann may not.", next_step="Ask for the role."),
        InvalidInputError("Line 3: columns is no list.", next_step="Correct it."),
    ],
)
def test_error_of_the_platform_is_shown_as_it_is(server: Answering, error: Any) -> None:
    def refuse(*_: object) -> None:
        raise error

    server.handlers[LIST] = refuse
    said = failed("model", "list")
    assert said == f"Error: {error.what}\nNext: {error.next_step}\n"
    assert failed("model", "list", "--json") == said


def test_service_that_is_down_is_named_in_the_end(server: Answering) -> None:
    def refuse(*_: object) -> None:
        raise DependencyError("Kafka cannot be reached.", which="kafka", next_step="Wait.")

    server.handlers[LIST] = refuse
    assert failed("model", "list") == "Error: Kafka cannot be reached.\nNext: Wait.\n"
    assert len(server.calls) > 3


def test_control_characters_of_an_error_do_not_reach_the_terminal(server: Answering) -> None:
    def refuse(*_: object) -> None:
        raise NotFoundError("There is no \x1b]0;owned\x07model\x9b2J.")

    server.handlers[LIST] = refuse
    assert failed("model", "list") == ("Error: There is no \\x1b]0;owned\\x07model\\x9b2J.\n")


def test_what_was_settled_before_is_not_claimed_again(server: Answering) -> None:
    review = inference_pb2.Review(reviewer="bob", approved=True)
    review.at.FromSeconds(1_770_000_000)
    version = inference_pb2.ModelVersion(model="tumour", version=2, reviews=[review])
    server.handlers |= {
        APPROVE: lambda *_: inference_pb2.ApproveModelVersionResponse(
            version=version, already_approved=True
        ),
        REPLAY: lambda *_: ingest_pb2.ReplayQuarantinedResponse(already_replayed=True),
        REPLAY_LETTER: lambda *_: monitoring_pb2.ReplayDeadLetterResponse(already_replayed=True),
    }
    assert piped("model", "approve", "tumour", "2", "--comment", "fine", TZ="UTC").output == (
        "✓ tumour version 2 was approved already by bob at 2026-02-02 02:40:00; this comment was"
        " not recorded.\n"
    )
    for what in ("quarantine", "deadletter"):
        assert "before; nothing was done now." in piped(what, "replay", "r1").output


def test_file_that_the_platform_refuses_is_named(server: Answering, tmp_path: Path) -> None:
    async def refuse(*_: object) -> None:
        raise InvalidInputError("The file has no rows.", which="file", next_step="Look at it.")

    server.handlers[UPLOAD] = refuse
    empty = tmp_path / "patients.csv"
    empty.touch()
    assert failed("data", "upload", "patients", str(empty)) == (
        f"Error: {empty}: The file has no rows.\nNext: Look at it.\n"
    )


def test_pipeline_before_its_data_is_taken_with_a_note(server: Answering, tmp_path: Path) -> None:
    pipeline = trainer_pb2.Pipeline(name="p", dataset="d", model="m", revision=1, warning="Later.")
    server.handlers[PUT_PIPELINE] = lambda *_: trainer_pb2.PutPipelineResponse(pipeline=pipeline)
    definition = tmp_path / "p.yaml"
    definition.touch()
    shown = piped("train", "put", str(definition))
    assert (shown.status, shown.output) == (0, "✓ Revision 1 of p: d → m.\nNote: Later.\n")


def test_files_that_cannot_be_read(server: Answering, tmp_path: Path) -> None:
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    missing = tmp_path / "missing.yaml"
    for command in (("source", "put", "patients"), ("train", "put"), ("audit", "verify")):
        assert failed(*command, str(missing)) == (
            f"Error: {missing}: No such file or directory.\n"
            "Next: Correct the path, or make what is missing.\n"
        )
        assert failed(*command, str(tmp_path)) == (
            f"Error: {tmp_path}: Is a directory.\nNext: Name a file in it.\n"
        )
        assert f"{binary} is no text in UTF-8." in failed(*command, str(binary))
    assert "no known format" in failed("data", "upload", "patients", str(binary))
    assert server.calls == []


def test_bad_yaml_is_refused_by_the_platform_and_shown(server: Answering, tmp_path: Path) -> None:
    def refuse(request: ingest_pb2.PutSourceRequest, _: object) -> None:
        raise InvalidInputError(
            f"The contract is no YAML: line 1 of {request.contract_yaml!r}.", next_step="Mend it."
        )

    server.handlers[PUT_SOURCE] = refuse
    contract = tmp_path / "contract.yaml"
    contract.write_text("columns: [")
    said = failed("source", "put", "patients", str(contract))
    assert "The contract is no YAML: line 1 of 'columns: ['." in said


def test_export_that_is_none(tmp_path: Path) -> None:
    export = tmp_path / "audit.jsonl"
    export.write_text('{"sequence": 1, "tenant": "acme"}\nnonsense\n')
    assert f"Line 2 of {export} is no audit record" in failed("audit", "verify", str(export))
    export.write_text("")
    assert failed("audit", "verify", str(export)) == (
        f"Error: {export} is empty: there is no record to verify.\n"
        "Next: Give a file that `basalt audit export` wrote.\n"
    )
    export.write_text('{"sequence": "1", "tenant": "acme", "hash": "00"}\n')
    assert "Record 1: its content is not what its hash says." in failed(
        "audit", "verify", str(export)
    )


def test_file_that_cannot_be_written(server: Answering, tmp_path: Path) -> None:
    async def chain(*_: object) -> AsyncIterator[security_pb2.ExportAuditResponse]:
        yield security_pb2.ExportAuditResponse()

    server.handlers[EXPORT] = chain
    target = tmp_path / "none" / "audit.jsonl"
    assert f"{target}: No such file or directory." in failed("audit", "export", str(target))


STAYS = (
    "Ctrl-C ends the watching, not the job j1.\n"
    "Next: Watch it again with `basalt train log j1`, or end it with `basalt train cancel j1`.\n"
)


def interrupted(*arguments: str, once: threading.Event) -> tuple[str, str]:
    """What a command prints that gets a Ctrl-C."""
    with subprocess.Popen(
        [*COMMAND, *arguments],
        env=environment({}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        assert once.wait(30)
        command.send_signal(signal.SIGINT)
        output, complaint = command.communicate(timeout=30)
    assert command.returncode == 130, complaint
    return output, complaint


def test_ctrl_c_ends_a_log_and_not_its_job(server: Answering) -> None:
    began = threading.Event()

    async def endless(*_: object) -> AsyncIterator[trainer_pb2.FollowJobLogResponse]:
        while True:
            yield trainer_pb2.FollowJobLogResponse(line="epoch")
            await asyncio.sleep(0)
            began.set()

    server.handlers[LOG] = endless
    assert interrupted("train", "log", "j1", once=began)[1] == STAYS


@pytest.mark.parametrize("option", [(), ("--json",)])
def test_ctrl_c_ends_a_run_and_not_its_job(server: Answering, option: tuple[str, ...]) -> None:
    began = threading.Event()
    job = trainer_pb2.Job(id="j1", state=trainer_pb2.JOB_STATE_RUNNING)

    async def endless(*_: object) -> AsyncIterator[trainer_pb2.WatchJobResponse]:
        while True:
            yield trainer_pb2.WatchJobResponse(job=job)
            await asyncio.sleep(0)
            began.set()

    server.handlers |= {
        RUN: lambda *_: trainer_pb2.RunPipelineResponse(job=job),
        GET_JOB: lambda *_: trainer_pb2.GetJobResponse(job=job),
        WATCH: endless,
    }
    assert interrupted("train", "run", "tumour", *option, once=began) == ("", STAYS)
    assert server.names().count("RunPipeline") == 1


def test_reader_that_goes_away_is_no_fault(server: Answering) -> None:
    found = [inference_pb2.Model(name=f"model-{number}") for number in range(5_000)]
    server.handlers[LIST] = lambda *_: inference_pb2.ListModelsResponse(models=found)
    command = f"{shlex.join(COMMAND)} model list --limit 5000 --json | head -1"
    done = subprocess.run(
        ["bash", "-c", command], env=environment({}), capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "[\n"
    assert done.stderr == ""


def test_terminal_of_another_encoding(server: Answering) -> None:
    found = [inference_pb2.Model(name="zürich→")]
    server.handlers[LIST] = lambda *_: inference_pb2.ListModelsResponse(models=found)
    shown = piped("model", "list", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert shown.status == 0
    assert "z\\xfcrich\\u2192" in shown.output


def test_without_a_terminal_nothing_can_be_asked(server: Answering) -> None:
    assert "Next: Give it with --tenant." in failed("login")
    complaint = failed("login", "--tenant", "acme", "--name", "ann")
    assert "Next: Give it with --password." in complaint
    assert "Warning" not in complaint
    assert "Next: Add --yes" in failed("down", "--purge")


def test_unforeseen_fault_is_one_line_too(server: Answering) -> None:
    code = (
        "import basalt.cli as cli; from basalt.cli import platform;"
        "cli.app = lambda: 1 / 0; cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "ZeroDivisionError: division by zero" in done.stderr
    assert "Traceback" not in done.stderr
    assert "BASALT_TRACEBACK=1" in done.stderr


ONLY_CLIENT = "The platform is not installed here; only its client is."


@pytest.mark.parametrize(
    ("command", "missing", "what"),
    [
        ("up", "standalone", ONLY_CLIENT),
        ("down", "standalone", ONLY_CLIENT),
        ("up", "grpc_health", "not all that it needs: grpc_health is not installed"),
    ],
)
def test_up_and_down_where_only_the_client_is(command: str, missing: str, what: str) -> None:
    code = (
        f"import sys; sys.argv = ['basalt', {command!r}]; sys.modules[{missing!r}] = None;"
        "from basalt.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert what in done.stderr
    assert "Next: " in done.stderr


@pytest.mark.parametrize(
    ("place", "others", "said"),
    [
        (1, 0, "next in the queue"),
        (3, 2, "2 before it in the queue, 2 of them of other tenants"),
    ],
)
def test_a_job_that_waits_shows_its_place(
    server: Answering, place: int, others: int, said: str
) -> None:
    job = trainer_pb2.Job(id="j1", queue_place=place, queue_others=others)
    listed, found = trainer_pb2.ListJobsResponse(jobs=[job]), trainer_pb2.GetJobResponse(job=job)
    server.handlers["basalt.v1.TrainerService/ListJobs"] = lambda *_: listed
    server.handlers["basalt.v1.TrainerService/GetJob"] = lambda *_: found
    assert f"place {place}" in piped("train", "jobs").output
    assert said in piped("train", "show", "j1").output
