"""Who may not approve a model: kept from the pipeline's first revision to the manifest."""

import json
from datetime import UTC, datetime

import pytest

from libs.common.errors import IntegrityError, LimitError
from libs.common.events import DatasetVersioned
from libs.common.identity import Caller
from libs.common.journal import Change
from services.trainer.core.candidates import Candidates
from services.trainer.core.jobs import job_of
from services.trainer.core.order import MANIFEST_FILE, Order
from services.trainer.core.pipelines import WRITERS_MAX, pipeline_of
from services.trainer.core.queueing import RunRequest
from services.trainer.outbound.workplace import FolderWorkplace
from services.trainer.ports import Columns
from tests.support.training import PIPELINE, TENANT, Trainer

CHANGED = PIPELINE.replace("accuracy_min: 0.9", "accuracy_min: 0.8")
KEY = Caller(TENANT, "key:ci", frozenset({"engineer"}), "01k5", 0.0)
OTHER_KEY = Caller(TENANT, "key:ci", frozenset({"engineer"}), "01k6", 0.0)


def test_a_key_answers_by_its_id_for_names_are_given_again() -> None:
    assert KEY.answerable != OTHER_KEY.answerable
    assert KEY.answerable == "key:ci/01k5"
    assert Caller(TENANT, "ann", frozenset(), "01k7", 0.0).answerable == "ann"


async def test_whoever_ran_it_and_every_writer_answers_for_a_job(trainer: Trainer) -> None:
    await trainer.pipelines.put(TENANT, PIPELINE, "ann")
    await trainer.pipelines.put(TENANT, CHANGED, KEY.subject, KEY.answerable)
    # A colleague puts the same text again, and another one runs it.
    await trainer.pipelines.put(TENANT, CHANGED, "bob")

    run = RunRequest("tumours", idempotency_key="k")
    job = job_of(await trainer.queueing.run(TENANT, run, OTHER_KEY.subject, OTHER_KEY.answerable))

    assert job.responsible == ("ann", "key:ci/01k5", "bob", "key:ci/01k6")
    assert job.author == "key:ci"
    order = Order.of(job, await trainer.pipelines.definition(TENANT, "tumours", 3), Columns(), 1.0)
    assert order.responsible == job.responsible


async def test_writers_answer_for_what_an_event_has_trained(trainer: Trainer) -> None:
    await trainer.pipelines.put(TENANT, PIPELINE, "ann")
    await trainer.pipelines.put(TENANT, CHANGED, "bob")
    event = DatasetVersioned(
        id="e1",
        tenant=TENANT,
        at=datetime(2026, 1, 5, tzinfo=UTC),
        dataset="patients",
        version=1,
        manifest_sha256="f" * 64,
        row_count=30,
    )

    await trainer.queueing.dataset_versioned(event)

    job = await trainer.job("tumours-v1")
    assert (job.author, job.responsible) == ("bob", ("ann", "bob"))


async def test_the_same_writer_with_the_same_text_makes_no_new_revision(trainer: Trainer) -> None:
    await trainer.pipelines.put(TENANT, PIPELINE, KEY.subject, KEY.answerable)
    again, _ = await trainer.pipelines.put(TENANT, PIPELINE, KEY.subject, KEY.answerable)
    assert again.version == 1
    # Another key of the same name may be another person's.
    other, _ = await trainer.pipelines.put(TENANT, PIPELINE, KEY.subject, OTHER_KEY.answerable)
    assert other.version == 2


async def test_writers_from_before_they_were_kept_are_found_in_the_history(
    trainer: Trainer,
) -> None:
    for owner in ("ann", "bob", "ann"):
        entry, _ = await trainer.pipelines.put(TENANT, PIPELINE, owner)
        old = {name: value for name, value in entry.state.items() if name != "writers"}
        old |= {"owner": owner, "definition_yaml": PIPELINE + f"# by {owner}\n"}
        await trainer.journal.append(
            entry.aggregate,
            entry.version,
            f"old-{entry.version}",
            Change("PipelinePut", old),
            owner,
        )
    latest = await trainer.pipelines.get(TENANT, "tumours")
    assert pipeline_of(latest).writers == ()

    assert await trainer.pipelines.writers(latest) == ("ann", "bob")


async def test_a_pipeline_has_only_so_many_writers(trainer: Trainer) -> None:
    entry, _ = await trainer.pipelines.put(TENANT, PIPELINE, "ann")
    many = [f"key:ci/{number}" for number in range(WRITERS_MAX)]
    state = {**entry.state, "writers": many}
    await trainer.journal.append(
        entry.aggregate, entry.version, "many", Change("PipelinePut", state), "ann"
    )

    with pytest.raises(LimitError, match=r"tumours.*another name"):
        await trainer.pipelines.put(TENANT, CHANGED, "zoe")
    await trainer.pipelines.put(TENANT, CHANGED, "key:ci", many[0])


@pytest.mark.parametrize(
    "said", [{"author": "zoe"}, {"responsible": []}, {"responsible": ["ann", "zoe"]}]
)
async def test_a_manifest_that_names_others_than_the_job_is_not_kept(
    trainer: Trainer, said: dict[str, object]
) -> None:
    job = await trainer.job(await trainer.run())
    manifest = {"author": "ann", "responsible": ["ann"], "files": []}

    place = await FolderWorkplace(trainer.folder / "work").prepare(TENANT, job.id, 1)
    (place.path / MANIFEST_FILE).write_text(json.dumps(manifest | said))
    with pytest.raises(IntegrityError, match="names others"):
        await Candidates(trainer.objects).keep(TENANT, job, place)
    (place.path / MANIFEST_FILE).write_text(json.dumps(manifest))
    assert await Candidates(trainer.objects).keep(TENANT, job, place)
