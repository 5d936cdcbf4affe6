"""security's core on a real journal, without its process: for tests and benchmarks of rules."""

from __future__ import annotations

from pathlib import Path

from libs.common.identity import Caller, TokenVerifier
from libs.common.journal import Journal
from libs.common.stores.sqlite import SqliteJournal
from services.security.core.access import Access, Published
from services.security.core.api_keys import ApiKeys
from services.security.core.audit import AuditLog
from services.security.core.followers import Followers
from services.security.core.four_eyes import FourEyes
from services.security.core.logins import Logins
from services.security.core.passwords import PasswordRules
from services.security.core.signing import Signing
from services.security.core.throttle import Throttle
from services.security.core.tokens import LoggedIn, Tokens
from services.security.core.users import Users
from services.security.outbound.argon import Argon2Passwords
from services.security.outbound.first_login import FirstLoginFile
from services.security.outbound.guessing import Zxcvbn
from services.security.outbound.jose import JoseTokens
from services.security.outbound.model_signatures import OpenSsfSigner
from services.security.outbound.sealing import AesGcmSeal
from tests.support.clock import HeldClock

PASSWORD = "four random words here"
MASTER_KEY = bytes(range(32))


class World:
    """security's core on a real journal, with a verifier that follows it as services do."""

    def __init__(self, folder: Path, master_key: bytes = MASTER_KEY) -> None:
        self.clock = HeldClock()
        self.verifier = TokenVerifier(lambda: self.clock.now().timestamp())
        self.journal = Journal(SqliteJournal(folder / "journal.db"), self.clock)
        self.signer = OpenSsfSigner()
        self.followers = Followers(frozenset())
        self.access = Access(
            self.journal,
            self.clock,
            AesGcmSeal(master_key),
            JoseTokens(),
            self.signer,
            self.follow,
            self.verifier.revocations,
            self.followers,
        )
        self.passwords = Argon2Passwords()
        self.tokens = Tokens(self.access, JoseTokens(), self.clock)
        self.keys = ApiKeys(self.journal, self.clock, self.access, self.tokens)
        self.users = Users(
            journal=self.journal,
            clock=self.clock,
            access=self.access,
            passwords=self.passwords,
            seal=AesGcmSeal(master_key),
            note=FirstLoginFile(folder / "first-login.txt"),
            keys=self.keys,
        )
        self.signing = Signing(
            self.journal, self.clock, self.access, self.signer, FourEyes(self.users)
        )

    async def reviewer(self, tenant: str, name: str) -> None:
        if tenant not in self.access.state.tenants:
            await self.access.add_tenant(tenant, "admin")
        await self.users.create(tenant, name, ("reviewer",), "platform/admin")

    def follow(self, published: Published) -> None:
        self.verifier.update(published.state.jwks())


class LoginWorld(World):
    """security's core with the user acme/ann, who has chosen a password."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.throttle = Throttle(self.clock)
        self.logins = Logins(
            users=self.users,
            clock=self.clock,
            tokens=self.tokens,
            passwords=self.passwords,
            rules=PasswordRules(Zxcvbn()),
            throttle=self.throttle,
            audit=AuditLog(self.journal, self.clock),
        )

    async def begin(self) -> None:
        await self.access.begin()
        await self.access.add_tenant("acme", "admin")
        await self.user("ann")

    async def user(self, name: str, *roles: str) -> None:
        _, one_time = await self.users.create("acme", name, roles or ("engineer",), "admin")
        await self.logins.change_password("acme", name, one_time, PASSWORD)

    async def log_in(self, name: str = "ann") -> LoggedIn:
        return await self.logins.login("acme", name, PASSWORD)

    def caller(self, login: LoggedIn) -> Caller:
        return self.verifier.verify(login.issued.token)
