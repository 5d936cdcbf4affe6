"""The control plane's decisions, with a folder in memory and a judge that the test decides for."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from libs.common.clock import SystemClock
from libs.common.errors import DependencyError, InvalidInputError, PreconditionError
from libs.common.history import Mended
from services.gateway.core.door import Door
from services.gateway.core.envoy.inputs import Access
from services.gateway.core.following import EnvoyFollower, RouteFollower
from services.gateway.core.limits import Limits
from services.gateway.core.table import RoutedModel, RoutedVariant, Table
from services.gateway.ports import EnvoyStatus
from tests.support.eventually import eventually
from tests.support.tokens import KeyRing
from tests.unit.gateway.test_configuration import ACCESS, the_site

VARIANT = RoutedVariant(internal_name="acme--m--v1", version=1, manifest_sha256="aa", weight=100)
ROUTE = RoutedModel(tenant="acme", model="m", revision=1, variants=(VARIANT,), batch_size_max=8)
OTHER_KEYS = tuple(KeyRing("other").jwks()["keys"])
TABLE = Table(version=5, routes=(ROUTE,))
MENDED = Mended("gateway", SystemClock())


class MemoryFolder:
    def __init__(self) -> None:
        self.files: dict[str, str] = {}
        self.moved: list[str] = []
        self.full = False

    def read(self, name: str) -> str | None:
        return self.files.get(name)

    def replace(self, name: str, content: str) -> None:
        if self.full:
            raise DependencyError("No space left on device.", which="door folder")
        self.files[name] = content
        self.moved.append(name)

    def trim(self, name: str, bytes_max: int) -> None:
        self.files[name] = self.files.get(name, "")[:bytes_max]


class Judge:
    def __init__(self) -> None:
        self.refusal = ""
        self.judged = 0

    async def judge(self, configuration: str) -> None:
        self.judged += 1
        if self.refusal:
            raise InvalidInputError(self.refusal, which="door")


class Bench:
    """A door and what is around it."""

    def __init__(self) -> None:
        self.folder, self.judge = MemoryFolder(), Judge()
        self.door = Door(the_site(), self.judge, self.folder, MENDED)

    def again(self) -> Door:
        self.door = Door(the_site(), self.judge, self.folder, MENDED)
        return self.door

    @property
    def routes(self) -> Any:
        return json.loads(self.folder.files["routes.json"])


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    await bench.door.start()
    yield bench
    await bench.door.stop()


async def test_it_opens_closed_and_then_with_the_first_keys(bench: Bench) -> None:
    assert "503" in bench.folder.files["rds.json"]
    bench.door.take_access(ACCESS)
    await bench.door.settled(5)
    assert "503" not in bench.folder.files["rds.json"]
    assert bench.door.problem == ""
    assert bench.door.tenants == ("acme",)


async def test_only_what_changed_is_moved(bench: Bench) -> None:
    bench.door.take_access(ACCESS)
    await bench.door.settled(5)
    bench.folder.moved.clear()
    bench.door.take_table(TABLE)
    await bench.door.settled(5)
    assert bench.folder.moved == ["routes.json"]
    bench.door.take_table(TABLE)
    bench.door.take_access(ACCESS)
    await bench.door.settled(5)
    assert bench.folder.moved == ["routes.json"]


async def test_limits_reach_envoy_and_dispatcher(bench: Bench) -> None:
    bench.door.take_access(ACCESS)
    bench.door.take_table(TABLE)
    bench.door.take_limits({"acme": Limits(requests_in_flight_max=7).effective()})
    await bench.door.settled(5)
    assert bench.routes["tenants"]["acme"]["requests_in_flight_max"] == 7
    routing = bench.door.table.routing()
    assert routing.tenant_concurrency_max == {"acme": 7}
    assert "acme" in bench.folder.files["ecds-rates.json"]


async def test_a_refused_configuration_stays_out_and_is_told(bench: Bench) -> None:
    bench.door.take_access(ACCESS)
    await bench.door.settled(5)
    before, sha256 = dict(bench.folder.files), bench.door.configuration_sha256
    bench.judge.refusal = "no good"
    bench.door.take_access(Access(4, OTHER_KEYS, ("acme",)))
    await bench.door.settled(5)
    assert bench.door.problem == "no good"
    assert bench.folder.files == before
    assert bench.door.configuration_sha256 == sha256
    bench.judge.refusal = ""
    bench.door.take_access(Access(5, OTHER_KEYS, ("acme",)))
    await bench.door.settled(5)
    assert bench.door.problem == ""
    assert OTHER_KEYS[0]["x"] in bench.folder.files["ecds-tokens.json"]


async def test_a_table_that_the_dispatcher_could_not_use_stays_out(bench: Bench) -> None:
    bench.door.take_table(TABLE)
    await bench.door.settled(5)
    weightless = VARIANT.model_copy(update={"weight": 0})
    bad = ROUTE.model_copy(update={"variants": (weightless,)})
    bench.door.take_table(Table(version=6, routes=(bad,)))
    await bench.door.settled(5)
    assert "positive weight" in bench.door.problem
    assert bench.routes["version"] == 5
    assert bench.door.table.version == 5


async def test_a_full_disk_is_told_and_mended_by_itself(bench: Bench) -> None:
    bench.folder.full = True
    bench.door.take_table(TABLE)
    await bench.door.settled(5)
    assert "No space left" in bench.door.problem
    bench.folder.full = False
    await eventually(lambda: bench.door.problem == "", within_s=10)
    assert bench.routes["version"] == 5


@pytest.mark.parametrize("name", ["envoy.json", "rds.json", "routes.json", "access.json"])
@pytest.mark.parametrize("damage", [None, "", "{"])
async def test_a_file_that_somebody_took_or_damaged_is_put_back(
    bench: Bench, name: str, damage: str | None
) -> None:
    bench.door.take_access(ACCESS)
    bench.door.take_table(TABLE)
    await bench.door.settled(5)
    before = dict(bench.folder.files)
    bench.folder.moved.clear()
    if damage is None:
        del bench.folder.files[name]
    else:
        bench.folder.files[name] = damage

    await eventually(lambda: bench.folder.files == before)

    # Only that one: each move makes somebody read it again.
    assert bench.folder.moved == [name]


async def test_a_new_start_goes_on_with_what_was_in_force(bench: Bench) -> None:
    bench.door.take_access(ACCESS)
    bench.door.take_table(TABLE)
    await bench.door.settled(5)
    await bench.door.stop()
    bench.folder.moved.clear()
    again = bench.again()
    await again.start()
    assert bench.folder.moved == []
    assert again.table.version == 5
    assert again.tenants == ("acme",)


async def test_files_of_an_unknown_access_are_left_alone(bench: Bench) -> None:
    bench.door.take_access(ACCESS)
    await bench.door.settled(5)
    await bench.door.stop()
    bench.folder.files["access.json"] = "not json"
    before = dict(bench.folder.files)
    await bench.again().start()
    assert bench.folder.files == before


async def test_a_door_that_can_never_open_says_why() -> None:
    bench = Bench()
    bench.judge.refusal = "no certificate"
    with pytest.raises(PreconditionError, match="no certificate"):
        await bench.door.start()


class Feed:
    """Answers with what is in `answers`, then stands still or fails."""

    def __init__(self, *answers: Table | Exception | None) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def tables(self) -> AsyncIterator[Table | None]:
        self.asked += 1
        while self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            yield answer


async def test_routes_are_followed_through_an_outage(bench: Bench) -> None:
    away = DependencyError("The service inference cannot be reached.", which="inference")
    feed = Feed(away, TABLE)
    follower = RouteFollower(feed, bench.door)
    assert follower.problem
    await follower.start()
    arrived: Callable[[], bool] = lambda: bench.door.table.version == 5  # noqa: E731
    await eventually(arrived)
    assert follower.problem == ""
    follower.nudge()
    await eventually(lambda: feed.asked >= 3)
    await follower.stop()


async def test_while_inference_has_no_routes_it_is_not_said_to_be_away(bench: Bench) -> None:
    away = DependencyError("The service inference cannot be reached.", which="inference")
    follower = RouteFollower(Feed(away, None), bench.door)
    await follower.start()
    await eventually(lambda: "waits until Triton" in follower.problem)
    await follower.stop()


class Envoys:
    def __init__(self, *states: EnvoyStatus) -> None:
        self.states = list(states)

    async def status(self) -> EnvoyStatus:
        return self.states.pop(0)


async def test_envoys_restarts_and_refusals_are_counted() -> None:
    envoys = Envoys(EnvoyStatus(10, 0), EnvoyStatus(12, 1), EnvoyStatus(1, 0), EnvoyStatus(2, 0))
    follower = EnvoyFollower(envoys, MemoryFolder(), "access.log")
    await follower.look()
    assert (follower.restarts, follower.refused) == (0, "")
    await follower.look()
    assert "refused" in follower.refused
    await follower.look()
    assert (follower.restarts, follower.refused) == (1, "")
    await follower.look()
    assert follower.restarts == 1
