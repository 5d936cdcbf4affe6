"""Whatever somebody writes into the registry: what is served is what was signed."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from libs.common.errors import BasaltError, IntegrityError
from libs.common.journal import Change
from services.inference.core import names
from services.inference.core.manifest import File
from services.inference.core.versions import ModelVersion, Stage
from services.inference.ports import Signature
from tests.support.candidates import Candidate, contrary_model, good_model
from tests.support.registry import LocalSignatures, MemoryModelServer, Registry
from tests.unit.inference.test_reconciler import quiet, routes

NAME = "acme--boxes--v1"


@pytest.fixture
async def server() -> MemoryModelServer:
    return MemoryModelServer()


@pytest.fixture
async def registry(tmp_path: Path, server: MemoryModelServer) -> AsyncIterator[Registry]:
    registry = Registry(tmp_path, server=server)
    yield registry
    await registry.close()


async def rewrite(registry: Registry, version: ModelVersion, **fields: Any) -> ModelVersion:
    """What the journal says of the version from now on."""
    changed = version.model_copy(update=fields)

    async def forged(latest: Any) -> Change:
        return Change("VersionSigned", changed.model_dump(mode="json"))

    await registry.journal.decide(version.aggregate, "forged", "mallory", forged)
    return changed


async def put(registry: Registry, content: bytes, tenant: str = "acme") -> str:
    """Beside the genuine files, under its own digest."""
    sha256 = hashlib.sha256(content).hexdigest()
    await registry.objects.put(names.object_key(tenant, sha256), content)
    return sha256


def with_model(version: ModelVersion, content: bytes, sha256: str) -> tuple[File, ...]:
    other = File(name="model.onnx", sha256=sha256, size_bytes=len(content))
    return tuple(other if each.name == "model.onnx" else each for each in version.files)


async def deploy(registry: Registry) -> None:
    await registry.rollout.deploy(
        "acme", "boxes", 1, weight=100, expected_revision=0, reason="", by="ops"
    )


async def test_another_network_with_its_digest_in_the_record(
    registry: Registry, server: MemoryModelServer
) -> None:
    version = await registry.signed(Candidate())
    evil = contrary_model()
    sha256 = await put(registry, evil)
    await rewrite(registry, version, files=with_model(version, evil, sha256))

    await deploy(registry)
    await quiet(registry.reconciler)

    assert server.loaded[NAME].model == good_model()
    assert await registry.artifacts.file(await registry.version(1), "model.onnx") == good_model()


async def test_other_tensors_in_the_record(registry: Registry, server: MemoryModelServer) -> None:
    version = await registry.signed(Candidate())
    inputs = tuple(each.model_copy(update={"shape": (-1, 99)}) for each in version.inputs)
    await rewrite(registry, version, inputs=inputs, features=("anything",), classes=("one",))

    await deploy(registry)
    await quiet(registry.reconciler)

    assert server.loaded[NAME].inputs == version.inputs
    assert registry.reconciler._table is not None
    [route] = registry.reconciler._table.routes
    assert (route.inputs, route.features) == (version.inputs, version.features)
    assert route.classes == version.classes


async def test_another_digest_in_the_deployment(registry: Registry) -> None:
    version = await registry.signed(Candidate())
    await deploy(registry)
    head = await registry.journal.latest(names.deployment_aggregate("acme", "boxes"))
    assert head is not None
    [variant] = head.state["variants"]
    state = {**head.state, "variants": [{**variant, "manifest_sha256": "0" * 64}]}

    async def forged(latest: Any) -> Change:
        return Change("DeploymentDeploy", state)

    await registry.journal.decide(head.aggregate, "forged", "mallory", forged)
    await quiet(registry.reconciler)

    assert registry.reconciler._table is not None
    [route] = registry.reconciler._table.routes
    assert route.revision == 2
    assert route.variants[0].manifest_sha256 == version.manifest_sha256


async def test_a_changed_manifest(registry: Registry) -> None:
    version = await registry.signed(Candidate())
    changed = Candidate(onnx=contrary_model()).manifest
    await put(registry, contrary_model())
    await rewrite(registry, version, manifest_sha256=await put(registry, changed))

    await refused(registry, "signature does not hold")


@pytest.mark.parametrize(
    ("tenant", "model", "number"),
    [("acme", "boxes", 2), ("acme", "crates", 1), ("globex", "boxes", 1)],
    ids=["another version", "another model", "another tenant"],
)
async def test_what_was_signed_for_something_else(
    registry: Registry, tenant: str, model: str, number: int
) -> None:
    version = await registry.signed(Candidate())
    manifest = Candidate(model=model, onnx=good_model(2.0)).manifest
    signer = LocalSignatures(tenant)
    signer.key = registry.signatures.key
    signature = await signer.sign(model, number, manifest, "bob")
    await rewrite(
        registry,
        version,
        manifest_sha256=await put(registry, manifest),
        signature_sha256=await put(registry, signature.content),
    )

    await refused(registry, "The signature is for .*, not for acme--boxes--v1")


async def test_the_record_of_another_version(registry: Registry) -> None:
    version = await registry.signed(Candidate())
    other = await registry.signed(Candidate(job="job-2", onnx=good_model(2.0)))

    async def forged(latest: Any) -> Change:
        return Change("VersionSigned", other.model_dump(mode="json"))

    await registry.journal.decide(version.aggregate, "forged", "mallory", forged)

    await refused(registry, "record of boxes/1 is of another version")


async def test_a_signature_of_somebody_else(registry: Registry) -> None:
    version = await registry.signed(Candidate())
    stranger = LocalSignatures()
    forged: Signature = await stranger.sign("boxes", 1, Candidate().manifest, "mallory")
    await rewrite(registry, version, signature_sha256=await put(registry, forged.content))

    await refused(registry, "key that security does not know")


async def test_a_record_that_only_says_that_it_is_signed(registry: Registry) -> None:
    version = await registry.gated(Candidate())
    await rewrite(registry, version, stage=Stage.SIGNED)

    with pytest.raises(BasaltError):
        await deploy(registry)


async def refused(registry: Registry, said: str) -> None:
    """Nothing is deployed; and where it was before, it is not loaded."""
    with pytest.raises(IntegrityError, match=said):
        await deploy(registry)
    await quiet(registry.reconciler)
    assert not routes(registry.reconciler)


async def test_gates_measure_what_the_manifest_names(registry: Registry) -> None:
    """Else a good network would pass them, and a bad one be signed."""
    version = await registry.register(Candidate(onnx=contrary_model()))
    sha256 = await put(registry, good_model())
    await rewrite(registry, version, files=with_model(version, good_model(), sha256))

    with pytest.raises(IntegrityError, match="other files than its manifest"):
        await registry.gates.judge(await registry.version(1))

    assert registry.measurement.asked == []


@pytest.mark.parametrize("field", ["inputs", "features", "classes", "author"])
async def test_what_the_reviewer_sees_is_what_is_signed(registry: Registry, field: str) -> None:
    version = await registry.gated(Candidate())
    shown = {"inputs": version.outputs, "features": ("a",), "classes": ("b",), "author": "eve"}
    await rewrite(registry, version, **{field: shown[field]})

    with pytest.raises(IntegrityError, match=f"other {field} than its manifest"):
        await registry.review.approve("acme", "boxes", 1, "bob", "fine")

    assert (await registry.version(1)).stage is Stage.GATED
