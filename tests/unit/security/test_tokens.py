"""Tokens, the seal, signatures: what they hold against."""

import asyncio
import base64
import json
from pathlib import Path

import pytest

from libs.common.errors import (
    AlreadyExistsError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    PreconditionError,
    UnauthenticatedError,
)
from libs.common.signing import signed_name, verify_manifest
from services.security.core.names import role_names, tenant_name, user_name
from services.security.core.tokens import TOKEN_LIFE_S, ServiceCredentials
from services.security.outbound.model_signatures import OpenSsfSigner
from services.security.outbound.sealing import AesGcmSeal
from tests.support.security_core import MASTER_KEY, World


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    asyncio.run(world.access.begin())
    return world


# Tokens.


def test_token_says_who_and_for_how_long(world: World) -> None:
    issued = world.tokens.short("acme", "ann", ("reviewer", "engineer"), "user")
    who = world.verifier.verify(issued.token)
    assert (who.tenant, who.subject, who.token_id) == ("acme", "ann", issued.token_id)
    assert who.roles == {"engineer", "reviewer"}
    assert who.expires_at == int(world.clock.now().timestamp()) + TOKEN_LIFE_S
    header, claims, _ = (part + "=" * (-len(part) % 4) for part in issued.token.split("."))
    key_id = world.access.state.token_keys[-1].key_id
    assert json.loads(base64.urlsafe_b64decode(header)) == {
        "alg": "EdDSA", "kid": key_id, "typ": "JWT",
    }  # fmt: skip
    assert json.loads(base64.urlsafe_b64decode(claims)).keys() == {
        "iss", "aud", "sub", "tenant", "roles", "use", "jti", "iat", "nbf", "exp",
    }  # fmt: skip


@pytest.mark.parametrize("place", [0, 1, 2])
def test_changed_token_does_not_hold(world: World, place: int) -> None:
    parts = world.tokens.short("acme", "ann", (), "user").token.split(".")
    middle = len(parts[place]) // 2
    letter = "A" if parts[place][middle] != "A" else "B"
    parts[place] = parts[place][:middle] + letter + parts[place][middle + 1 :]
    with pytest.raises(UnauthenticatedError):
        world.verifier.verify(".".join(parts))


def test_token_without_signature_does_not_hold(world: World) -> None:
    _, claims, _ = world.tokens.short("acme", "ann", (), "user").token.split(".")
    header = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
    with pytest.raises(UnauthenticatedError):
        world.verifier.verify(f"{header}.{claims}.")


async def test_rotation_keeps_old_tokens_until_they_expire(world: World) -> None:
    old = world.tokens.short("acme", "ann", (), "user")
    first = world.access.state.token_keys[-1].key_id
    second = await world.access.rotate(TOKEN_LIFE_S, "admin")
    new = world.tokens.short("acme", "ann", (), "user")
    assert first != second
    assert world.verifier.verify(old.token).subject == "ann"
    assert world.verifier.verify(new.token).subject == "ann"
    assert world.access.state.token_keys[0].sealed == ""

    world.clock.pass_s(TOKEN_LIFE_S + 60)
    third = await world.access.rotate(TOKEN_LIFE_S, "admin")
    assert [key.key_id for key in world.access.state.token_keys] == [second, third]


async def test_key_that_signed_an_api_key_stays_as_long(world: World) -> None:
    _, secret = await world.keys.create("acme", "crm", ["application"], 30, "admin")
    await world.access.rotate(TOKEN_LIFE_S, "admin")
    world.clock.pass_s(29 * 86_400)
    await world.access.rotate(TOKEN_LIFE_S, "admin")
    assert world.verifier.verify(secret).subject == "key:crm"
    world.clock.pass_s(2 * 86_400)
    await world.access.rotate(TOKEN_LIFE_S, "admin")
    with pytest.raises(UnauthenticatedError):
        world.verifier.verify(secret)


async def test_revoked_api_key_is_refused_and_forgotten_when_it_has_expired(world: World) -> None:
    key, secret = await world.keys.create("acme", "crm", ["application"], 1, "admin")
    assert world.verifier.verify(secret).roles == {"application"}
    await world.keys.revoke("acme", key.state.id, "admin")
    assert (await world.keys.revoke("acme", key.state.id, "admin")).state.revoked
    with pytest.raises(UnauthenticatedError, match="revoked"):
        world.verifier.verify(secret)
    world.clock.pass_s(2 * 86_400)
    await world.access.add_tenant("other", "admin")
    assert len(world.verifier.revocations) == 0


async def test_api_key_of_another_tenant_is_not_found(world: World) -> None:
    key, _ = await world.keys.create("acme", "crm", ["application"], 1, "admin")
    for odd in (key.state.id, "", "../user", "ö" * 9, "x" * 500):
        with pytest.raises(NotFoundError):
            await world.keys.revoke("other", odd, "admin")


@pytest.mark.parametrize(
    ("name", "roles", "days"),
    [
        ("", ["application"], 1),
        ("service:x", ["application"], 1),
        ("crm", ["service"], 1),
        ("crm", ["administrator"], 1),
        ("crm", ["reviewer"], 1),
        ("crm", ["application"], -1),
        ("crm", ["application"], 366),
    ],
)
async def test_api_key_that_cannot_be(world: World, name: str, roles: list[str], days: int) -> None:
    with pytest.raises(InvalidInputError):
        await world.keys.create("acme", name, roles, days, "admin")


async def test_watchers_see_the_state_now_and_each_change(world: World) -> None:
    watch = world.access.watch()
    assert (await anext(watch)).version == 1
    following = asyncio.ensure_future(anext(watch))
    await world.access.add_tenant("acme", "admin")
    published = await following
    assert (published.version, published.state.tenants) == (2, ("platform", "acme"))
    entry = await world.journal.latest("platform/access/state")
    assert entry is not None
    assert json.loads(entry.outbox[0].payload)["access_version"] == 2
    with pytest.raises(AlreadyExistsError):
        await world.access.add_tenant("acme", "admin")


async def test_replica_takes_over_what_another_changed(world: World, tmp_path: Path) -> None:
    other = World(tmp_path)
    await other.access.begin()
    assert other.access.state.token_keys == world.access.state.token_keys
    await other.access.add_tenant("acme", "admin")
    assert "acme" not in world.access.state.tenants
    await world.access.refresh()
    assert "acme" in world.access.state.tenants


async def test_another_master_key_stops_the_start(world: World, tmp_path: Path) -> None:
    with pytest.raises(PreconditionError) as refused:
        await World(tmp_path, bytes(32)).access.begin()
    assert refused.value.which == "BASALT_MASTER_KEY"


def test_private_keys_do_not_lie_open_in_the_journal(world: World, tmp_path: Path) -> None:
    key = world.access.state.token_keys[-1]
    private = json.loads(world.access.token_private_key(key))["d"]
    signing = world.access.signing_private_key(world.access.state.signing_keys[-1])
    stored = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert key.key_id.encode() in stored
    assert private.encode() not in stored
    assert signing not in stored
    assert base64.b64encode(signing) not in stored


def test_sealed_text_holds_for_its_purpose_only() -> None:
    seal = AesGcmSeal(MASTER_KEY)
    sealed = seal.close("one", b"secret")
    assert seal.open("one", sealed) == b"secret"
    assert sealed != seal.close("one", b"secret")
    for purpose, text in (("two", sealed), ("one", sealed[:-8]), ("one", "no base64"), ("one", "")):
        with pytest.raises(PreconditionError):
            seal.open(purpose, text)
    assert seal.derive("a", "s") == seal.derive("a", "s") != seal.derive("b", "s")


# Service credentials.


async def test_service_proves_itself(world: World) -> None:
    services = ServiceCredentials({"ingest": "right", "empty": ""}, world.tokens, world.access)
    await world.access.add_tenant("acme", "admin")
    platform = world.verifier.verify(services.issue("ingest", "right", "").token)
    assert (platform.subject, platform.tenant) == ("service:ingest", "platform")
    assert platform.roles == {"service"}
    assert world.verifier.verify(services.issue("ingest", "right", "acme").token).tenant == "acme"
    for service, credential in (("ingest", "wrong"), ("ingest", ""), ("empty", ""), ("who", "")):
        with pytest.raises(UnauthenticatedError):
            services.issue(service, credential, "")
    with pytest.raises(NotFoundError):
        services.issue("ingest", "right", "nobody")


# Names.


@pytest.mark.parametrize("name", ["", "A", "a--b", "-a", "a-", "a/b", "a" * 33, "ä", "a\n"])
def test_no_tenant(name: str) -> None:
    with pytest.raises(InvalidInputError):
        tenant_name(name)


@pytest.mark.parametrize("name", ["", "service:x", "key:x", "a b", "A", ".a", "a" * 65, "a/b"])
def test_no_user(name: str) -> None:
    with pytest.raises(InvalidInputError):
        user_name(name)


def test_roles_are_known_ones_each_once() -> None:
    assert role_names(["reviewer", "engineer", "engineer"]) == ("engineer", "reviewer")
    for unknown in ("service", "root", ""):
        with pytest.raises(InvalidInputError):
            role_names([unknown])


# Signatures.

MANIFEST = json.dumps({"format": "basalt.model/1", "model": "fraud", "author": "ann"}).encode()


async def test_signature_holds_for_its_bytes_its_name_and_its_key(world: World) -> None:
    await world.reviewer("acme", "ben")
    made = await world.signing.sign("acme", "fraud", 3, MANIFEST, "ben", "service:inference")
    pems = world.access.state.signing_pems()
    name = signed_name("acme", "fraud", 3)
    assert verify_manifest(MANIFEST, made.content(), pems, name) == made.key_id
    for place in range(0, len(MANIFEST), 7):
        flipped = bytearray(MANIFEST)
        flipped[place] ^= 1
        with pytest.raises(IntegrityError):
            verify_manifest(bytes(flipped), made.content(), pems, name)
    for other in (("other", "fraud", 3), ("acme", "fraud", 4), ("acme", "risk", 3)):
        with pytest.raises(IntegrityError, match="is for"):
            verify_manifest(MANIFEST, made.content(), pems, signed_name(*other))
    strangers = OpenSsfSigner().new_key()
    with pytest.raises(IntegrityError, match="does not know"):
        verify_manifest(MANIFEST, made.content(), {"x": strangers.public_pem}, name)


async def test_flipped_signature_is_refused(world: World) -> None:
    await world.reviewer("acme", "ben")
    made = await world.signing.sign("acme", "fraud", 3, MANIFEST, "ben", "service:inference")
    bundle = json.loads(made.content())
    signature = bytearray(base64.b64decode(bundle["dsseEnvelope"]["signatures"][0]["sig"]))
    signature[-1] ^= 1
    bundle["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(signature).decode()
    verdict = await world.signing.verify(MANIFEST, json.dumps(bundle).encode())
    assert not verdict.valid
    for odd in (b"", b"{}", b"[]", b"\xff", b"null", b"x" * 100_000, b'{"dsseEnvelope":{}}'):
        assert not (await world.signing.verify(MANIFEST, odd)).valid


async def test_signatures_hold_after_the_keys_were_rotated(world: World) -> None:
    await world.reviewer("acme", "ben")
    made = await world.signing.sign("acme", "fraud", 1, MANIFEST, "ben", "service:inference")
    await world.access.rotate(TOKEN_LIFE_S, "admin")
    newer = await world.signing.sign("acme", "fraud", 2, MANIFEST, "ben", "service:inference")
    assert made.key_id != newer.key_id
    for each in (made, newer):
        verdict = await world.signing.verify(MANIFEST, each.content())
        assert (verdict.valid, verdict.key_id) == (True, each.key_id)


async def test_version_is_signed_once(world: World) -> None:
    await world.reviewer("acme", "ben")
    made = await world.signing.sign("acme", "fraud", 1, MANIFEST, "ben", "service:inference")
    again = await world.signing.sign("acme", "fraud", 1, MANIFEST, "ben", "service:inference")
    assert again == made
    other = MANIFEST.replace(b"ann", b"eve")
    with pytest.raises(AlreadyExistsError):
        await world.signing.sign("acme", "fraud", 1, other, "ben", "service:inference")


@pytest.mark.parametrize(
    ("approved_by", "model", "version", "manifest", "kind"),
    [
        ("", "fraud", 1, MANIFEST, PreconditionError),
        ("ann", "fraud", 1, MANIFEST, PreconditionError),
        ("ben", "risk", 1, MANIFEST, InvalidInputError),
        ("ben", "fraud", 0, MANIFEST, InvalidInputError),
        ("ben", "fraud", 1, b"no json", InvalidInputError),
        ("ben", "fraud", 1, b"[]", InvalidInputError),
        ("ben", "fraud", 1, b" " * (1024 * 1024 + 1), InvalidInputError),
        ("ben", "../x", 1, json.dumps({"model": "../x"}).encode(), InvalidInputError),
    ],
)
async def test_what_is_not_signed(
    world: World, approved_by: str, model: str, version: int, manifest: bytes, kind: type[Exception]
) -> None:
    await world.reviewer("acme", "ben")
    with pytest.raises(kind):
        await world.signing.sign("acme", model, version, manifest, approved_by, "service:inference")
