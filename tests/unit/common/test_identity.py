"""Tokens that hold, and the many that do not."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from libs.common import identity
from libs.common.errors import UnauthenticatedError
from libs.common.identity import (
    CLOCK_SKEW_S,
    PLATFORM,
    TOKEN_CHARACTERS_MAX,
    Caller,
    TokenVerifier,
    acting_for,
    acting_tenant,
    caller,
    set_caller,
)
from libs.common.revocations import Revocation
from tests.support.tokens import KeyRing

RING = KeyRing("one", "two")
# What is written when tests are collected still lies ahead when the last of them runs.
ONE_DAY_S = 86_400


@pytest.fixture
def verifier() -> TokenVerifier:
    return RING.verifier()


def part(value: Any) -> str:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


CLAIMS = {
    "iss": "basalt",
    "aud": "basalt",
    "sub": "mallory",
    "tenant": "acme",
    "roles": ["administrator"],
    "jti": "forged",
    "exp": int(time.time()) + ONE_DAY_S,
}


def test_a_token_says_who_calls(verifier: TokenVerifier) -> None:
    who = verifier.verify(RING.token(roles=["engineer", "reviewer"]))

    assert (who.tenant, who.subject, who.token_id) == ("acme", "ada", "token-1")
    assert who.roles == {"engineer", "reviewer"}
    assert not who.is_service
    assert verifier.verify(RING.token("two", sub="service:ingest")).is_service


def forged() -> dict[str, str]:
    public = RING.keys["one"].as_dict(private=False)
    rsa, ec = RSAKey.generate_key(2048), ECKey.generate_key("P-256")
    # The public key as a shared secret: the classic confusion of algorithms.
    secret = OctKey.import_key(json.dumps(public).encode() + b" " * 32)
    raw = OctKey.import_key(base64.urlsafe_b64decode(str(public["x"]) + "=="))
    stranger = OKPKey.generate_key("Ed25519", {"kid": "one"})
    good = RING.token()
    header, claims, signature = good.split(".")
    unsigned = f"{part({'alg': 'none', 'kid': 'one'})}.{part(CLAIMS)}."
    return {
        "unsigned": unsigned,
        "unsigned with a signature": unsigned + signature,
        "HS256 of the public key": jwt.encode({"alg": "HS256", "kid": "one"}, CLAIMS, secret),
        "HS256 of its bytes": jwt.encode({"alg": "HS256", "kid": "one"}, CLAIMS, raw),
        "RS256": jwt.encode({"alg": "RS256", "kid": "one"}, CLAIMS, rsa),
        "ES256": jwt.encode({"alg": "ES256", "kid": "one"}, CLAIMS, ec),
        "another key under a known name": jwt.encode(
            {"alg": "EdDSA", "kid": "one"}, CLAIMS, stranger, registry=identity.TokenAlgorithms()
        ),
        "a key in its own header": f"{part({'alg': 'EdDSA', 'jwk': public})}.{part(CLAIMS)}.x",
        "changed claims": f"{header}.{part(CLAIMS)}.{signature}",
        "a header of another token": f"{part({'alg': 'EdDSA', 'kid': 'two'})}.{claims}.{signature}",
        "no signature": f"{header}.{claims}.",
        "an odd alg": f"{part({'alg': ['EdDSA'], 'kid': 'one'})}.{claims}.{signature}",
        "no alg": f"{part({'kid': 'one'})}.{claims}.{signature}",
        "header that is a list": f"{part(['EdDSA'])}.{claims}.{signature}",
        "deep header": f"{part(b'[' * 5_000)}.{claims}.{signature}",
        "critical header": f"{part({'alg': 'EdDSA', 'crit': ['b64']})}.{claims}.{signature}",
        "two parts": f"{header}.{claims}",
        "five parts": f"{good}.a.b",
        "empty": "",
        "not ASCII": "töken.ü.ä",
        "half a character": "\udcff.\udcff.\udcff",
    }


@pytest.mark.parametrize("name", forged())
def test_a_forged_token_does_not_hold(verifier: TokenVerifier, name: str) -> None:
    with pytest.raises(UnauthenticatedError) as refusal:
        verifier.verify(forged()[name])

    assert "basalt login" in refusal.value.next_step
    assert str(refusal.value) == "The token does not hold. Log in again: `basalt login`."


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "somebody-else"},
        {"iss": None},
        {"sub": None},
        {"tenant": None},
        {"roles": None},
        {"roles": "administrator"},
        {"roles": {"administrator": 1}},
        {"jti": None},
        {"exp": None},
        {"exp": "soon"},
        {"exp": [1]},
        {"exp": "inf"},
        {"exp": "nan"},
        {"aud": None},
        {"aud": "somebody-else"},
        {"aud": ["somebody-else"]},
        {"aud": []},
        {"aud": {"basalt": 1}},
        {"aud": "basalt-and-more"},
        {"nbf": int(time.time()) + ONE_DAY_S},
        {"nbf": "later"},
        {"nbf": None, "exp": int(time.time()) - 2 * CLOCK_SKEW_S},
    ],
)
def test_claims_that_are_missing_or_odd_do_not_hold(
    verifier: TokenVerifier, claims: dict[str, Any]
) -> None:
    with pytest.raises(UnauthenticatedError):
        verifier.verify(RING.token(**claims))


def test_an_unknown_key_does_not_hold_and_one_of_several_does(verifier: TokenVerifier) -> None:
    stranger = KeyRing("three")

    with pytest.raises(UnauthenticatedError):
        verifier.verify(stranger.token("three"))
    assert verifier.verify(RING.token("two")).subject == "ada"


def test_a_token_without_a_key_id_does_not_hold(verifier: TokenVerifier) -> None:
    with pytest.raises(UnauthenticatedError):
        verifier.verify(RING.token(header={"alg": "EdDSA"}))


def test_a_token_for_several_and_one_of_a_clock_that_is_a_little_ahead_hold(
    verifier: TokenVerifier,
) -> None:
    assert verifier.verify(RING.token(aud=["other", "basalt"])).subject == "ada"
    assert verifier.verify(RING.token(nbf=int(time.time()) + CLOCK_SKEW_S - 5)).subject == "ada"


def test_a_token_expires_also_when_it_is_remembered(
    verifier: TokenVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = RING.token(exp=int(time.time()) + 60)
    verifier.verify(token)
    later = time.time() + 60 + CLOCK_SKEW_S + 1

    monkeypatch.setattr(time, "time", lambda: later)

    with pytest.raises(UnauthenticatedError, match="expired"):
        verifier.verify(token)


def test_a_token_is_revoked_also_when_it_is_remembered(verifier: TokenVerifier) -> None:
    token = RING.token(jti="stolen")
    verifier.verify(token)

    verifier.revocations.add(Revocation(until=time.time() + 60, token_id="stolen"))

    with pytest.raises(UnauthenticatedError, match="revoked"):
        verifier.verify(token)
    assert verifier.verify(RING.token(jti="mine")).token_id == "mine"


def test_a_key_that_is_withdrawn_takes_its_tokens_with_it(verifier: TokenVerifier) -> None:
    token = RING.token("two")
    verifier.verify(token)

    verifier.update({"keys": RING.jwks()["keys"][:1]})

    with pytest.raises(UnauthenticatedError):
        verifier.verify(token)


def test_without_keys_no_token_holds() -> None:
    verifier = TokenVerifier()
    assert not verifier.ready

    with pytest.raises(UnauthenticatedError):
        verifier.verify(RING.token())
    verifier.update(RING.jwks())
    assert verifier.ready
    verifier.verify(RING.token())


def test_what_is_remembered_is_bounded_and_only_what_held(
    verifier: TokenVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "VERIFIED_TOKENS_MAX", 5)

    for number in range(12):
        verifier.verify(RING.token(jti=f"token-{number}"))
        with pytest.raises(UnauthenticatedError):
            verifier.verify(f"garbage.{number}.x")
        assert len(verifier._verified) <= 5
        assert not any(token.startswith("garbage") for token in verifier._verified)


def test_a_token_that_is_too_long_is_not_even_parsed(verifier: TokenVerifier) -> None:
    with pytest.raises(UnauthenticatedError):
        verifier.verify(RING.token(sub="x" * TOKEN_CHARACTERS_MAX))


@given(st.one_of(st.text(), st.lists(st.text(), min_size=3, max_size=3).map(".".join)))
@settings(max_examples=300)
def test_any_text_is_refused_in_the_same_way(text: str) -> None:
    with pytest.raises(UnauthenticatedError):
        RING.verifier().verify(text)


@given(
    st.dictionaries(
        st.sampled_from(["alg", "kid", "crit", "b64", "jwk", "x5c", "typ"]),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.sampled_from(["EdDSA", "one"])),
            lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
            max_leaves=4,
        ),
    )
)
@settings(max_examples=300)
def test_any_header_is_refused_in_the_same_way(header: dict[str, Any]) -> None:
    _, claims, signature = RING.token().split(".")
    if header == {"alg": "EdDSA", "kid": "one"}:
        return
    with pytest.raises(UnauthenticatedError):
        RING.verifier().verify(f"{part(header)}.{claims}.{signature}")


def test_outside_of_a_call_nobody_calls_and_the_platform_acts() -> None:
    with pytest.raises(UnauthenticatedError):
        caller()
    assert acting_tenant() == PLATFORM


async def test_who_calls_belongs_to_the_call_and_what_it_begins() -> None:
    async def call(tenant: str) -> tuple[str, str, str]:
        set_caller(Caller(tenant, f"ada of {tenant}", frozenset(), "", 0.0))
        await asyncio.sleep(0)
        with acting_for("elsewhere"):
            inside = acting_tenant()
        later = await asyncio.create_task(asyncio.to_thread(acting_tenant))
        return caller().subject, inside, later

    answers = await asyncio.gather(call("acme"), call("beta"))

    assert answers == [
        ("ada of acme", "elsewhere", "acme"),
        ("ada of beta", "elsewhere", "beta"),
    ]
    assert acting_tenant() == PLATFORM
