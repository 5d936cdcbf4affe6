import asyncio
import contextlib
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from libs.common.errors import IntegrityError, InvalidInputError
from libs.common.journal import Journal
from libs.common.stores.sqlite import SqliteJournal
from services.inference.core import names
from services.inference.core.manifest import File
from services.inference.core.registration import Registration
from services.inference.core.versions import Stage
from services.inference.ports import Part
from tests.support.candidates import Candidate
from tests.support.entries import Died, FaultyStore
from tests.support.registry import Registry


async def test_a_completed_training_becomes_a_version(registry: Registry) -> None:
    candidate = Candidate()

    version = await registry.register(candidate)

    assert version.version == 1
    assert version.stage is Stage.CANDIDATE
    assert version.author == "ada"
    assert version.lineage.dataset_version == 3
    for name, content in candidate.files.items():
        assert await registry.artifacts.file(version, name) == content
    assert await registry.artifacts.manifest(version) == candidate.manifest
    assert (await registry.artifacts.card(version)).startswith("# Boxes")


async def test_each_training_becomes_the_next_version(registry: Registry) -> None:
    for number in (1, 2, 3):
        assert (await registry.register(Candidate(job=f"job-{number}"))).version == number


async def test_the_same_fact_told_often_and_at_once_makes_one_version(registry: Registry) -> None:
    candidate = Candidate()
    registry.candidates.add(candidate)

    await asyncio.gather(*(registry.registration.take(candidate.completed()) for _ in range(8)))

    assert (await registry.catalogue.model("acme", "boxes")).latest_version == 1
    assert len(await registry.journal.heads("version")) == 1


async def test_trainings_that_end_at_once_get_a_number_each(registry: Registry) -> None:
    candidates = [Candidate(job=f"job-{number}") for number in range(6)]
    for candidate in candidates:
        registry.candidates.add(candidate)

    await asyncio.gather(*(registry.registration.take(each.completed()) for each in candidates))

    heads = await registry.journal.heads("version")
    assert sorted(head.state["version"] for head in heads) == [1, 2, 3, 4, 5, 6]
    assert len({head.state["lineage"]["job"] for head in heads}) == 6


async def test_dying_anywhere_leaves_one_version_once_the_fact_comes_again(
    registry: Registry, tmp_path: Path
) -> None:
    candidate = Candidate()
    registry.candidates.add(candidate)
    for fault_at in range(20):
        store = SqliteJournal(tmp_path / f"journal-{fault_at}.db")
        faulty = FaultyStore(store, fault_at)
        journal = Journal(faulty, registry.clock)
        registration = Registration(journal, registry.objects, registry.candidates)
        with contextlib.suppress(Died):
            await registration.take(candidate.completed())
        journal = Journal(store, registry.clock)
        await replace(registration, journal=journal).take(candidate.completed())

        assert len(await journal.heads("version")) == 1
        [model] = await journal.heads("model")
        assert model.state["latest_version"] == 1
        await store.close()
        if not faulty.struck:
            break
    else:
        pytest.fail("There were more points to fail at than were tried.")


async def test_another_manifest_than_announced_is_refused(registry: Registry) -> None:
    registry.candidates.add(Candidate())
    event = Candidate().completed().model_copy(update={"manifest_sha256": "0" * 64})

    with pytest.raises(IntegrityError, match=r"manifest\.json is not what was promised"):
        await registry.registration.take(event)


async def test_a_file_damaged_on_its_way_is_refused_and_not_kept(registry: Registry) -> None:
    candidate = Candidate()
    parts = candidate.parts()
    place = next(
        place for place, part in enumerate(parts) if part.file and part.file.name == "model.onnx"
    )
    parts[place] = Part(b"\x00" + parts[place].content[1:], parts[place].file)
    registry.candidates.parts[candidate.job] = parts

    with pytest.raises(IntegrityError, match=r"model\.onnx is not what its manifest says"):
        await registry.registration.take(candidate.completed())

    digest = hashlib.sha256(candidate.onnx).hexdigest()
    assert not await registry.objects.exists(names.object_key("acme", digest))
    assert await registry.journal.heads("version") == []


async def test_more_bytes_than_listed_are_refused_before_they_fill_the_disk(
    registry: Registry,
) -> None:
    candidate = Candidate()
    registry.candidates.parts[candidate.job] = [*candidate.parts(), Part(b"more")]

    with pytest.raises(IntegrityError, match=r"card\.md"):
        await registry.registration.take(candidate.completed())


async def test_a_file_that_does_not_come_is_missed(registry: Registry) -> None:
    candidate = Candidate()
    parts = candidate.parts()
    end = next(place for place, part in enumerate(parts) if part.file and "card" in part.file.name)
    registry.candidates.parts[candidate.job] = parts[:end]

    with pytest.raises(InvalidInputError, match=r"lacks card\.md"):
        await registry.registration.take(candidate.completed())


async def test_a_file_that_nobody_listed_is_refused(registry: Registry) -> None:
    candidate = Candidate()
    stowaway = File(name="more.onnx", sha256="0" * 64, size_bytes=1)
    registry.candidates.parts[candidate.job] = [*candidate.parts(), Part(b"x", stowaway)]

    with pytest.raises(InvalidInputError, match=r"more\.onnx"):
        await registry.registration.take(candidate.completed())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"files": [{"name": "model.pkl", "sha256": "0" * 64, "size_bytes": 1}]}, "files lack"),
        ({"format": "basalt.model/2"}, "format"),
        ({"author": ""}, "author"),
        ({"model": "other"}, "is a model other, not boxes"),
        ({"inputs": []}, "inputs"),
        ({"outputs": [{"name": "label", "datatype": "STRING", "shape": [-1]}]}, "datatype"),
        ({"features": []}, "features"),
        ({"gates": {"accuracy_min": 7}}, "accuracy_min"),
    ],
)
async def test_a_manifest_that_cannot_be_taken_says_why(
    registry: Registry, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(InvalidInputError, match=said):
        await registry.register(Candidate(changes=changes))

    assert await registry.journal.heads("model") == []


async def test_nothing_that_runs_code_when_read_is_taken(registry: Registry) -> None:
    class Pickled(Candidate):
        @property
        def files(self) -> dict[str, bytes]:
            return {**super().files, "weights.pkl": b"\x80\x04."}

    with pytest.raises(InvalidInputError, match=r"weights\.pkl is none of"):
        await registry.register(Pickled())


@pytest.mark.parametrize("name", ["Boxes", "a--b", "-a", "a/b", "", "a" * 64, "a.b"])
async def test_names_that_could_be_mistaken_are_refused(registry: Registry, name: str) -> None:
    with pytest.raises(InvalidInputError, match="cannot be the name"):
        await registry.registration.take(Candidate(model=name).completed())


def test_internal_names_tell_tenants_and_models_apart() -> None:
    assert names.internal_name("acme", "boxes-2", 7) == "acme--boxes-2--v7"
    assert names.parts_of_internal("acme--boxes-2--v7") == ("acme", "boxes-2", 7)
    assert names.is_internal("acme--boxes-2--v7")
    assert not names.is_internal("somebody-elses-model")
    with pytest.raises(InvalidInputError):
        names.internal_name("acme--x", "boxes", 1)
