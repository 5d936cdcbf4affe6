"""Which jobs exist: once for each cause, once for each version."""

from datetime import UTC, datetime

import pytest

from libs.common.errors import InvalidInputError, NotFoundError
from libs.common.events import DatasetVersioned, DriftDetected
from services.trainer.core import pipelines
from services.trainer.core.jobs import job_of
from services.trainer.core.queueing import RunRequest
from tests.support.training import PIPELINE, TENANT, Trainer, flowers, parquet, patients

NOW = datetime(2026, 1, 5, tzinfo=UTC)


def versioned(
    event_id: str = "e1", version: int = 1, dataset: str = "patients"
) -> DatasetVersioned:
    return DatasetVersioned(
        id=event_id,
        tenant=TENANT,
        at=NOW,
        dataset=dataset,
        version=version,
        manifest_sha256="f" * 64,
        row_count=30,
    )


def drifted(event_id: str = "d1", model: str = "tumour") -> DriftDetected:
    return DriftDetected(
        id=event_id, tenant=TENANT, at=NOW, model=model, version=1, features=(), live_rows=500
    )


async def names(trainer: Trainer) -> list[str]:
    return [job_of(entry).id for entry in await trainer.journal.heads("job", TENANT)]


async def answer(trainer: Trainer) -> str:
    pipeline = await trainer.pipelines.get(TENANT, "tumours")
    return await trainer.queueing.drift_answer(pipeline)


async def test_a_version_queues_one_job_however_often_it_is_told(trainer: Trainer) -> None:
    await trainer.pipelines.put(TENANT, PIPELINE, "ann")
    for event_id in ("e1", "e1", "e2"):
        await trainer.queueing.dataset_versioned(versioned(event_id))
    assert await names(trainer) == ["tumours-v1"]
    (entry,) = await trainer.history("tumours-v1")
    job = job_of(entry)
    assert (job.author, job.trigger, entry.by) == ("ann", "dataset_versioned", "ann")
    assert job.dataset_manifest_sha256 == "f" * 64


async def test_only_pipelines_of_the_tenant_dataset_and_trigger_run(trainer: Trainer) -> None:
    triggers = "triggers: [dataset_versioned, drift_detected]\n"
    await trainer.pipelines.put("globex", PIPELINE, "eve")
    await trainer.pipelines.put(TENANT, PIPELINE.replace(triggers, ""), "ann")
    other = PIPELINE.replace("patients", "others").replace("name: tumours", "name: others")
    await trainer.pipelines.put(TENANT, other, "ann")
    await trainer.queueing.dataset_versioned(versioned())
    assert await names(trainer) == []
    await trainer.queueing.dataset_versioned(versioned("e2", dataset="others"))
    assert await names(trainer) == ["others-v1"]


async def test_drift_seals_what_came_since_and_trains_on_it(trainer: Trainer) -> None:
    await trainer.pipelines.put(TENANT, PIPELINE, "ann")
    await trainer.queueing.dataset_versioned(versioned())
    trainer.datasets.unsealed["patients"] = parquet(patients(60))
    for _ in range(2):
        await trainer.queueing.drift_detected(drifted())
    assert await names(trainer) == ["tumours-v1", "tumours-v2"]
    assert (await trainer.job("tumours-v2")).trigger == "drift_detected"
    assert await answer(trainer) == "Version 2 of patients is trained on."
    # The version's own event comes later, or came before: the job is the same.
    await trainer.queueing.dataset_versioned(versioned("e2", 2))
    assert len(await trainer.history("tumours-v2")) == 1


async def test_drift_without_new_rows_trains_nothing_and_says_so(trainer: Trainer) -> None:
    await trainer.pipelines.put(TENANT, PIPELINE, "ann")
    await trainer.queueing.dataset_versioned(versioned())
    await trainer.queueing.drift_detected(drifted())
    assert await names(trainer) == ["tumours-v1"]
    assert "no new rows since version 1, which the job tumours-v1 trained on" in await answer(
        trainer
    )
    assert trainer.datasets.sealed == ["d1"]


async def test_drift_after_a_run_by_hand_trains_nothing_twice(trainer: Trainer) -> None:
    job = await trainer.run()
    await trainer.queueing.drift_detected(drifted())
    assert await names(trainer) == [job]
    assert job in await answer(trainer)


async def test_drift_of_a_version_that_failed_trains_again(trainer: Trainer) -> None:
    job = await trainer.run()
    await trainer.oversight.cancel(TENANT, job, "", "ann")
    await trainer.queueing.drift_detected(drifted())
    assert await names(trainer) == ["tumours-v1", job]


async def test_drift_of_another_model_does_nothing(trainer: Trainer) -> None:
    await trainer.pipelines.put(TENANT, PIPELINE, "ann")
    await trainer.queueing.drift_detected(drifted(model="other"))
    assert trainer.datasets.sealed == []


async def test_a_run_is_once_for_its_key_even_when_a_newer_version_came(trainer: Trainer) -> None:
    first = await trainer.run(key="k1")
    trainer.datasets.add("patients", patients(40))
    assert await trainer.run(key="k1") == first
    second = await trainer.run(key="k2")
    assert first.startswith("tumours-v1-")
    assert second.startswith("tumours-v2-")
    assert len(await names(trainer)) == 2


async def test_a_run_may_take_another_dataset_and_parameters(trainer: Trainer) -> None:
    trainer.datasets.add("shuffled", patients(30))
    await trainer.pipelines.put(TENANT, PIPELINE, "ann")
    request = RunRequest("tumours", dataset="shuffled", parameters={"mlp.epochs": "3"})
    job = job_of(await trainer.queueing.run(TENANT, request, "bob"))
    assert (job.dataset, job.parameters, job.author) == ("shuffled", {"mlp.epochs": "3"}, "bob")
    assert job.trigger == "request"


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (RunRequest("unknown"), NotFoundError),
        (RunRequest("tumours", dataset="unknown"), NotFoundError),
        (RunRequest("tumours", dataset_version=9), NotFoundError),
        (RunRequest("tumours", parameters={"mlp.colour": "red"}), InvalidInputError),
        (RunRequest("tumours", parameters={"mlp.epochs": "9" * 1_001}), InvalidInputError),
        (RunRequest("tumours", idempotency_key="k" * 257), InvalidInputError),
    ],
)
async def test_a_run_that_cannot_be_is_refused_at_once(
    trainer: Trainer, request_: RunRequest, error: type[Exception]
) -> None:
    await trainer.pipelines.put(TENANT, PIPELINE, "ann")
    with pytest.raises(error):
        await trainer.queueing.run(TENANT, request_, "ann")
    assert await names(trainer) == []


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ("label: diagnoses", "label"),
        ("label: diagnosis, features: [mean radius, diagnoses]", "features"),
    ],
)
async def test_a_column_that_is_not_there_is_refused_before_a_job_is_queued(
    trainer: Trainer, changed: str, field: str
) -> None:
    wrong = PIPELINE.replace("label: diagnosis", changed)
    names_it = rf"patients has no column 'diagnoses'.* data\.{field}: key, mean radius, "
    with pytest.raises(InvalidInputError, match=names_it):
        await trainer.pipelines.put(TENANT, wrong, "ann")
    with pytest.raises(NotFoundError):
        await trainer.pipelines.get(TENANT, "tumours")

    # Put while nobody could tell, it is refused when it is run.
    trainer.datasets.reachable = False
    _, warning = await trainer.pipelines.put(TENANT, wrong, "ann")
    assert warning == (
        "The columns of patients were not checked. The service ingest cannot be reached."
    )
    trainer.datasets.reachable = True
    with pytest.raises(InvalidInputError, match=names_it):
        await trainer.queueing.run(TENANT, RunRequest("tumours"), "ann")
    assert await names(trainer) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ("label: mean radius", "label 'mean radius' is a float"),
        ("label: diagnosis, features: [mean radius, key]", "feature 'key' is not .* is string"),
    ],
)
async def test_a_column_of_no_use_is_refused_before_a_job_is_queued(
    trainer: Trainer, changed: str, said: str
) -> None:
    wrong = PIPELINE.replace("label: diagnosis", changed)
    with pytest.raises(InvalidInputError, match=said):
        await trainer.pipelines.put(TENANT, wrong, "ann")
    trainer.datasets.reachable = False
    await trainer.pipelines.put(TENANT, wrong, "ann")
    with pytest.raises(InvalidInputError, match=said):
        await trainer.queueing.run(TENANT, RunRequest("tumours"), "ann")


async def test_a_column_to_leave_out_must_be_there_when_it_is_put(trainer: Trainer) -> None:
    left_out = PIPELINE.replace("label: diagnosis", "label: diagnosis, exclude: [mean area]")
    await trainer.pipelines.put(TENANT, left_out, "ann")
    wrong = left_out.replace("mean area", "wing")
    with pytest.raises(InvalidInputError, match=r"no column 'wing'.* data\.exclude: key, "):
        await trainer.pipelines.put(TENANT, wrong, "ann")

    # A version may be without it: then there is nothing to leave out.
    trainer.datasets.add("patients", patients().drop("mean area"))
    await trainer.queueing.run(TENANT, RunRequest("tumours"), "ann")


async def test_whoever_puts_a_pipeline_does_not_wait_for_a_silent_ingest(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipelines, "CHECK_S_MAX", 0.01)
    trainer.datasets.silent = True
    entry, warning = await trainer.pipelines.put(TENANT, PIPELINE, "ann")
    assert entry.version == 1
    assert "ingest did not answer within 0.01 s" in warning


async def test_a_run_on_another_dataset_needs_its_columns(trainer: Trainer) -> None:
    await trainer.pipelines.put(TENANT, PIPELINE, "ann")
    trainer.datasets.add("flowers", flowers())
    request = RunRequest("tumours", dataset="flowers")
    with pytest.raises(InvalidInputError, match="flowers has no column 'diagnosis'"):
        await trainer.queueing.run(TENANT, request, "ann")


async def test_a_pipeline_may_be_put_before_its_data_and_says_so(trainer: Trainer) -> None:
    early = PIPELINE.replace("patients", "arrivals")
    _, warning = await trainer.pipelines.put(TENANT, early, "ann")
    assert "No source feeds the dataset arrivals yet" in warning
    trainer.datasets.add("arrivals", patients(30))
    assert (await trainer.pipelines.put(TENANT, early, "ann"))[1] == ""


async def test_a_pipeline_changes_by_revisions_and_jobs_keep_theirs(trainer: Trainer) -> None:
    first, _ = await trainer.pipelines.put(TENANT, PIPELINE, "ann")
    again, _ = await trainer.pipelines.put(TENANT, PIPELINE, "ann")
    assert again.version == first.version
    changed = PIPELINE.replace("epochs: 30", "epochs: 31")
    second, _ = await trainer.pipelines.put(TENANT, changed, "bob")
    assert (first.version, second.version) == (1, 2)
    old = await trainer.pipelines.definition(TENANT, "tumours", 1)
    new = await trainer.pipelines.definition(TENANT, "tumours", 2)
    assert [each.document()["steps"][1]["parameters"]["epochs"] for each in (old, new)] == [30, 31]


async def test_jobs_are_listed_by_pipeline_and_state_in_pages(trainer: Trainer) -> None:
    jobs = sorted([await trainer.run(key=str(n)) for n in range(5)])
    await trainer.oversight.cancel(TENANT, jobs[0], "", "ann")
    longer = PIPELINE.replace("name: tumours", "name: tumours-v", 1)
    await trainer.pipelines.put(TENANT, longer, "ann")
    await trainer.queueing.run(TENANT, RunRequest("tumours-v"), "ann")
    listed, token = await trainer.oversight.page(TENANT, "tumours", None, "", 3)
    rest, end = await trainer.oversight.page(TENANT, "tumours", None, token, 3)
    assert [job.id for job in (*listed, *rest)] == jobs
    assert end == ""
    queued, _ = await trainer.oversight.page(TENANT, "tumours", "queued", "", 50)
    assert [job.id for job in queued] == jobs[1:]
    assert await trainer.oversight.page("globex", "", None, "", 50) == ([], "")


async def test_a_token_that_no_such_listing_gave_is_refused(trainer: Trainer) -> None:
    job = await trainer.run()
    for pipeline, token in (("", "garbage"), ("other", job), ("tumours", "9" * 40)):
        with pytest.raises(InvalidInputError, match="not one that this listing gave"):
            await trainer.oversight.page(TENANT, pipeline, None, token, 3)
    with pytest.raises(InvalidInputError, match="not one that this listing gave"):
        await trainer.pipelines.page(TENANT, "garbage", 3)
    assert await trainer.oversight.page(TENANT, "tumours", None, job, 3) == ([], "")
    assert await trainer.pipelines.page(TENANT, "tumours", 3) == []
