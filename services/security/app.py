"""security's composition root."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from libs.common.auditing import FLUSH_S, Auditing
from libs.common.errors import InvalidInputError
from libs.common.foundation import Foundation
from libs.common.kafka import ADMINISTRATOR, KafkaAccess
from libs.common.policy import Policy
from libs.common.rpc import Guard
from libs.common.runtime import Closing, Loop, Service
from libs.common.topics import platform_topics
from services.security.core.access import Access, Published
from services.security.core.api_keys import ApiKeys
from services.security.core.audit import AuditLog
from services.security.core.checkpoint_keys import CheckpointKeys
from services.security.core.checkpoints import Checkpoints
from services.security.core.followers import Followers
from services.security.core.four_eyes import FourEyes
from services.security.core.logins import Logins
from services.security.core.passwords import PasswordRules
from services.security.core.refused_logins import RefusedLogins
from services.security.core.roles import Confirmation
from services.security.core.signing import Signing
from services.security.core.source_keys import SourceKeys
from services.security.core.throttle import Throttle
from services.security.core.tokens import ServiceCredentials, Tokens
from services.security.core.upkeep import Upkeep
from services.security.core.users import Users
from services.security.inbound.events import event_routes
from services.security.inbound.rpc import (
    NAMES,
    AuditServicer,
    IdentityServicer,
    SigningServicer,
    local_writer,
)
from services.security.inbound.streams import StreamServicer
from services.security.outbound.argon import Argon2Passwords
from services.security.outbound.checkpoint_folder import CheckpointFolder
from services.security.outbound.ed25519_notes import Ed25519Notes
from services.security.outbound.first_login import FirstLoginFile
from services.security.outbound.guessing import Zxcvbn
from services.security.outbound.jose import JoseTokens
from services.security.outbound.kafka_administration import KafkaAdministrator
from services.security.outbound.model_signatures import OpenSsfSigner
from services.security.outbound.sealing import AesGcmSeal
from services.security.ports import KeptCheckpoints
from services.security.settings import Settings

# The part of the door that judges every prediction; `gateway` is its control plane.
DISPATCHER = "dispatcher"
# How soon a change that another replica made is seen by this one.
REFRESH_S = 0.5
# How soon a Kafka that was away is administered again.
UPKEEP_S = 1.0
# How often it is looked which logs are due for a checkpoint.
LOOK_S = 60.0


@dataclass(frozen=True, slots=True)
class FirstStart:
    """A part that makes keys and the first administrator before anything is served."""

    access: Access
    users: Users
    keys: CheckpointKeys
    name: str = "first-start"

    async def start(self) -> None:
        await self.access.begin()
        await self.users.begin()
        await self.keys.begin()

    async def stop(self) -> None:
        """Nothing is held."""


def build(settings: Settings) -> Service:
    laid = Foundation.lay("security", settings)
    journal, clock = laid.journal, laid.clock
    seal = AesGcmSeal(settings.master_key_bytes())
    signer = OpenSsfSigner()
    token_format = JoseTokens()

    def verify_with(published: Published) -> None:
        laid.verifier.update(published.state.jwks())

    access = Access(
        journal,
        clock,
        seal,
        token_format,
        signer,
        verify_with,
        laid.verifier.revocations,
        Followers(frozenset(settings.service_credentials) - {"security"} | {DISPATCHER}),
    )
    audit = AuditLog(journal, clock)
    auditing = Auditing(local_writer(audit, access), clock)
    tokens = Tokens(access, token_format, clock)
    passwords, keys = Argon2Passwords(), ApiKeys(journal, clock, access, tokens)
    users = Users(
        journal=journal,
        clock=clock,
        access=access,
        passwords=passwords,
        seal=seal,
        note=FirstLoginFile(settings.first_login_file),
        keys=keys,
    )
    logins = Logins(
        users=users,
        clock=clock,
        tokens=tokens,
        passwords=passwords,
        rules=PasswordRules(Zxcvbn()),
        throttle=Throttle(clock),
        audit=audit,
    )
    refused = RefusedLogins(audit, access, clock)
    checkpoint_keys = CheckpointKeys(journal, clock, seal, Ed25519Notes())
    checkpoints = Checkpoints(journal, clock, checkpoint_keys, _kept(settings))
    credentials = {
        service: secret.get_secret_value()
        for service, secret in settings.service_credentials.items()
    }
    administrator = KafkaAdministrator(_administrator(settings))
    upkeep = Upkeep(
        administrator,
        clock,
        SourceKeys(journal, clock, seal),
        platform_topics(settings.replication),
        {user: word.get_secret_value() for user, word in settings.kafka_passwords.items()},
    )
    return laid.build(
        router=event_routes(),
        register=[
            IdentityServicer(
                access,
                users,
                logins,
                keys,
                ServiceCredentials(credentials, tokens, access),
                Confirmation(users),
                refused,
                checkpoint_keys,
            ).register,
            SigningServicer(
                Signing(journal, clock, access, signer, FourEyes(users)), access, checkpoint_keys
            ).register,
            AuditServicer(audit, access, checkpoints).register,
            StreamServicer(upkeep, settings.replication).register,
        ],
        names=NAMES,
        parts=[
            FirstStart(access, users, checkpoint_keys),
            Loop("access", access.refresh, REFRESH_S),
            Closing("kafka administration", administrator.close),
            Loop("kafka-upkeep", upkeep.look, UPKEEP_S),
            Loop("checkpoint keys", checkpoint_keys.refresh, LOOK_S),
            Loop("checkpoints", checkpoints.look, LOOK_S),
            Loop("refused logins", refused.flush, FLUSH_S),
        ],
        guard=Guard(laid.verifier, Policy.load(), auditing, laid.sharing),
        auditing=auditing,
    )


def _kept(settings: Settings) -> KeptCheckpoints:
    kind, _, address = settings.checkpoints.partition(":")
    if kind == "directory":
        return CheckpointFolder(Path(address))
    if kind == "s3":
        # Imported when chosen, as the stores' adapters are.
        from services.security.outbound.locked_checkpoints import LockedCheckpoints

        return LockedCheckpoints(
            address,
            access_key=settings.s3_access_key.get_secret_value(),
            secret_key=settings.s3_secret_key.get_secret_value(),
            days=settings.checkpoint_days,
        )
    raise InvalidInputError(
        f"BASALT_CHECKPOINTS is {settings.checkpoints!r}.",
        which="BASALT_CHECKPOINTS",
        next_step="Use directory:FOLDER or s3:http://HOST:PORT/BUCKET.",
    )


def _administrator(settings: Settings) -> KafkaAccess:
    password = settings.kafka_administrator_password.get_secret_value()
    user = ADMINISTRATOR if password else ""
    return KafkaAccess(settings.kafka, user, password, settings.kafka_ca)
