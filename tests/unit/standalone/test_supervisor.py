"""Whatever happens while processes start, die and come back: in the end none is left running."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from libs.common.files import private_folder
from libs.common.history import read
from standalone.down import stop
from standalone.home import Home
from standalone.processes import Edition, ServiceProcess
from standalone.supervisor import Supervisor
from tests.support.eventually import eventually
from tools.servers.errors import ServerError
from tools.servers.ports import LOOPBACK, answers, free_ports

MODULE = "tests.support.small_process"


def says_something(port: int) -> bool:
    """A real call: that the kernel takes the connection says nothing of the process."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=0.5) as connection:
            return connection.recv(1) != b""
    except OSError:
        return False


class Small:
    """Four processes in three stages, as the edition has them, and what was reported of them."""

    def __init__(self, root: Path, delay_s: float = 0.0) -> None:
        self.home = Home.at(root)
        self.root = root
        self.reports: list[tuple[str, str, str]] = []
        self.processes = {
            name: self._process(name, port, delay_s)
            for name, port in zip(("a", "b", "c", "d"), free_ports(4), strict=True)
        }
        a, b, c, d = self.processes.values()
        self.edition = Edition(
            stages=((a, b), (c,), (d,)),
            door="",
            kafka="",
            ports={"door": free_ports(1)[0]},
        )
        # The door is what the last process opens; /ready is Envoy's own.
        door = self.processes["d"]
        object.__setattr__(self.edition, "door_is_open", door.ready)
        self.supervisor = self.supervise(self.edition)

    def supervise(self, edition: Edition) -> Supervisor:
        return Supervisor(self.home, edition, lambda *report: self.reports.append(report))

    def _process(self, name: str, port: int, delay_s: float) -> ServiceProcess:
        folder = self.root / name
        folder.mkdir()
        self.behave(name, "serve")
        return ServiceProcess(
            name=name,
            module=MODULE,
            environment={
                "BASALT_TEST_FOLDER": str(folder),
                "BASALT_TEST_PORT": str(port),
                "BASALT_TEST_DELAY": str(delay_s),
            },
            log=folder / "log",
            ready=lambda: says_something(port),
        )

    def behave(self, name: str, behaviour: str) -> None:
        (self.root / name / "behaviour").write_text(behaviour)

    def starts(self, name: str) -> list[int]:
        file = self.root / name / "starts"
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    def states(self, name: str) -> list[str]:
        return [state for each, state, _ in self.reports if each == name]

    def running(self) -> list[int]:
        """Every process of this installation that lives, whoever knows of it."""
        found = []
        for process in psutil.process_iter():
            try:
                if str(self.root) in process.environ().get("BASALT_TEST_FOLDER", ""):
                    found.append(process.pid)
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        return found


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: the sockets of an installation have to fit into it."""
    with tempfile.TemporaryDirectory(prefix="basalt-") as made:
        yield Path(made)


@pytest.fixture
def small(folder: Path) -> Iterator[Small]:
    small = Small(folder)
    yield small
    left = small.running()
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


async def test_stages_start_in_order_and_stop_in_the_opposite_one(small: Small) -> None:
    await small.supervisor.start()
    ready = [name for name, state, _ in small.reports if state == "ready"]
    assert sorted(ready[:2]) == ["a", "b"]
    assert ready[2:] == ["c", "d"]
    assert len(small.running()) == 4
    await small.supervisor.stop()
    stopped = [name for name, state, _ in small.reports if state == "stopped"]
    assert stopped[:2] == ["d", "c"]
    assert sorted(stopped[2:]) == ["a", "b"]
    assert small.running() == []
    await small.supervisor.stop()


async def test_killed_process_comes_back(small: Small) -> None:
    await small.supervisor.start()
    for times in (1, 2):
        os.kill(small.processes["b"].pid, signal.SIGKILL)
        await eventually(lambda times=times: small.states("b").count("ready") > times)
        assert answers(int(small.processes["b"].environment["BASALT_TEST_PORT"]))
    assert small.states("b").count("died") == 2
    assert len(small.starts("a")) == 1
    await small.supervisor.stop()


async def test_process_that_does_not_answer_is_brought_back_alone(small: Small) -> None:
    await small.supervisor.start()
    small.behave("b", "silent")
    await eventually(lambda: "silent" in small.states("b"), within_s=30)
    small.behave("b", "serve")
    await eventually(lambda: small.states("b").count("ready") == 2, within_s=30)
    assert [len(small.starts(name)) for name in "abcd"] == [1, 2, 1, 1]
    await small.supervisor.stop()
    faults = [(each.component, each.kind) for each in read(small.home.history, 10)]
    assert faults == [("b", "restarted"), ("b", "silent")]


@pytest.mark.parametrize("name", ["a", "d"])
async def test_stopped_process_is_ended_and_brought_back(small: Small, name: str) -> None:
    await small.supervisor.start()
    pid = small.processes[name].pid
    os.kill(pid, signal.SIGSTOP)
    await eventually(lambda: small.states(name).count("ready") == 2, within_s=30)
    assert small.processes[name].pid != pid
    detail = next(detail for each, state, detail in small.reports if state == "silent")
    assert "SIGSTOP" in detail
    await small.supervisor.stop()


async def test_what_all_leave_unanswered_is_brought_back_one_after_the_other(small: Small) -> None:
    await small.supervisor.start()
    for name in small.processes:
        small.behave(name, "silent")
    await eventually(lambda: any(state == "silent" for _, state, _ in small.reports), within_s=30)
    for name in small.processes:
        small.behave(name, "serve")
    await eventually(
        lambda: (
            small.states(small.reports[-1][0])[-1] == "ready"
            and not any(small.states(name)[-1] != "ready" for name in small.processes)
        ),
        within_s=30,
    )
    # Those that were late for the first one's sake were not ended.
    assert sum(len(small.starts(name)) for name in small.processes) == 5
    await small.supervisor.stop()


async def test_history_tells_what_died_and_how_long_it_was_away(small: Small) -> None:
    await small.supervisor.start()
    os.kill(small.processes["c"].pid, signal.SIGKILL)
    await eventually(lambda: small.states("c").count("ready") == 2)
    restarted, died = read(small.home.history, 10)
    assert (died.component, died.kind) == ("c", "died")
    assert (restarted.component, restarted.kind) == ("c", "restarted")
    assert restarted.mended_by == "supervisor"
    assert 0 < restarted.took_s < 60
    await small.supervisor.stop()


async def test_process_that_does_not_come_back_is_tried_again(small: Small) -> None:
    await small.supervisor.start()
    small.behave("c", "die")
    os.kill(small.processes["c"].pid, signal.SIGKILL)
    await eventually(lambda: small.states("c").count("failed") >= 2)
    problem = next(detail for name, state, detail in small.reports if state == "failed")
    assert "I am to die." in problem
    small.behave("c", "serve")
    await eventually(lambda: small.states("c")[-1] == "ready", within_s=20)
    await small.supervisor.stop()


async def test_failure_at_the_start_ends_what_started_and_what_is_starting(small: Small) -> None:
    small.behave("a", "die")
    small.behave("b", "hang")
    with pytest.raises(ServerError, match="I am to die") as raised:
        await small.supervisor.start()
    assert raised.value.which == "a"
    assert small.running() == []
    assert small.starts("c") == []


async def test_start_that_is_cancelled_ends_what_is_starting(small: Small) -> None:
    small.behave("c", "hang")
    starting = asyncio.create_task(small.supervisor.start())
    await eventually(lambda: small.starts("c"))
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert small.running() == []
    assert small.starts("d") == []


@pytest.mark.parametrize("reports", range(9))
async def test_stop_at_any_moment_of_a_start(folder: Path, reports: int) -> None:
    """A start that is left alone reports eight times."""
    small = Small(folder, delay_s=0.05)
    starting = asyncio.create_task(small.supervisor.start())
    await eventually(lambda: len(small.reports) >= min(reports, 8))
    starting.cancel()
    await asyncio.wait({starting})
    await small.supervisor.stop()
    assert small.running() == []


MOMENTS: dict[str, Callable[[Small], bool]] = {
    "just dead": lambda small: not small.processes["b"].alive,
    "seen dead": lambda small: "died" in small.states("b"),
    "to be started": lambda small: small.states("b").count("starting") == 2,
    "started": lambda small: small.processes["b"].alive and "died" in small.states("b"),
    "running": lambda small: len(small.starts("b")) == 2,
    "ready": lambda small: small.states("b").count("ready") == 2,
}


@pytest.mark.parametrize("moment", MOMENTS)
async def test_stop_while_a_process_is_brought_back(folder: Path, moment: str) -> None:
    small = Small(folder, delay_s=0.05)
    await small.supervisor.start()
    os.kill(small.processes["b"].pid, signal.SIGKILL)
    await eventually(lambda: MOMENTS[moment](small))
    await small.supervisor.stop()
    assert small.running() == []
    assert small.states("b")[-1] == "stopped"


async def test_stubborn_process_is_killed_in_time(small: Small) -> None:
    small.behave("c", "stubborn")
    await small.supervisor.start()
    await asyncio.wait_for(small.supervisor.stop(), 15)
    assert small.running() == []


async def test_kill_ends_a_stop_that_takes_long(small: Small) -> None:
    for name in small.processes:
        small.behave(name, "stubborn")
    await small.supervisor.start()
    stopping = asyncio.create_task(small.supervisor.stop())
    await asyncio.sleep(0)
    small.supervisor.kill()
    await asyncio.wait_for(stopping, 10)
    assert small.running() == []


@pytest.mark.parametrize(
    ("listener", "way_out"),
    [
        ("door", "`basalt up --port PORT`"),
        ("kafka", "`basalt up --kafka-port PORT`"),
        ("metrics", "ports.json; new ones"),
        ("otlp_http", "ports.json; new ones"),
    ],
)
async def test_port_in_use_is_refused_before_anything_starts(
    small: Small, listener: str, way_out: str
) -> None:
    taken = int(small.processes["a"].environment["BASALT_TEST_PORT"])
    edition = replace(small.edition, ports={listener: taken})
    other = await asyncio.start_server(lambda *_: None, "127.0.0.1", taken)
    async with other:
        with pytest.raises(ServerError, match=f"the port {taken} of {listener} is in") as raised:
            await small.supervise(edition).start()
    assert way_out in raised.value.next_step
    assert small.starts("a") == []
    assert not small.home.has_ports()


async def test_ports_found_free_are_remembered(small: Small) -> None:
    small.edition.ports["door"] = 7_999
    await small.supervisor.start()
    await small.supervisor.stop()
    assert Home.at(small.root).ports()["door"] == 7_999


# The folder.


def test_installation_has_one_supervisor_at_a_time(folder: Path) -> None:
    home = Home.at(folder)
    assert home.running_pid() is None
    with home.claimed():
        assert home.running_pid() == os.getpid()
        with (
            pytest.raises(ServerError, match=f"runs already .process {os.getpid()}"),
            Home.at(folder).claimed(),
        ):
            pass
        assert home.running_pid() == os.getpid()
    assert home.running_pid() is None
    with home.claimed():
        assert home.running_pid() == os.getpid()


@pytest.mark.parametrize("replaced", [False, True], ids=["removed", "replaced"])
def test_who_runs_it_is_known_without_the_file_of_its_number(folder: Path, replaced: bool) -> None:
    home = Home.at(folder)
    with home.claimed():
        home.pid_file.unlink()
        if replaced:
            home.pid_file.write_text("1")
        assert home.running_pid() == os.getpid()
        with (
            pytest.raises(ServerError, match=f"runs already .process {os.getpid()}"),
            Home.at(folder).claimed(),
        ):
            pass
    assert home.running_pid() is None
    with home.claimed():
        assert home.running_pid() == os.getpid()


def test_it_is_told_where_nobody_knows_who_runs_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on file systems whose numbers the kernel's list of locks does not show."""
    home = Home.at(folder)
    monkeypatch.setattr("standalone.home._locker", lambda _: None)
    with home.claimed():
        home.pid_file.unlink()
        with pytest.raises(ServerError, match=r"runs, and .* does not say") as raised:
            stop(folder, purge=True)
        assert "Ctrl-C" in raised.value.next_step
    assert not stop(folder, purge=False).existed


def test_an_installation_that_ran_does_not_begin_anew_without_its_journals(folder: Path) -> None:
    home = Home.at(folder)
    (folder / "journals").mkdir()
    home.require_whole()
    home.has_begun()
    home.require_whole()
    (folder / "journals").rename(folder / "elsewhere")
    with pytest.raises(ServerError, match="journals is missing"):
        home.require_whole()


@pytest.mark.parametrize("name", ["50%off", "what?", "a#b"])
def test_a_path_that_no_socket_can_have_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(ServerError, match="no socket can be reached"):
        Home.at(folder / name)
    assert not (folder / name).exists()


@pytest.mark.parametrize("shape", ["file", "open"])
def test_the_folders_of_sockets_are_private_folders_whatever_was_there(
    folder: Path, shape: str
) -> None:
    there = folder / "sockets"
    if shape == "file":
        there.write_text("")
    else:
        there.mkdir()
        there.chmod(0o755)
    private_folder(there)
    assert there.stat().st_mode & 0o777 == 0o700


def test_number_left_by_a_power_cut_means_nothing(folder: Path) -> None:
    home = Home.at(folder)
    home.pid_file.write_text(str(os.getpid()))
    assert home.running_pid() is None
    with home.claimed():
        assert home.running_pid() == os.getpid()


def test_purge_removes_what_is_ours_and_nothing_else(folder: Path) -> None:
    home = Home.at(folder / "home")
    home.remember(home.ports())
    assert home.secrets.master_key
    (home.root / "journals").mkdir()
    (home.root / "notes.txt").write_text("mine")
    (home.root / "objects").symlink_to(folder)
    assert home.purge() == ("notes.txt",)
    assert [path.name for path in home.root.iterdir()] == ["notes.txt"]
    assert folder.exists()
    (home.root / "notes.txt").unlink()
    assert home.purge() == ()
    assert not home.root.exists()


def test_secrets_are_made_once_for_their_owner_alone(folder: Path) -> None:
    file = folder / "secrets.json"
    # Left by a crash, and readable by all.
    file.with_suffix(".partial").write_text("half")
    first = Home.at(folder).secrets
    assert file.stat().st_mode & 0o777 == 0o600
    assert Home.at(folder).secrets == first
    file.write_text("{")
    with pytest.raises(ServerError, match="is damaged"):
        _ = Home.at(folder).secrets


@pytest.mark.parametrize("root", ["/proc/nothing", "/dev/null/home", "/tmp/" + "x" * 100])
def test_folder_that_cannot_be_used(root: str) -> None:
    with pytest.raises(ServerError, match="the folder /") as raised:
        Home.at(Path(root))
    assert "BASALT_HOME" in raised.value.next_step


def test_ports_are_remembered(folder: Path) -> None:
    home = Home.at(folder)
    chosen = home.ports(door=7_999)
    assert not home.has_ports()
    home.remember(chosen)
    assert home.has_ports()
    assert Home.at(folder).ports() == chosen
    assert Home.at(folder).ports(door=7_998) == {**chosen, "door": 7_998}
