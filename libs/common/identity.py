"""Who calls, and for whom we act.

Tokens are EdDSA JWTs that `security` issues: `sub`, `tenant`, `roles`, `jti`, `exp`, `use`. They
are verified here, locally, with keys that `security` publishes (JWKS); the tenant comes from the
token and from nowhere else. A service acts for the tenant whose call or event it handles.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from joserfc import jwt
from joserfc.errors import JoseError, UnsupportedAlgorithmError
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry

from libs.common.errors import DependencyError, UnauthenticatedError
from libs.common.revocations import CLOCK_SKEW_S, Revocations

# Ed25519 under the name that Envoy's jwt_authn knows it by; RFC 9864 has a newer one.
ALGORITHM = "EdDSA"
ISSUER = "basalt"
AUDIENCE = "basalt"
# The tenant of the platform itself: its administrators, its services, its audit.
PLATFORM = "platform"
KEY_SUBJECT = "key:"
VERIFIED_TOKENS_MAX = 10_000
TOKEN_CHARACTERS_MAX = 8_000
# The door says in it from which address a call came, and takes away what callers put there.
ADDRESS_HEADER = "x-basalt-address"
ADDRESS_CHARACTERS_MAX = 64


class TokenAlgorithms(JWSRegistry):
    """Tokens are signed in one way only; what else a header may name is refused."""

    def get_alg(self, name: str) -> Any:
        if name != ALGORITHM:
            raise UnsupportedAlgorithmError(f"Tokens are signed with {ALGORITHM}, not {name}.")
        return self.algorithms[name]


@dataclass(frozen=True, slots=True)
class Caller:
    """`subject` is a user's name, "key:<name>" or "service:<name>"."""

    tenant: str
    subject: str
    roles: frozenset[str]
    token_id: str
    expires_at: float
    # Seconds since 1970, as `expires_at`; tokens of old do not say it.
    not_before: float = 0.0
    # Of users: which of their logins, and how often what they may had changed before it.
    login_id: str = ""
    generation: int = 0

    @property
    def is_service(self) -> bool:
        return self.subject.startswith("service:")

    @property
    def answerable(self) -> str:
        """Who answers for what this call does: the person, or "key:<name>/<id>".

        The names of keys are given again; a key's id leads to the person who made it.
        """
        is_key = self.subject.startswith(KEY_SUBJECT)
        return f"{self.subject}/{self.token_id}" if is_key else self.subject


_caller: ContextVar[Caller | None] = ContextVar("caller", default=None)
_tenant: ContextVar[str] = ContextVar("tenant", default=PLATFORM)
_call: ContextVar[str] = ContextVar("call", default="")
_address: ContextVar[str] = ContextVar("address", default="")


def caller() -> Caller:
    """Who made the call that is being handled. Raises UnauthenticatedError outside of one."""
    current = _caller.get()
    if current is None:
        raise UnauthenticatedError("This call carries no identity.", next_step="Log in first.")
    return current


def acting_tenant() -> str:
    """The tenant for which calls to other services are made."""
    return _tenant.get()


@contextmanager
def acting_for(tenant: str) -> Iterator[None]:
    reset = _tenant.set(tenant)
    try:
        yield
    finally:
        _tenant.reset(reset)


def set_caller(who: Caller, idempotency_key: str = "") -> None:
    """For the interceptor alone: the rest of this call's context belongs to `who`."""
    _caller.set(who)
    _tenant.set(who.tenant)
    _call.set(f"call/{who.subject}/{idempotency_key}" if idempotency_key else "")


def set_caller_address(said_by_door: str, peer: str) -> None:
    """For the interceptor alone. `peer` is gRPC's name of who is connected: ipv4:10.0.0.7:4711."""
    _address.set((said_by_door or _host_of(peer))[:ADDRESS_CHARACTERS_MAX])


def caller_address() -> str:
    """The network address that the call being handled came from; "" where there is no call.

    By the door it is the one of whoever called the door.
    """
    return _address.get()


def _host_of(peer: str) -> str:
    kind, _, rest = unquote(peer).partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else ""


def call_cause() -> str:
    """What a repeat of the call that is being handled has in common with it; "" when nothing."""
    return _call.get()


class TokenVerifier:
    """Verifies tokens with the keys it was last given; remembers the ones that held."""

    def __init__(self, now: Callable[[], float] | None = None) -> None:
        """`now`: seconds since 1970; the machine's clock unless said otherwise."""
        self._now = now or (lambda: time.time())
        self._keys = KeySet([])
        self._verified: dict[str, Caller] = {}
        # In force as soon as one is added.
        self.revocations = Revocations(self._now)

    def update(self, jwks: dict[str, Any]) -> None:
        # joserfc's KeySet refuses an empty set; without keys no token holds.
        self._keys = KeySet.import_key_set(jwks) if jwks.get("keys") else KeySet([])  # pyright: ignore[reportArgumentType]
        self._verified.clear()

    @property
    def ready(self) -> bool:
        return bool(self._keys.keys)

    def caller(self, authorization: str) -> Caller:
        """Who sends this `authorization: Bearer <token>`.

        Raises UnauthenticatedError, and DependencyError while there are no keys to verify it with.
        """
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise UnauthenticatedError(
                "This call carries no token.",
                next_step="Log in (`basalt login`) and send `authorization: Bearer <token>`.",
            )
        if not self.ready:
            raise DependencyError(
                "Tokens cannot be verified: security has not published its keys yet.",
                which="security",
                next_step="Try again shortly.",
            )
        return self.verify(token)

    def verify(self, token: str) -> Caller:
        """Raises UnauthenticatedError, saying what is wrong and never what the token was."""
        known = self._verified.get(token)
        if known is None:
            known = self._decode(token)
            if len(self._verified) >= VERIFIED_TOKENS_MAX:
                self._verified.clear()
            self._verified[token] = known
        now = self._now()
        if known.expires_at + CLOCK_SKEW_S < now:
            raise UnauthenticatedError("The token has expired.", next_step="Log in again.")
        if known.not_before - CLOCK_SKEW_S > now:
            raise UnauthenticatedError(
                "The token does not hold yet.",
                next_step="See that the clocks of the platform's machines agree.",
            )
        self.require_not_revoked(known)
        return known

    def require_not_revoked(self, who: Caller) -> None:
        """Raises UnauthenticatedError: also of a token that held a moment ago."""
        subject = f"{who.tenant}/{who.subject}"
        if self.revocations.refuses(who.token_id, who.login_id, subject, who.generation):
            raise UnauthenticatedError(
                "The token was revoked.", next_step="Log in again: `basalt login`."
            )

    def _decode(self, token: str) -> Caller:
        try:
            if len(token) > TOKEN_CHARACTERS_MAX:
                raise ValueError(f"A token has {TOKEN_CHARACTERS_MAX} characters at most.")
            claims = jwt.decode(token, self._keys, registry=TokenAlgorithms()).claims
            if claims["iss"] != ISSUER:
                raise ValueError("The token was issued by somebody else.")
            if AUDIENCE not in _listed(claims["aud"]):
                raise ValueError("The token is for somebody else.")
            if not isinstance(claims["roles"], list):
                raise TypeError("Roles are a list.")
            return Caller(
                tenant=str(claims["tenant"]),
                subject=str(claims["sub"]),
                roles=frozenset(map(str, claims["roles"])),
                token_id=str(claims["jti"]),
                expires_at=_moment(claims["exp"]),
                not_before=_moment(claims.get("nbf", 0.0)),
                login_id=str(claims.get("sid", "")),
                generation=int(claims.get("gen", 0)),
            )
        # A header nested deeply enough ends the parser with a RecursionError.
        except (JoseError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UnauthenticatedError(
                "The token does not hold.", next_step="Log in again: `basalt login`."
            ) from error


def _listed(claim: Any) -> list[Any]:
    """RFC 7519, 4.1.3: an audience is a text, or a list of them."""
    return claim if isinstance(claim, list) else [claim]


def _moment(claim: Any) -> float:
    """A NumericDate. Raises TypeError or ValueError."""
    at = float(claim)
    if not math.isfinite(at):
        raise ValueError("A moment is a finite number of seconds.")
    return at
