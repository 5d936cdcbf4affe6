import asyncio

import pytest

from libs.common import flow
from libs.common.errors import (
    DependencyError,
    ForbiddenError,
    IntegrityError,
    NotFoundError,
    PreconditionError,
)
from libs.common.signing import verify_manifest
from libs.common.stores.ports import Entry
from services.inference.core import versions
from services.inference.core.versions import ModelVersion, Stage
from tests.support.calling import called
from tests.support.candidates import Candidate
from tests.support.registry import Registry, flip_one_bit


async def approve(registry: Registry, reviewer: str = "bob") -> ModelVersion:
    entry, _ = await registry.review.approve("acme", "boxes", 1, reviewer, "looks fine")
    return versions.of(entry)


async def test_an_approved_version_is_signed(registry: Registry) -> None:
    candidate = Candidate()
    await registry.gated(candidate)

    version = await approve(registry)

    assert version.stage is Stage.SIGNED
    assert version.approved_by == "bob"
    key = registry.signatures.key
    assert version.signed_by_key == key.key_id
    signature = await registry.artifacts.bytes_of(version, "signature", version.signature_sha256)
    assert verify_manifest(candidate.manifest, signature, {"k": key.public_pem}) == "k"
    [signed] = [
        each
        for entry in await registry.store.unrelayed()
        for each in entry.outbox
        if each.topic == flow.MODEL_SIGNED.name
    ]
    assert '"approved_by":"bob"' in signed.payload


async def test_the_author_cannot_approve(registry: Registry) -> None:
    await registry.gated(Candidate(author="ada"))

    with pytest.raises(ForbiddenError, match=r"ada is the author.*Ask another reviewer"):
        await approve(registry, "ada")

    assert (await registry.version(1)).stage is Stage.GATED


async def test_the_author_cannot_approve_what_is_signed_either(registry: Registry) -> None:
    await registry.signed(Candidate(author="ada"))

    with pytest.raises(ForbiddenError):
        await approve(registry, "ada")


async def test_what_is_not_gated_cannot_be_approved(registry: Registry) -> None:
    await registry.register(Candidate())

    with pytest.raises(PreconditionError, match="is candidate, not gated"):
        await approve(registry)


async def test_approving_again_changes_nothing_and_says_so(registry: Registry) -> None:
    await registry.gated(Candidate())

    async def call(who: str, key: str, comment: str) -> tuple[Entry, bool]:
        approving = registry.review.approve("acme", "boxes", 1, who, comment)
        return await called(who, key, approving)

    first, already = await call("bob", "one", "looks fine")

    assert not already
    # The same call once more, whose first answer was lost.
    assert await call("bob", "one", "looks fine") == (first, False)
    assert await call("bob", "two", "on second thoughts") == (first, True)
    assert await call("carol", "one", "") == (first, True)
    assert [each.comment for each in versions.of(first).reviews] == ["looks fine"]


async def test_approvals_at_once_sign_once(registry: Registry) -> None:
    await registry.gated(Candidate())

    answers = await asyncio.gather(
        *(registry.review.approve("acme", "boxes", 1, f"reviewer-{n}", "") for n in range(5))
    )

    assert len({versions.of(entry).approved_by for entry, _ in answers}) == 1
    assert sorted(already for _, already in answers) == [False, True, True, True, True]
    entries = await registry.journal.history(answers[0][0].aggregate)
    assert [entry.type for entry in entries].count("VersionSigned") == 1


async def test_without_security_nothing_is_half_done(registry: Registry) -> None:
    await registry.gated(Candidate())
    registry.signatures.reachable = False

    with pytest.raises(DependencyError, match="security"):
        await approve(registry)

    version = await registry.version(1)
    assert version.stage is Stage.GATED
    assert version.reviews == ()
    registry.signatures.reachable = True
    assert (await approve(registry)).stage is Stage.SIGNED


async def test_a_damaged_manifest_is_not_signed(registry: Registry) -> None:
    version = await registry.gated(Candidate())
    flip_one_bit(registry.objects_folder / f"acme/models/{version.manifest_sha256}")

    with pytest.raises(IntegrityError, match=r"manifest\.json of boxes version 1"):
        await approve(registry)


async def test_a_rejected_version_stays_rejected(registry: Registry) -> None:
    await registry.gated(Candidate())

    entry, already = await registry.review.reject("acme", "boxes", 1, "bob", "odd on small ones")
    again = await registry.review.reject("acme", "boxes", 1, "carol", "too")

    assert versions.of(entry).stage is Stage.REJECTED
    assert not already
    assert again == (entry, True)
    with pytest.raises(PreconditionError, match="rejected"):
        await approve(registry)


async def test_a_signed_version_cannot_be_rejected(registry: Registry) -> None:
    await registry.signed(Candidate())

    with pytest.raises(PreconditionError, match="signed and cannot be rejected"):
        await registry.review.reject("acme", "boxes", 1, "bob", "")


@pytest.mark.parametrize(
    ("tenant", "model", "number"), [("acme", "boxes", 2), ("other", "boxes", 1)]
)
async def test_unknown_and_foreign_versions_are_not_found(
    registry: Registry, tenant: str, model: str, number: int
) -> None:
    await registry.gated(Candidate())

    with pytest.raises(NotFoundError, match=f"no version {number} of the model boxes"):
        await registry.review.approve(tenant, model, number, "bob", "")


async def test_aliases_move(registry: Registry) -> None:
    await registry.register(Candidate())
    await registry.register(Candidate(job="job-2"))

    await registry.catalogue.set_alias("acme", "boxes", "champion", 1, "ops")
    await registry.catalogue.set_alias("acme", "boxes", "champion", 2, "ops")

    entry, model = await registry.catalogue.version("acme", "boxes", alias="champion")
    assert versions.of(entry).version == 2
    assert model.aliases == {"champion": 2}
    # A new version leaves them where they are.
    await registry.register(Candidate(job="job-3"))
    assert (await registry.catalogue.model("acme", "boxes")).aliases == {"champion": 2}


async def test_an_alias_needs_a_version_and_a_name(registry: Registry) -> None:
    await registry.register(Candidate())

    with pytest.raises(NotFoundError, match="no version 9"):
        await registry.catalogue.set_alias("acme", "boxes", "champion", 9, "ops")
    with pytest.raises(NotFoundError, match=r"no alias best.*It has: none"):
        await registry.catalogue.version("acme", "boxes", alias="best")
    with pytest.raises(NotFoundError, match="no model crates"):
        await registry.catalogue.model("acme", "crates")


async def test_nobody_who_answers_for_it_can_approve(registry: Registry) -> None:
    answering = ["key:ci/01k5", "ada", "zoe"]
    await registry.gated(Candidate(author="key:ci", changes={"responsible": answering}))

    for reviewer in ("ada", "zoe"):
        with pytest.raises(ForbiddenError, match=rf"{reviewer} wrote the pipeline.*Ask another"):
            await approve(registry, reviewer)

    assert (await registry.version(1)).responsible == tuple(answering)
    assert (await approve(registry)).approved_by == "bob"
