import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from libs.common import flow
from libs.common.events import ForeignModelFound
from services.inference.core.alarms import TOLD_A_MINUTE_MAX
from services.inference.core.inspection import EXAMINE_S
from services.inference.core.reconciler import Reconciler
from services.inference.core.routes import Table
from services.inference.core.serving import Serving
from services.inference.core.verification import VERIFY_AGAIN_S
from services.inference.ports import Servable
from tests.support.candidates import Candidate, good_model
from tests.support.clock import HeldClock
from tests.support.eventually import eventually
from tests.support.registry import MemoryModelServer, Registry, flip_one_bit


class Stage:
    """Three signed versions, a model server in memory, and rounds made by hand."""

    def __init__(self, registry: Registry, server: MemoryModelServer, clock: HeldClock) -> None:
        self.registry = registry
        self.server = server
        self.clock = clock
        self.tables: list[Table] = []

    def reconciler(self) -> Reconciler:
        return self.registry.new_reconciler(unload_delay_s=10)

    async def deploy(self, number: int, weight: int = 100) -> None:
        await self.registry.rollout.deploy(
            "acme", "boxes", number, weight=weight, expected_revision=0, reason="", by="ops"
        )

    async def roll_back(self) -> None:
        await self.registry.rollout.roll_back("acme", "boxes", to_revision=0, reason="", by="ops")


async def quiet(reconciler: Reconciler) -> None:
    """Rounds until every load and every look has ended and the routes say so."""
    tasks: list[asyncio.Task[None]] = []
    for rest in itertools.count():
        await reconciler.round()
        tasks = [*reconciler._loads.values(), *reconciler._inspection.under_way.values()]
        await asyncio.gather(*tasks)
        # A look may have ended within its round; what it found is for the next one.
        if rest and not tasks:
            break


def routes(reconciler: Reconciler) -> dict[str, int] | None:
    """Weights by internal name; None before the first table."""
    table = reconciler._table
    if table is None:
        return None
    return {each.internal_name: each.weight for route in table.routes for each in route.variants}


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    server, clock = MemoryModelServer(), HeldClock()
    registry = Registry(tmp_path, server=server, clock=clock)
    for number in (1, 2, 3):
        await registry.signed(Candidate(job=f"job-{number}", onnx=good_model(float(number))))
    yield Stage(registry, server, clock)
    await registry.close()


async def test_what_is_deployed_is_loaded_and_then_routed(stage: Stage) -> None:
    await stage.deploy(1)
    reconciler = stage.reconciler()

    await reconciler.round()
    assert routes(reconciler) is None  # Nothing is routed before it is ready.
    await quiet(reconciler)

    assert routes(reconciler) == {"acme--boxes--v1": 100}
    loaded = stage.server.loaded["acme--boxes--v1"]
    assert loaded.model == good_model(1.0)


async def test_a_canary_is_routed_by_weight(stage: Stage) -> None:
    await stage.deploy(1)
    reconciler = stage.reconciler()
    await quiet(reconciler)

    await stage.deploy(2, weight=20)
    await reconciler.round()
    assert routes(reconciler) == {"acme--boxes--v1": 100}
    await quiet(reconciler)

    assert routes(reconciler) == {"acme--boxes--v1": 80, "acme--boxes--v2": 20}


async def test_a_rollback_needs_no_load(stage: Stage) -> None:
    reconciler = stage.reconciler()
    for number in (1, 2):
        await stage.deploy(number)
        await quiet(reconciler)
    loads = list(stage.server.loads)

    await stage.roll_back()
    await reconciler.round()

    assert routes(reconciler) == {"acme--boxes--v1": 100}
    assert stage.server.loads == loads


async def test_what_left_the_routes_is_unloaded_only_a_while_later(stage: Stage) -> None:
    reconciler = stage.reconciler()
    for number in (1, 2, 3):
        await stage.deploy(number)
        await quiet(reconciler)
    assert set(stage.server.loaded) == {f"acme--boxes--v{number}" for number in (1, 2, 3)}

    stage.clock.pass_s(9)
    await reconciler.round()
    assert "acme--boxes--v1" in stage.server.loaded
    stage.clock.pass_s(2)
    await reconciler.round()

    assert set(stage.server.loaded) == {"acme--boxes--v2", "acme--boxes--v3"}


async def test_an_undeployment_ends_the_route_first_and_frees_the_memory_later(
    stage: Stage,
) -> None:
    await stage.deploy(1)
    reconciler = stage.reconciler()
    await quiet(reconciler)
    await stage.registry.rollout.undeploy("acme", "boxes", reason="", by="ops")

    await reconciler.round()
    assert routes(reconciler) == {}
    assert stage.server.loaded
    stage.clock.pass_s(11)
    await reconciler.round()

    assert not stage.server.loaded


async def test_a_server_that_lost_everything_gets_it_back_and_routes_stay(stage: Stage) -> None:
    reconciler = stage.reconciler()
    for number in (1, 2):
        await stage.deploy(number)
        await quiet(reconciler)
    table = reconciler._table

    stage.server.kill()
    stage.server.reachable = False
    await reconciler.round()
    assert "Triton cannot be reached" in reconciler.problem
    assert reconciler._table is table
    stage.server.reachable = True
    await reconciler.round()
    assert reconciler._table is table
    await quiet(reconciler)

    assert set(stage.server.loaded) == {"acme--boxes--v1", "acme--boxes--v2"}
    assert reconciler._table is table
    assert reconciler.problem == ""


async def test_a_new_process_takes_over_what_is_loaded_without_loading_it_again(
    stage: Stage,
) -> None:
    await stage.deploy(1)
    await quiet(stage.reconciler())

    successor = stage.reconciler()
    await quiet(successor)

    assert stage.server.loads == ["acme--boxes--v1"]
    assert routes(successor) == {"acme--boxes--v1": 100}


def strange(stage: Stage) -> Servable:
    """Another model with the configuration of the genuine one."""
    return replace(stage.server.loaded["acme--boxes--v1"], model=b"strange")


async def found(stage: Stage) -> list[tuple[str, str, str]]:
    """Who was told of what, by event and by audit."""
    events = [
        ForeignModelFound.model_validate_json(each.payload)
        for entry in await stage.registry.store.unrelayed()
        for each in entry.outbox
        if each.topic == flow.FOREIGN_MODEL.name
    ]
    assert events == stage.registry.auditor.records
    return [(event.tenant, event.name, event.what) for event in events]


async def test_something_else_under_our_name_is_replaced_and_people_are_told(
    stage: Stage,
) -> None:
    await stage.deploy(1)
    reconciler = stage.reconciler()
    await quiet(reconciler)
    stage.server.load_foreign("acme--boxes--v1", strange(stage))

    stage.clock.pass_s(EXAMINE_S)
    await quiet(reconciler)

    assert stage.server.loaded["acme--boxes--v1"].model == good_model(1.0)
    assert routes(reconciler) == {"acme--boxes--v1": 100}
    assert await found(stage) == [("acme", "acme--boxes--v1", "It is none of ours.")]
    assert "Find out who reaches Triton" in reconciler.problem


async def test_a_copied_configuration_is_known_by_its_counting_anew(stage: Stage) -> None:
    """Where the model itself can prove nothing, as with ONNX Runtime."""
    await stage.deploy(1)
    reconciler = stage.reconciler()
    await quiet(reconciler)
    stage.server.executions["acme--boxes--v1"] = 7
    await quiet(reconciler)
    proof = stage.server.proofs["acme--boxes--v1"]
    stage.server.load_foreign("acme--boxes--v1", strange(stage))
    stage.server.proofs["acme--boxes--v1"] = proof
    stage.server.executions["acme--boxes--v1"] = 2

    await quiet(reconciler)

    assert stage.server.loaded["acme--boxes--v1"].model == good_model(1.0)
    [(_, name, _)] = await found(stage)
    assert name == "acme--boxes--v1"


async def test_another_process_may_load_what_is_ours_anew(stage: Stage) -> None:
    await stage.deploy(1)
    one, other = stage.reconciler(), stage.reconciler()
    await quiet(one)
    await quiet(other)
    stage.server.executions["acme--boxes--v1"] = 7
    await quiet(one)
    await stage.server.load(stage.server.loaded["acme--boxes--v1"])

    await quiet(one)
    await quiet(other)

    assert stage.server.loads == ["acme--boxes--v1"] * 2
    assert await found(stage) == []


async def test_what_nobody_deployed_is_taken_out_at_once(stage: Stage) -> None:
    await stage.deploy(1)
    reconciler = stage.reconciler()
    await quiet(reconciler)
    for name in ("somebody-elses", "acme--gone--v4", "acme--boxes--v2"):
        stage.server.load_foreign(name, strange(stage))

    await quiet(reconciler)

    assert set(stage.server.loaded) == {"acme--boxes--v1"}
    # Nobody of acme has ever heard of these names.
    assert {tenant for tenant, _, _ in await found(stage)} == {"platform"}


async def test_strange_models_by_the_dozen_do_not_fill_the_logs(stage: Stage) -> None:
    await stage.deploy(1)
    reconciler = stage.reconciler()
    await quiet(reconciler)
    model = strange(stage)
    for number in range(2 * TOLD_A_MINUTE_MAX):
        stage.server.load_foreign(f"strange-{number}", model)
    await quiet(reconciler)
    stage.server.load_foreign("strange-1", model)
    await quiet(reconciler)

    assert set(stage.server.loaded) == {"acme--boxes--v1"}
    assert len(await found(stage)) == TOLD_A_MINUTE_MAX


async def test_the_audit_log_hears_of_it_when_it_is_back_and_after_a_restart(
    stage: Stage,
) -> None:
    await stage.deploy(1)
    reconciler = stage.reconciler()
    await quiet(reconciler)
    stage.registry.auditor.reachable = False
    stage.server.load_foreign("strange", strange(stage))
    await quiet(reconciler)
    assert stage.registry.auditor.records == []

    stage.registry.auditor.reachable = True
    await quiet(stage.reconciler())

    assert [name for _, name, _ in await found(stage)] == ["strange"]


async def test_a_model_whose_process_died_is_loaded_again_and_status_says_so(stage: Stage) -> None:
    await stage.deploy(1)
    reconciler = stage.reconciler()
    await quiet(reconciler)
    stage.server.silent.add("acme--boxes--v1")
    stage.clock.pass_s(EXAMINE_S)
    await reconciler.round()
    await asyncio.gather(*reconciler._inspection.under_way.values())

    revision = await stage.registry.rollout.current("acme", "boxes")
    await reconciler.round()
    assert "Deployed versions that do not serve: 1" in reconciler.problem
    assert reconciler.standing(revision) == (
        frozenset(),
        "boxes version 1: Its process has ended.",
    )
    await quiet(reconciler)

    assert stage.server.loads == ["acme--boxes--v1"] * 2
    assert reconciler.problem == ""
    assert routes(reconciler) == {"acme--boxes--v1": 100}
    assert await found(stage) == []


async def test_a_key_that_was_taken_back_ends_what_it_signed(stage: Stage) -> None:
    await stage.deploy(1)
    reconciler = stage.reconciler()
    await quiet(reconciler)
    stage.registry.signatures.key = type(stage.registry.signatures)().key
    stage.clock.pass_s(VERIFY_AGAIN_S)
    await quiet(reconciler)

    assert not stage.server.loaded
    revision = await stage.registry.rollout.current("acme", "boxes")
    assert "key that security does not know" in reconciler.standing(revision)[1]
    # Whose version it is, is nothing for every tenant's status.
    assert "boxes" not in reconciler.problem
    assert "Deployed versions that do not serve: 1" in reconciler.problem


@pytest.mark.parametrize("file", ["model.onnx", "evaluation.parquet", "card.md"])
async def test_a_flipped_bit_is_refused_at_load_and_the_old_one_serves_on(
    stage: Stage, file: str
) -> None:
    reconciler = stage.reconciler()
    await stage.deploy(1)
    await quiet(reconciler)
    version = await stage.registry.version(2)
    # It is deployed first: what is damaged by then is not deployed at all.
    await stage.deploy(2)
    flip_one_bit(stage.registry.object_path(version, file))
    await quiet(reconciler)

    assert "acme--boxes--v2" not in stage.server.loaded
    assert routes(reconciler) == {"acme--boxes--v1": 100}
    standing = Serving(reconciler).standing(await stage.registry.rollout.current("acme", "boxes"))
    assert standing.ready == frozenset()
    assert f"{file} of boxes version 2 is not what was promised" in standing.problem


async def test_a_signature_of_somebody_else_is_refused_at_load(stage: Stage) -> None:
    await stage.deploy(1)
    stranger = type(stage.registry.signatures)()
    stage.registry.signatures.key = stranger.key
    reconciler = stage.reconciler()

    await quiet(reconciler)

    assert not stage.server.loaded
    revision = await stage.registry.rollout.current("acme", "boxes")
    assert "key that security does not know" in reconciler.standing(revision)[1]
    # Whose version it is, is nothing for every tenant's status.
    assert "boxes" not in reconciler.problem
    assert "Deployed versions that do not serve: 1" in reconciler.problem


async def test_mended_files_are_loaded_when_deployed_again(stage: Stage) -> None:
    reconciler = stage.reconciler()
    path = stage.registry.object_path(await stage.registry.version(1), "model.onnx")
    await stage.deploy(1)
    flip_one_bit(path)
    await quiet(reconciler)
    assert routes(reconciler) == {}

    flip_one_bit(path)
    await quiet(reconciler)
    assert not stage.server.loaded  # Not at once: it is tried less and less often.
    stage.clock.pass_s(60)
    await quiet(reconciler)

    assert routes(reconciler) == {"acme--boxes--v1": 100}


async def test_the_first_table_waits_until_everything_was_tried(stage: Stage) -> None:
    await stage.registry.signed(Candidate(job="other", model="crates"))
    await stage.deploy(1)
    await stage.registry.rollout.deploy(
        "acme", "crates", 1, weight=100, expected_revision=0, reason="", by="ops"
    )
    reconciler = stage.reconciler()
    stage.server.reachable = False
    await reconciler.round()
    assert reconciler._table is None
    stage.server.reachable = True
    await reconciler.round()
    assert reconciler._table is None
    await quiet(reconciler)

    assert routes(reconciler) == {"acme--boxes--v1": 100, "acme--crates--v1": 100}


async def test_watchers_get_the_table_now_and_at_each_change(stage: Stage) -> None:
    reconciler = stage.reconciler()
    seen: list[Table] = []

    async def watch() -> None:
        async for table in reconciler.tables():
            seen.append(table)  # noqa: PERF401 - it never ends.

    watching = asyncio.create_task(watch())
    await reconciler.start()
    await eventually(lambda: len(seen) == 1)
    assert seen[0].routes == ()
    await stage.deploy(1)
    await eventually(lambda: len(seen) == 2)
    await stage.deploy(2)
    await eventually(lambda: len(seen) == 3)
    await reconciler.stop()
    watching.cancel()

    versions = [table.version for table in seen]
    assert versions == sorted(set(versions))
    assert [route.revision for table in seen for route in table.routes] == [1, 2]
    assert seen[-1].routes[0].outputs[0].shape == (-1, 1)


async def test_a_change_is_waited_for(stage: Stage) -> None:
    reconciler = stage.reconciler()
    serving = Serving(reconciler)
    await reconciler.start()
    await stage.deploy(1)

    standing = await serving.settled(await stage.registry.rollout.current("acme", "boxes"))

    assert (standing.ready, standing.problem) == (frozenset({1}), "")
    await reconciler.stop()


async def test_a_change_that_cannot_be_made_is_not_waited_for(stage: Stage) -> None:
    reconciler = stage.reconciler()
    await reconciler.start()
    stage.server.reachable = False
    await stage.deploy(1)
    flip_one_bit(stage.registry.object_path(await stage.registry.version(1), "model.onnx"))
    stage.server.reachable = True

    async with asyncio.timeout(10):
        standing = await Serving(reconciler).settled(
            await stage.registry.rollout.current("acme", "boxes"), within_s=20
        )

    assert "model.onnx of boxes version 1" in standing.problem
    await reconciler.stop()


async def test_without_triton_the_answer_says_so(stage: Stage) -> None:
    stage.server.reachable = False
    reconciler = stage.reconciler()
    await reconciler.start()
    await stage.deploy(1)
    await eventually(lambda: "Triton cannot be reached" in reconciler.problem)

    standing = await Serving(reconciler).settled(
        await stage.registry.rollout.current("acme", "boxes"), within_s=0.05
    )

    assert standing.problem == "Triton cannot be reached."
    await reconciler.stop()
