"""security's RPCs: convert, call, convert. The tenant comes from the token."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Collection, Coroutine
from datetime import UTC, datetime
from typing import Any, TypeVar

import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp

from libs.common.auditing import Happening, Write, Written
from libs.common.errors import BasaltError, DependencyError, InvalidInputError
from libs.common.identity import PLATFORM, caller
from libs.common.pb.basalt.v1 import common_pb2, security_pb2_grpc
from libs.common.pb.basalt.v1 import security_pb2 as pb
from libs.common.runtime import ended
from libs.common.stores.ports import Entry
from services.security.core.access import Access, Published
from services.security.core.accounts import User
from services.security.core.api_keys import ApiKey, ApiKeys
from services.security.core.audit import AuditLog, Record
from services.security.core.checkpoint_keys import CheckpointKeys
from services.security.core.checkpoints import Checkpoints
from services.security.core.followers import News
from services.security.core.grants import RolesAsked
from services.security.core.logins import CHANGE_PASSWORD, LOGIN, Logins
from services.security.core.refused_logins import RefusedLogins
from services.security.core.roles import Confirmation
from services.security.core.signing import Signing
from services.security.core.tokens import TOKEN_LIFE_S, ServiceCredentials
from services.security.core.users import Users

T = TypeVar("T")
NAMES = tuple(service.full_name for service in pb.DESCRIPTOR.services_by_name.values())


class IdentityServicer(security_pb2_grpc.IdentityServiceServicer):
    def __init__(
        self,
        access: Access,
        users: Users,
        logins: Logins,
        keys: ApiKeys,
        services: ServiceCredentials,
        confirmation: Confirmation,
        refused: RefusedLogins,
        checkpoint_keys: CheckpointKeys,
    ) -> None:
        self._access = access
        self._users = users
        self._logins = logins
        self._keys = keys
        self._services = services
        self._confirmation = confirmation
        self._refused = refused
        self._checkpoint_keys = checkpoint_keys

    def register(self, server: grpc.aio.Server) -> None:
        security_pb2_grpc.add_IdentityServiceServicer_to_server(self, server)

    async def Login(  # noqa: N802
        self, request: pb.LoginRequest, context: Any
    ) -> pb.LoginResponse:
        with_password = self._logins.login(request.tenant, request.name, request.password)
        login = await self._noted(request, LOGIN, with_password)
        return pb.LoginResponse(
            token=login.issued.token,
            expires_at=_seconds(login.issued.expires_at),
            login_ends_at=_seconds(login.login_ends_at),
        )

    async def RenewToken(  # noqa: N802
        self, request: pb.RenewTokenRequest, context: Any
    ) -> pb.RenewTokenResponse:
        who = caller()
        login = await self._logins.renew(who.tenant, who.subject, who.login_id)
        return pb.RenewTokenResponse(
            token=login.issued.token,
            expires_at=_seconds(login.issued.expires_at),
            login_ends_at=_seconds(login.login_ends_at),
        )

    async def Logout(  # noqa: N802
        self, request: pb.LogoutRequest, context: Any
    ) -> pb.LogoutResponse:
        await self._logins.log_out(caller())
        return pb.LogoutResponse(in_force=await self._in_force())

    async def ChangePassword(  # noqa: N802
        self, request: pb.ChangePasswordRequest, context: Any
    ) -> pb.ChangePasswordResponse:
        change = self._logins.change_password(
            request.tenant, request.name, request.password, request.new_password
        )
        await self._noted(request, CHANGE_PASSWORD, change)
        return pb.ChangePasswordResponse(in_force=await self._in_force())

    async def _noted(
        self,
        request: pb.LoginRequest | pb.ChangePasswordRequest,
        action: str,
        call: Coroutine[Any, Any, T],
    ) -> T:
        """These calls have no caller yet, so the guard cannot say in the log who was refused."""
        try:
            return await call
        except DependencyError:
            raise
        except BasaltError as error:
            await self._refused.note(request.tenant, request.name, action, error)
            raise

    async def GetJwks(  # noqa: N802
        self, request: pb.GetJwksRequest, context: Any
    ) -> pb.GetJwksResponse:
        return pb.GetJwksResponse(jwks_json=json.dumps(self._access.state.jwks()))

    async def IssueServiceToken(  # noqa: N802
        self, request: pb.IssueServiceTokenRequest, context: Any
    ) -> pb.IssueServiceTokenResponse:
        issued = self._services.issue(request.service, request.credential, request.tenant)
        return pb.IssueServiceTokenResponse(
            token=issued.token, expires_at=_seconds(issued.expires_at)
        )

    async def CreateTenant(  # noqa: N802
        self, request: pb.CreateTenantRequest, context: Any
    ) -> pb.CreateTenantResponse:
        await self._access.add_tenant(request.tenant, caller().subject)
        return pb.CreateTenantResponse(tenant=request.tenant)

    async def ListTenants(  # noqa: N802
        self, request: pb.ListTenantsRequest, context: Any
    ) -> pb.ListTenantsResponse:
        tenants, token = self._access.page(request.page.size, request.page.token)
        return pb.ListTenantsResponse(
            tenants=[pb.Tenant(name=tenant) for tenant in tenants], next_page_token=token
        )

    async def CreateUser(  # noqa: N802
        self, request: pb.CreateUserRequest, context: Any
    ) -> pb.CreateUserResponse:
        tenant, by = _where(request.tenant)
        user, password = await self._users.create(tenant, request.name, request.roles, by)
        return pb.CreateUserResponse(user=_user(user), one_time_password=password)

    async def SetUser(  # noqa: N802
        self, request: pb.SetUserRequest, context: Any
    ) -> pb.SetUserResponse:
        tenant, by = _where(request.tenant)
        user = await self._users.set(tenant, request.name, request.roles, request.disabled, by)
        return pb.SetUserResponse(
            user=_user(user), in_force=await self._in_force(), revoked_keys=user.revoked_keys
        )

    async def ConfirmRoles(  # noqa: N802
        self, request: pb.ConfirmRolesRequest, context: Any
    ) -> pb.ConfirmRolesResponse:
        tenant, by = _where(request.tenant)
        user = await self._confirmation.confirm(tenant, request.name, request.roles, by)
        return pb.ConfirmRolesResponse(user=_user(user), in_force=await self._in_force())

    async def ResetPassword(  # noqa: N802
        self, request: pb.ResetPasswordRequest, context: Any
    ) -> pb.ResetPasswordResponse:
        tenant, by = _where(request.tenant)
        user, password = await self._users.reset_password(tenant, request.name, by)
        return pb.ResetPasswordResponse(
            user=_user(user), one_time_password=password, in_force=await self._in_force()
        )

    async def ListUsers(  # noqa: N802
        self, request: pb.ListUsersRequest, context: Any
    ) -> pb.ListUsersResponse:
        users, token = await self._users.page(
            request.tenant or caller().tenant, request.page.size, request.page.token
        )
        return pb.ListUsersResponse(users=map(_user, users), next_page_token=token)

    async def CreateApiKey(  # noqa: N802
        self, request: pb.CreateApiKeyRequest, context: Any
    ) -> pb.CreateApiKeyResponse:
        _require_tenant_named(request)
        tenant, by = _where(request.tenant)
        key, secret = await self._keys.create(
            self._access.known_tenant(tenant), request.name, request.roles, request.days, by
        )
        return pb.CreateApiKeyResponse(key=_api_key(key), secret=secret)

    async def RevokeApiKey(  # noqa: N802
        self, request: pb.RevokeApiKeyRequest, context: Any
    ) -> pb.RevokeApiKeyResponse:
        tenant, by = _where(request.tenant)
        key = await self._keys.revoke(self._access.known_tenant(tenant), request.id, by)
        return pb.RevokeApiKeyResponse(key=_api_key(key), in_force=await self._in_force())

    async def ListApiKeys(  # noqa: N802
        self, request: pb.ListApiKeysRequest, context: Any
    ) -> pb.ListApiKeysResponse:
        tenant = self._access.known_tenant(request.tenant or caller().tenant)
        keys, token = await self._keys.page(tenant, request.page.size, request.page.token)
        return pb.ListApiKeysResponse(keys=map(_api_key, keys), next_page_token=token)

    async def RotateKeys(  # noqa: N802
        self, request: pb.RotateKeysRequest, context: Any
    ) -> pb.RotateKeysResponse:
        by = caller().subject
        await self._checkpoint_keys.rotate(by)
        key_id = await self._access.rotate(TOKEN_LIFE_S, by)
        return pb.RotateKeysResponse(key_id=key_id)

    async def WatchAccess(  # noqa: N802
        self, request: pb.WatchAccessRequest, context: Any
    ) -> AsyncIterator[pb.WatchAccessResponse]:
        async for published in self._access.watch():
            yield _access(published, self._access.revoked_tokens())

    async def FollowAccess(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.FollowAccessRequest], context: Any
    ) -> AsyncIterator[pb.FollowAccessResponse]:
        first = await anext(aiter(request_iterator), pb.FollowAccessRequest())
        with self._access.following(first.follower) as follower:

            async def hear() -> None:
                async for said in request_iterator:
                    self._access.confirm(follower, said.in_force)

            hearing = asyncio.create_task(hear(), name=f"hear {follower.name}")
            try:
                async for news in self._access.news(follower):
                    yield _news(news)
            finally:
                await ended(hearing)

    async def _in_force(self) -> pb.InForce:
        settled = await self._access.settled()
        return pb.InForce(confirmed=settled.confirmed, waiting_for=settled.waiting_for)


class SigningServicer(security_pb2_grpc.SigningServiceServicer):
    def __init__(self, signing: Signing, access: Access, keys: CheckpointKeys) -> None:
        self._signing = signing
        self._access = access
        self._checkpoint_keys = keys

    def register(self, server: grpc.aio.Server) -> None:
        security_pb2_grpc.add_SigningServiceServicer_to_server(self, server)

    async def SignManifest(  # noqa: N802
        self, request: pb.SignManifestRequest, context: Any
    ) -> pb.SignManifestResponse:
        who = caller()
        signature = await self._signing.sign(
            who.tenant,
            request.model,
            request.version,
            request.manifest,
            request.approved_by,
            who.subject,
        )
        return pb.SignManifestResponse(signature=signature.content(), key_id=signature.key_id)

    async def VerifyManifest(  # noqa: N802
        self, request: pb.VerifyManifestRequest, context: Any
    ) -> pb.VerifyManifestResponse:
        verdict = await self._signing.verify(request.manifest, request.signature)
        return pb.VerifyManifestResponse(
            valid=verdict.valid, detail=verdict.detail, key_id=verdict.key_id
        )

    async def GetSigningKeys(  # noqa: N802
        self, request: pb.GetSigningKeysRequest, context: Any
    ) -> pb.GetSigningKeysResponse:
        pems = self._access.state.signing_pems()
        return pb.GetSigningKeysResponse(
            keys=[pb.SigningKey(key_id=key, public_key_pem=pem) for key, pem in pems.items()],
            checkpoint_keys=self._checkpoint_keys.verifier_keys(),
        )


class AuditServicer(security_pb2_grpc.AuditServiceServicer):
    def __init__(self, audit: AuditLog, access: Access, checkpoints: Checkpoints) -> None:
        self._audit = audit
        self._access = access
        self._checkpoints = checkpoints

    def register(self, server: grpc.aio.Server) -> None:
        security_pb2_grpc.add_AuditServiceServicer_to_server(self, server)

    async def AppendAudit(  # noqa: N802
        self, request: pb.AppendAuditRequest, context: Any
    ) -> pb.AppendAuditResponse:
        happening = Happening(
            tenant=self._access.known_tenant(request.tenant),
            actor=request.actor,
            action=request.action,
            resource=request.resource,
            decision=request.decision,
            request_json=request.request_json,
            trace_id=request.trace_id,
            address=request.address,
            outcome_of=request.outcome_of,
        )
        record = await self._audit.append(happening, request.idempotency_key)
        return pb.AppendAuditResponse(record=_record(record))

    async def ListAudit(  # noqa: N802
        self, request: pb.ListAuditRequest, context: Any
    ) -> pb.ListAuditResponse:
        records, token = await self._audit.newest(
            caller().tenant, request.page.size, request.page.token, request.action
        )
        return pb.ListAuditResponse(records=map(_record, records), next_page_token=token)

    async def ExportAudit(  # noqa: N802
        self, request: pb.ExportAuditRequest, context: Any
    ) -> AsyncIterator[pb.ExportAuditResponse]:
        tenant, last = caller().tenant, 0
        while records := await self._audit.part(tenant, last):
            last = records[-1].sequence
            yield pb.ExportAuditResponse(records=map(_record, records))

    async def GetAuditCheckpoint(  # noqa: N802
        self, request: pb.GetAuditCheckpointRequest, context: Any
    ) -> pb.GetAuditCheckpointResponse:
        tenant = self._access.known_tenant(request.tenant or caller().tenant)
        made = await self._checkpoints.newest(tenant)
        return pb.GetAuditCheckpointResponse(
            note=made.note,
            size=made.size,
            verifier_key=self._checkpoints.keys.verifier_key(made.key_id),
        )

    async def ProveAudit(  # noqa: N802
        self, request: pb.ProveAuditRequest, context: Any
    ) -> pb.ProveAuditResponse:
        tenant = self._access.known_tenant(request.tenant or caller().tenant)
        answer = pb.ProveAuditResponse(
            consistency=await self._checkpoints.consistency(
                tenant, request.first_size, request.second_size
            )
        )
        if request.sequence:
            answer.inclusion.extend(
                await self._checkpoints.inclusion(tenant, request.sequence, request.second_size)
            )
        return answer


def local_writer(audit: AuditLog, access: Access) -> Write:
    """Writes security's own calls to its log, and to the log of a tenant that they name."""

    async def write(happening: Happening, named: str, key: str) -> list[Written]:
        tenants = access.state.tenants
        return [
            Written(each, (await audit.append(each, key)).sequence)
            for each in happening.seen_by(named, tenants)
        ]

    return write


# Conversions.


def _where(tenant: str) -> tuple[str, str]:
    """The tenant that a call is about, and who makes it as that tenant knows them."""
    who = caller()
    if tenant in ("", who.tenant):
        return who.tenant, who.subject
    return tenant, f"{who.tenant}/{who.subject}"


def _require_tenant_named(request: pb.CreateApiKeyRequest) -> None:
    """A key of the tenant "platform" by mistake would belong to nobody who needs it."""
    if caller().tenant == PLATFORM and not request.tenant:
        raise InvalidInputError(
            "The platform's administrator names the tenant that a key is for.",
            which="tenant",
            next_step=f"`basalt key create {request.name[:64]} --tenant TENANT ...`; for the"
            " platform's own, --tenant platform.",
        )


def _seconds(at: float) -> Timestamp:
    return Timestamp(seconds=int(at))


def _time(at: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp


def _stamp(entry: Entry) -> common_pb2.Stamp:
    return common_pb2.Stamp(at=_time(entry.at), by=entry.by, cause=entry.cause)


def _user(user: User) -> pb.User:
    return pb.User(
        tenant=user.entry.tenant,
        name=user.state.name,
        roles=user.state.roles,
        disabled=user.state.disabled,
        password_must_change=user.state.password_must_change,
        changed=common_pb2.Stamp(
            at=_time(datetime.fromtimestamp(user.changed.at, UTC)),
            by=user.changed.by,
            cause=user.changed.cause,
        ),
        roles_asked=_asked(user.state.asked),
    )


def _asked(asked: RolesAsked | None) -> pb.RolesAsked | None:
    if asked is None:
        return None
    return pb.RolesAsked(
        roles=asked.roles, by=asked.by, at=_seconds(asked.at), until=_seconds(asked.until)
    )


def _api_key(key: ApiKey) -> pb.ApiKey:
    return pb.ApiKey(
        id=key.state.id,
        tenant=key.entry.tenant,
        name=key.state.name,
        roles=key.state.roles,
        expires_at=_seconds(key.state.expires_at),
        revoked=key.state.revoked,
        created=_stamp(key.entry),
    )


def _access(published: Published, revoked: Collection[str]) -> pb.WatchAccessResponse:
    return pb.WatchAccessResponse(
        jwks_json=json.dumps(published.state.jwks()),
        revoked_token_ids=sorted(revoked),
        tenants=published.state.tenants,
        access_version=published.version,
    )


def _news(news: News) -> pb.FollowAccessResponse:
    keys = news.keys
    return pb.FollowAccessResponse(
        sequence=news.sequence,
        jwks_json=keys.jwks_json if keys else "",
        tenants=keys.tenants if keys else (),
        access_version=keys.access_version if keys else 0,
        revocations=[
            pb.Revocation(
                token_id=row.token_id,
                login_id=row.login_id,
                subject=row.subject,
                generation=row.generation,
                until_s=row.until,
            )
            for row in news.revocations
        ],
    )


def _record(record: Record) -> pb.AuditRecord:
    return pb.AuditRecord(
        tenant=record.tenant,
        sequence=record.sequence,
        at=_time(datetime.fromisoformat(record.at).astimezone(UTC)),
        actor=record.actor,
        action=record.action,
        resource=record.resource,
        decision=record.decision,
        request_json=record.request_json,
        trace_id=record.trace_id,
        address=record.address,
        outcome_of=record.outcome_of,
        previous_hash=record.previous_hash,
        hash=record.hash,
    )
