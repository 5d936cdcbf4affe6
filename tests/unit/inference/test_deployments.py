import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from libs.common import flow
from libs.common.errors import InvalidInputError, NotFoundError, PreconditionError
from services.inference.core import deployments
from services.inference.core.deployments import Revision, kept, rollback_target, routed
from services.inference.core.manifest import Lineage
from tests.support.calling import called
from tests.support.candidates import CLASSES, FEATURES, Candidate
from tests.support.entries import NOON
from tests.support.registry import Registry


def history(*revisions: dict[int, int], rollbacks: tuple[int, ...] = ()) -> list[Revision]:
    """Each revision as weights by version; an empty one is an undeployment."""
    return [
        Revision(
            tenant="acme",
            model="boxes",
            revision=number,
            action=("rollback" if number in rollbacks else "deploy" if weights else "undeploy"),
            reason="",
            variants=tuple(
                deployments.Variant(
                    version=version,
                    manifest_sha256=f"{version:064}",
                    weight=weight,
                    lineage=Lineage(),
                    approved_by="bob",
                )
                for version, weight in weights.items()
            ),
            at=NOON + timedelta(hours=number),
            by="ops",
            cause=str(number),
        )
        for number, weights in enumerate(revisions, start=1)
    ]


def internal(*numbers: int) -> frozenset[str]:
    return frozenset(f"acme--boxes--v{number}" for number in numbers)


ONE, TWO, THREE, FOUR = {1: 100}, {2: 100}, {3: 100}, {4: 100}
CANARY = {1: 80, 2: 20}


@pytest.mark.parametrize(
    ("past", "target"),
    [
        ((ONE, TWO), 1),
        ((ONE, TWO, ONE), 2),
        ((ONE, CANARY), 1),  # The canary is withdrawn.
        ((ONE, CANARY, {1: 50, 2: 50}), 1),
        ((ONE, CANARY, TWO), 1),  # After a promotion: not to the split that tried it.
        ((ONE, TWO, {}), 2),
        ((ONE, {}, TWO), 1),
        ((ONE, TWO, THREE), 2),
    ],
)
def test_where_a_rollback_goes(past: tuple[dict[int, int], ...], target: int) -> None:
    assert rollback_target(history(*past)).revision == target


@pytest.mark.parametrize(
    ("past", "rollbacks", "target"),
    [
        ((ONE, TWO, THREE, TWO), (4,), 1),
        ((ONE, TWO, {2: 80, 3: 20}, TWO), (4,), 1),
        ((TWO, ONE, THREE, FOUR, ONE), (5,), 1),  # Nor to what a named revision went back over.
        ((ONE, TWO, ONE, TWO), (3,), 3),  # Version 2 was deployed again.
        ((ONE, TWO, THREE, TWO, {}), (4,), 4),
    ],
)
def test_a_second_rollback_goes_further_back(
    past: tuple[dict[int, int], ...], rollbacks: tuple[int, ...], target: int
) -> None:
    assert rollback_target(history(*past, rollbacks=rollbacks)).revision == target


def test_a_second_rollback_does_not_put_back_what_was_rolled_back_from() -> None:
    past = history(ONE, TWO, ONE, rollbacks=(3,))

    with pytest.raises(PreconditionError, match="besides version 2, which was") as raised:
        rollback_target(past)
    assert "`basalt deploy put boxes VERSION`" in raised.value.next_step
    assert rollback_target(past, 2).revision == 2


def test_a_rollback_to_a_named_revision() -> None:
    past = history(ONE, TWO, {}, THREE)

    assert rollback_target(past, 1).revision == 1
    with pytest.raises(NotFoundError, match="no revision 9 before 4"):
        rollback_target(past, 9)
    with pytest.raises(NotFoundError, match="no revision 4"):
        rollback_target(past, 4)
    with pytest.raises(PreconditionError, match="Revision 3 of boxes served nothing"):
        rollback_target(past, 3)


def test_the_first_deployment_has_nothing_to_go_back_to() -> None:
    with pytest.raises(PreconditionError, match="no earlier revision"):
        rollback_target(history(ONE))


@pytest.mark.parametrize(
    ("past", "broken", "held"),
    [
        ((), set(), []),
        ((ONE,), set(), [1]),
        ((ONE, TWO), set(), [2, 1]),
        ((ONE, TWO, THREE), set(), [3, 2]),
        ((ONE, CANARY), set(), [1, 2]),
        ((THREE, ONE, CANARY), set(), [1, 2]),
        ((ONE, TWO, ONE), set(), [1, 2]),
        ((ONE, TWO, {}), set(), []),
        ((ONE, TWO, THREE), {3}, [3, 2, 1]),
        ((ONE, TWO, THREE), {2, 3}, [3, 2, 1]),
    ],
)
def test_what_is_held_loaded(
    past: tuple[dict[int, int], ...], broken: set[int], held: list[int]
) -> None:
    assert kept(history(*past), 2, frozenset(broken)) == held


@pytest.mark.parametrize(
    ("past", "ready", "since", "revision"),
    [
        ((ONE, TWO), {1, 2}, 0, 2),
        ((ONE, TWO), {1}, 0, 1),
        ((ONE, TWO), {1}, 1, 1),
        ((ONE, TWO), set(), 2, 2),  # A Triton that restarts does not move traffic back.
        ((ONE, TWO), {1}, 2, 2),
        ((ONE, CANARY), {1}, 1, 1),
        ((ONE, CANARY), {1, 2}, 1, 2),
        ((ONE, {}), set(), 1, 2),
        ((ONE, {}, TWO), {1}, 2, 2),
        ((ONE, TWO), set(), 0, None),
    ],
)
def test_which_revision_traffic_follows(
    past: tuple[dict[int, int], ...], ready: set[int], since: int, revision: int | None
) -> None:
    found = routed(history(*past), internal(*ready), since)

    assert (found.revision if found else None) == revision


async def deploy(
    registry: Registry, number: int, weight: int = 100, expected_revision: int = 0
) -> Revision:
    revision, _ = await registry.rollout.deploy(
        "acme",
        "boxes",
        number,
        weight=weight,
        expected_revision=expected_revision,
        reason="because",
        by="ops",
    )
    return revision


@pytest.fixture
async def two(registry: Registry) -> Registry:
    """Two signed versions."""
    await registry.signed(Candidate())
    await registry.signed(Candidate(job="job-2"))
    return registry


def weights(revision: Revision) -> dict[int, int]:
    return {each.version: each.weight for each in revision.variants}


async def test_the_whole_way_of_a_canary(two: Registry) -> None:
    assert weights(await deploy(two, 1)) == {1: 100}
    canary = await deploy(two, 2, weight=20)
    assert (canary.action, weights(canary)) == ("canary", {1: 80, 2: 20})
    more = await deploy(two, 2, weight=50)
    assert weights(more) == {1: 50, 2: 50}
    promoted, _ = await two.rollout.promote("acme", "boxes", reason="fine", by="ops")
    assert (promoted.action, weights(promoted)) == ("promote", {2: 100})
    assert await two.rollout.promote("acme", "boxes", reason="", by="ops") == (promoted, True)
    back, _ = await two.rollout.roll_back("acme", "boxes", to_revision=0, reason="odd", by="ops")
    assert (back.action, weights(back), back.revision) == ("rollback", {1: 100}, 5)
    gone, _ = await two.rollout.undeploy("acme", "boxes", reason="", by="ops")
    assert (gone.action, weights(gone)) == ("undeploy", {})

    told = [each for entry in await two.store.unrelayed() for each in entry.outbox]
    changed = [each for each in told if each.topic == flow.DEPLOYMENT_CHANGED.name]
    assert [each.event_id for each in changed] == [
        f"acme/deployment/boxes/{number}" for number in range(1, 7)
    ]


async def test_what_changes_nothing_makes_no_revision_and_says_so(two: Registry) -> None:
    async def deployed(key: str) -> tuple[Revision, bool]:
        deploying = two.rollout.deploy(
            "acme", "boxes", 1, weight=0, expected_revision=0, reason=key, by="ops"
        )
        return await called("ops", key, deploying)

    first, already = await deployed("one")

    assert not already
    # The same call once more, whose first answer was lost.
    assert await deployed("one") == (first, False)
    assert await deployed("two") == (first, True)
    gone = await two.rollout.undeploy("acme", "boxes", reason="", by="ops")
    assert not gone[1]
    assert await two.rollout.undeploy("acme", "boxes", reason="", by="ops") == (gone[0], True)


async def test_the_expected_revision_guards_against_each_other(two: Registry) -> None:
    await deploy(two, 1)

    outcomes = await asyncio.gather(
        deploy(two, 2, expected_revision=1),
        deploy(two, 2, weight=10, expected_revision=1),
        return_exceptions=True,
    )

    [refused] = [each for each in outcomes if isinstance(each, PreconditionError)]
    assert "is at revision 2, not 1" in str(refused)


async def test_only_signed_versions_are_deployed(registry: Registry) -> None:
    await registry.gated(Candidate())

    with pytest.raises(PreconditionError, match="is gated; only signed versions"):
        await deploy(registry, 1)


async def advice_for(registry: Registry, number: int) -> str:
    with pytest.raises(PreconditionError, match="only signed versions") as raised:
        await deploy(registry, number)
    return raised.value.next_step


async def test_what_is_advised_for_an_unsigned_version_follows_its_stage(
    registry: Registry,
) -> None:
    await registry.register(Candidate())
    assert "being measured" in await advice_for(registry, 1)
    await registry.gates.work()
    assert "`basalt model approve boxes 1`" in await advice_for(registry, 1)
    await registry.review.reject("acme", "boxes", 1, "bob", "no")
    assert "stays rejected" in await advice_for(registry, 1)
    registry.measurement.answer = replace(registry.measurement.answer, balanced_accuracy=0.1)
    await registry.gated(Candidate(job="job-2"))
    assert "`basalt model show boxes 2`" in await advice_for(registry, 2)


async def test_a_canary_needs_another_version_to_keep_the_rest(two: Registry) -> None:
    with pytest.raises(PreconditionError, match="could keep 80 %"):
        await deploy(two, 1, weight=20)
    await deploy(two, 1)
    with pytest.raises(PreconditionError, match="its own canary"):
        await deploy(two, 1, weight=20)
    with pytest.raises(PreconditionError, match="no canary that could be promoted"):
        await two.rollout.promote("acme", "boxes", reason="", by="ops")


async def test_a_canary_has_to_take_and_give_the_same_tensors(two: Registry) -> None:
    features = {"features": [*FEATURES[1:], FEATURES[0]], "classes": CLASSES}
    await two.signed(Candidate(job="job-3", changes=features))
    await deploy(two, 1)

    with pytest.raises(PreconditionError, match="other tensors"):
        await deploy(two, 3, weight=20)
    assert weights(await deploy(two, 3)) == {3: 100}


@pytest.mark.parametrize("weight", [-1, 101])
async def test_weights_are_percent(two: Registry, weight: int) -> None:
    with pytest.raises(InvalidInputError, match="Give 1 to 100"):
        await deploy(two, 1, weight=weight)


async def test_no_weight_means_all(two: Registry) -> None:
    assert weights(await deploy(two, 1, weight=0)) == {1: 100}


async def test_what_was_never_deployed_is_not_found(registry: Registry) -> None:
    rollout = registry.rollout
    for call in (
        rollout.promote("acme", "boxes", reason="", by="ops"),
        rollout.roll_back("acme", "boxes", to_revision=0, reason="", by="ops"),
        rollout.undeploy("acme", "boxes", reason="", by="ops"),
        rollout.current("acme", "boxes"),
        registry.history.records("acme", "boxes"),
    ):
        with pytest.raises(NotFoundError, match="boxes was never deployed"):
            await call


async def test_the_history_says_what_served_when_from_which_data_and_who_approved(
    two: Registry,
) -> None:
    first = await deploy(two, 1)
    second = await deploy(two, 2)

    [one, other] = await two.history.records("acme")
    assert (one.revision, one.until) == (first, second.at)
    assert (other.revision, other.until) == (second, None)
    assert one.revision.variants[0].lineage.dataset == "measurements"
    assert one.revision.variants[0].approved_by == "bob"

    assert [each.revision for each in await two.history.records("acme", at=first.at)] == [first]
    assert [each.revision for each in await two.history.records("acme", at=second.at)] == [second]
    before = first.at - timedelta(microseconds=1)
    assert await two.history.records("acme", at=before) == []
    assert await two.history.records("other") == []


async def test_the_history_of_several_models_is_one_by_time(two: Registry) -> None:
    await two.signed(Candidate(model="circles"))
    revisions = [await deploy(two, 1)]
    circles = await two.rollout.deploy(
        "acme", "circles", 1, weight=0, expected_revision=0, reason="", by="ops"
    )
    revisions += [circles[0], await deploy(two, 2)]

    assert [each.revision for each in await two.history.records("acme")] == revisions


async def test_after_an_undeployment_nothing_was_in_force(two: Registry) -> None:
    await deploy(two, 1)
    gone, _ = await two.rollout.undeploy("acme", "boxes", reason="", by="ops")

    assert await two.history.records("acme", at=gone.at) == []
