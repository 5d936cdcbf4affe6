"""How a service lives and ends, in real processes with real signals."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from libs.common import runtime
from libs.common.errors import DependencyError
from libs.common.runtime import Keeping, Loop
from tests.support.eventually import eventually

ENDED_S_MAX = 20.0


@dataclass
class Ended:
    code: int
    told: list[str]
    errors: str

    @property
    def plain(self) -> list[str]:
        """What was written on standard error beside the log."""
        return [line for line in self.errors.splitlines() if not line.startswith("{")]


async def live(*parts: str, until: str = "serving", number: int = signal.SIGTERM) -> Ended:
    """Runs a service until it says `until`, sends it the signal, and waits for its end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.support.run_service", *parts),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout
    assert process.stderr
    told: list[str] = []
    try:
        async with asyncio.timeout(ENDED_S_MAX):
            while line := (await process.stdout.readline()).decode().strip():
                told.append(line)
                if line == until:
                    process.send_signal(number)
            errors = (await process.stderr.read()).decode()
            code = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Ended(code, told, errors)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_parts_start_in_order_and_stop_in_the_opposite_one(number: int) -> None:
    ended = await live("a", "b", "c", number=number)

    assert ended.code == 0
    assert ended.told == [
        *("start a", "start b", "start c", "serving"),
        *("stop c", "stop b", "stop a"),
    ]
    assert ended.plain == []


async def test_a_part_that_cannot_start_ends_the_service_with_one_line() -> None:
    ended = await live("a", "absent", "c")

    assert ended.code == 1
    assert ended.told == ["start a", "start absent", "stop absent", "stop a"]
    assert ended.plain == ["tested cannot start: Kafka cannot be used. Start it first."]


async def test_a_part_that_does_not_come_up_is_named() -> None:
    ended = await live("a", "start-hangs")

    assert ended.code == 1
    assert ended.told == ["start a", "start start-hangs", "stop start-hangs", "stop a"]
    (line,) = ended.plain
    assert line.startswith("tested cannot start: start-hangs did not start within 3 s.")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("task-fails", "ZeroDivisionError"),
        ("task-is-cancelled", "nobody asked it to"),
        ("task-returns", "nobody asked it to"),
    ],
)
async def test_a_task_that_ends_ends_the_service_so_that_it_is_started_again_whole(
    how: str, said: str
) -> None:
    ended = await live("a", how, until="nothing")

    assert ended.code == 1
    assert ended.told == ["start a", f"start {how}", "serving", f"stop {how}", "stop a"]
    assert ended.plain == [f"tested ends: its task {how} failed, as logged."]
    assert said in ended.errors


async def test_a_signal_during_the_start_is_heard() -> None:
    ended = await live("a", "start-hangs", "c", until="start start-hangs")

    assert ended.code == 0
    assert ended.told == ["start a", "start start-hangs", "stop start-hangs", "stop a"]


@pytest.mark.parametrize("trouble", ["stop-fails", "stop-hangs"])
async def test_a_part_that_does_not_stop_does_not_keep_the_others(trouble: str) -> None:
    ended = await live("a", trouble, "c")

    assert ended.code == 0
    assert ended.told[-3:] == ["stop c", f"stop {trouble}", "stop a"]
    warnings = [json.loads(line) for line in ended.errors.splitlines() if "stop_failed" in line]
    assert [each["part"] for each in warnings] == [trouble]


@pytest.mark.parametrize("trouble", ["thread-hangs", "stop-is-stubborn"])
async def test_a_process_that_cannot_end_is_ended(trouble: str) -> None:
    ended = await live("a", trouble)

    assert ended.code == 1
    assert ended.told[-1] == "stop a"
    assert ended.plain == ["tested did not end in 3 s and is ended."]


async def test_logs_are_json_lines_with_the_services_name() -> None:
    ended = await live("a")

    lines = [json.loads(line) for line in ended.errors.splitlines()]
    assert [line["event"] for line in lines] == ["serving", "stopping"]
    assert all(line["service"] == "tested" for line in lines)


class Work:
    def __init__(self) -> None:
        self.rounds = 0
        self.error: Exception | None = None

    async def __call__(self) -> None:
        self.rounds += 1
        if self.error is not None:
            raise self.error


async def test_a_loop_goes_on_after_a_failure_and_says_what_failed() -> None:
    work = Work()
    work.error = DependencyError("Triton is away.")
    loop = Loop("reconciler", work, interval_s=0.01)
    await loop.start()
    await eventually(lambda: work.rounds > 3)
    assert loop.problem == "Triton is away."

    work.error = None

    await eventually(lambda: loop.problem == "")
    await loop.stop()
    rounds = work.rounds
    await asyncio.sleep(0)
    assert work.rounds == rounds


async def test_a_loop_that_is_woken_does_its_next_round_now() -> None:
    work = Work()
    loop = Loop("reconciler", work, interval_s=3_600)
    await loop.start()
    await eventually(lambda: work.rounds == 1)

    loop.wake()

    await eventually(lambda: work.rounds == 2)
    await loop.stop()


def pinging(*answers: Exception | None) -> Callable[[], asyncio.Future[None]]:
    left = list(answers)

    def ping() -> asyncio.Future[None]:
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        error = left.pop(0) if len(left) > 1 else left[0]
        if error is None:
            answer.set_result(None)
        else:
            answer.set_exception(error)
        return answer

    return ping


async def closed() -> None:
    """Nothing to close."""


async def test_a_store_that_is_not_there_yet_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runtime, "STORE_TRY_AGAIN_S", 0.01)
    away = DependencyError("Away.", which="journal")

    await Keeping("journal", pinging(away, away, None), closed).start()


async def test_a_store_that_does_not_come_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "STORE_TRY_AGAIN_S", 0.01)
    monkeypatch.setattr(runtime, "STORE_S_MAX", 0.05)

    with pytest.raises(DependencyError, match="Away"):
        await Keeping("journal", pinging(DependencyError("Away.")), closed).start()


async def test_a_loop_ends_although_what_it_does_loses_a_cancellation() -> None:
    rounds, lost = asyncio.Event(), 0

    async def work() -> None:
        nonlocal lost
        rounds.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            lost += 1
            if lost > 2:
                raise

    loop = Loop("forgetful", work, interval_s=0.0)
    await loop.start()
    await rounds.wait()
    await loop.stop()

    assert lost == 3


LOGGING = """
import logging, sys
import structlog
from libs.common.runtime import log_to_stderr

log_to_stderr("tested", "info")
try:
    raise ValueError("something to mend")
except ValueError:
    structlog.get_logger().exception("fault")
    structlog.get_logger().warning("more", of="it")
    logging.getLogger("a.library").error("its own line")
print("went on")
"""


def test_a_log_that_takes_no_line_does_not_change_what_is_done() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", LOGGING], stdout=subprocess.PIPE, stderr=full, check=False
        )

    assert done.stdout == b"went on\n"
