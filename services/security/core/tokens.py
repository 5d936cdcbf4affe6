"""Tokens: who they are for, how long they hold, and what a service must show to get one."""

from __future__ import annotations

import hmac
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from libs.common.clock import Clock
from libs.common.errors import UnauthenticatedError
from libs.common.identity import AUDIENCE, ISSUER, PLATFORM
from libs.common.policy import SERVICE_ROLE
from services.security.core.access import Access, TokenKey
from services.security.ports import TokenFormat

TOKEN_LIFE_S = 15 * 60


@dataclass(frozen=True, slots=True)
class Issued:
    """`expires_at` is in seconds since 1970."""

    token: str
    token_id: str
    expires_at: float


@dataclass(frozen=True, slots=True)
class Login:
    """What all tokens of a login say: `generation` is the user's, when it was given."""

    id: str
    generation: int


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """A token of a user; it can be renewed until `login_ends_at`, in seconds since 1970."""

    issued: Issued
    login: Login
    login_ends_at: float


@dataclass(frozen=True, slots=True)
class Tokens:
    access: Access
    format: TokenFormat
    clock: Clock

    def short(
        self,
        tenant: str,
        subject: str,
        roles: Collection[str],
        use: str,
        until: float = math.inf,
        login: Login | None = None,
    ) -> Issued:
        """A token of TOKEN_LIFE_S, or until `until`, signed with the newest key."""
        expires_at = int(min(self.clock.now().timestamp() + TOKEN_LIFE_S, until))
        key = self.access.state.token_keys[-1]
        return self.signed(key, self.clock.new_id(), expires_at, tenant, subject, roles, use, login)

    def signed(
        self,
        key: TokenKey,
        token_id: str,
        expires_at: int,
        tenant: str,
        subject: str,
        roles: Collection[str],
        use: str,
        login: Login | None = None,
    ) -> Issued:
        """`use` is user, key or service."""
        now = int(self.clock.now().timestamp())
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": subject,
            "tenant": tenant,
            "roles": sorted(roles),
            "use": use,
            "jti": token_id,
            "iat": now,
            "nbf": now,
            "exp": expires_at,
        }
        if login is not None:
            # A text, as the door hands claims on as headers.
            claims |= {"sid": login.id, "gen": str(login.generation)}
        token = self.format.encode(self.access.token_private_key(key), claims)
        return Issued(token, token_id, float(expires_at))


class ServiceCredentials:
    """The platform's services prove themselves with secrets that were made at the first start."""

    def __init__(self, credentials: Mapping[str, str], tokens: Tokens, access: Access) -> None:
        self._credentials = credentials
        self._tokens = tokens
        self._access = access

    def issue(self, service: str, credential: str, tenant: str) -> Issued:
        # An unknown service costs a comparison too, so that names cannot be told by time.
        expected = self._credentials.get(service, "")
        holds = hmac.compare_digest(expected.encode(), credential.encode())
        if not holds or not expected:
            raise UnauthenticatedError(
                "The service's credential does not hold.",
                which="service_credential",
                next_step="Give the service the credential that security was given for it:"
                " BASALT_SERVICE_CREDENTIAL and BASALT_SERVICE_CREDENTIALS.",
            )
        tenant = self._access.known_tenant(tenant or PLATFORM)
        return self._tokens.short(tenant, f"service:{service}", (SERVICE_ROLE,), "service")
