"""`login`, `logout`, and who there is: `tenant`, `user`, `key`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from basalt import session
from basalt.cli.client import connected, pages, platform
from basalt.cli.output import Json, Limit, asked, listed, note, say, told, when
from basalt.client import Client
from basalt.errors import BasaltError
from basalt.pb.basalt.v1 import security_pb2 as pb

ROLES = "administrator, engineer, reviewer, operator, application, auditor"
Roles = Annotated[list[str], typer.Option("--role", help=f"One of {ROLES}; may be repeated.")]
# People review and administer; a program does not.
KEY_ROLES = "engineer, operator, application, auditor"
KeyRoles = Annotated[
    list[str], typer.Option("--role", help=f"One of {KEY_ROLES}; may be repeated.")
]
OtherTenant = Annotated[str, typer.Option("--tenant", help="Another tenant than your own.")]
tenants = typer.Typer(help="Tenants: customers, business units.", no_args_is_help=True)
users = typer.Typer(help="People and their roles.", no_args_is_help=True)
keys = typer.Typer(help="API keys of applications.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    app.command()(login)
    app.command()(logout)
    app.add_typer(tenants, name="tenant")
    app.add_typer(users, name="user")
    app.add_typer(keys, name="key")


def login(
    tenant: Annotated[str, typer.Option(help="The tenant you belong to.")] = "",
    name: Annotated[str, typer.Option(help="Your name there.")] = "",
    password: Annotated[
        str,
        typer.Option(help="Asked for when left out.", envvar="BASALT_PASSWORD", show_envvar=True),
    ] = "",
    new_password: Annotated[
        str,
        typer.Option(
            help="Replaces a one-time password; asked for when needed.",
            envvar="BASALT_NEW_PASSWORD",
        ),
    ] = "",
    endpoint: Annotated[str, typer.Option(help="The door, host:port.")] = "",
    tls_ca: Annotated[
        Path | None, typer.Option(help="The authority's certificate, PEM, of a door with TLS.")
    ] = None,
    json: Json = False,
) -> None:
    """Log in; the token is kept for the commands that follow, and renewed while you use them.

    Example: basalt login --tenant platform --name admin
    """
    authority = str(tls_ca.absolute()) if tls_ca else ""
    with connected(endpoint or None, token="", tls_ca=authority or None) as client:
        last = session.load()
        tenant = tenant or asked("Tenant", "--tenant", last.tenant if last else None)
        known = last.name if last and last.tenant == tenant else None
        name = name or asked("Name", "--name", known)
        password = password or asked("Password", "--password", secret=True)
        answer = _login(client, tenant, name, password, new_password)
        where = client.endpoint
    _keep(
        session.Session(
            endpoint=where,
            token=answer.token,
            tenant=tenant,
            name=name,
            expires_at=answer.expires_at.ToSeconds(),
            login_ends_at=answer.login_ends_at.ToSeconds(),
            tls_ca=authority or session.target(where).tls_ca,
        )
    )
    until = when(answer.login_ends_at)
    told(
        {"endpoint": where, "tenant": tenant, "name": name, "login_ends_at": until},
        json,
        f"{name} of {tenant} is logged in until {until}, or 15 minutes after the last command.",
    )


def _warn_unless_sure(in_force: pb.InForce | None) -> None:
    """On the standard error: what was revoked may still be taken somewhere."""
    if in_force is None or in_force.confirmed:
        return
    waiting = ", ".join(in_force.waiting_for) or "parts of the platform"
    note(
        f"Not yet sure everywhere: {waiting} did not confirm within a second. Each is told again"
        " until it has; `basalt status` shows what is wrong."
    )


def _keep(login: session.Session) -> None:
    try:
        session.save(login)
    except OSError as error:
        file = session.session_file()
        raise BasaltError(
            f"The login holds, but cannot be kept in {file}: {error.strerror}.",
            code="FAILED_PRECONDITION",
            which=str(file),
            next_step="Name a file that you may write in BASALT_SESSION.",
        ) from error


def _login(
    client: Client, tenant: str, name: str, password: str, new_password: str
) -> pb.LoginResponse:
    request = pb.LoginRequest(tenant=tenant, name=name, password=password)
    try:
        return client.call(client.identity.Login, request, patient=False)
    except BasaltError as error:
        if error.code != "FAILED_PRECONDITION":
            raise
    if not new_password:
        say("This password was for one login. Choose your own.")
        new_password = asked("New password", "--new-password", secret=True, twice=True)
    change = pb.ChangePasswordRequest(
        tenant=tenant, name=name, password=password, new_password=new_password
    )
    client.call(client.identity.ChangePassword, change, patient=False)
    request.password = new_password
    return client.call(client.identity.Login, request, patient=False)


def logout(json: Json = False) -> None:
    """End the login: its tokens hold no longer, and this machine forgets them.

    Example: basalt logout
    """
    last = session.load()
    if last is None:
        told({"logged_out": False}, json, "Nobody was logged in.")
        return
    try:
        with connected(last.endpoint, token=last.token) as client:
            answer = client.call(client.identity.Logout, pb.LogoutRequest())
            _warn_unless_sure(answer.in_force if answer.HasField("in_force") else None)
    except BasaltError as error:
        # One that has expired, or was revoked, holds no longer either.
        if error.code != "UNAUTHENTICATED":
            session.forget()
            raise BasaltError(
                f"The login is forgotten here, but the platform was not told: {error.what}",
                code=error.code,
                which=last.name,
                next_step="Its token expires by itself within 15 minutes.",
            ) from error
    session.forget()
    told({"logged_out": True}, json, f"{last.name} of {last.tenant} is logged out.")


@tenants.command("create")
def create_tenant(tenant: str, json: Json = False) -> None:
    """Create a tenant; an administrator of the platform may.

    Example: basalt tenant create acme
    """
    with platform() as client:
        answer = client.call(client.identity.CreateTenant, pb.CreateTenantRequest(tenant=tenant))
    told(
        answer,
        json,
        f"The tenant {tenant} is there. Next: `basalt user create NAME --tenant {tenant}`",
    )


@tenants.command("list")
def list_tenants(limit: Limit = 100, json: Json = False) -> None:
    """List the tenants; an administrator of the platform may.

    Example: basalt tenant list
    """
    with platform() as client:
        request = pb.ListTenantsRequest()
        found = pages(client, client.identity.ListTenants, request, "tenants", limit)
    listed(found, json, "Tenants", ("name",), lambda tenant: (tenant.name,))


@users.command("create")
def create_user(name: str, role: Roles, tenant: OtherTenant = "", json: Json = False) -> None:
    """Create a user with a one-time password.

    Example: basalt user create ada --role engineer
    """
    request = pb.CreateUserRequest(tenant=tenant, name=name, roles=role)
    with platform() as client:
        answer = client.call(client.identity.CreateUser, request)
    told(
        answer,
        json,
        f"{name} of {answer.user.tenant} may log in once with this password, then chooses one:",
    )
    if not json:
        typer.echo(answer.one_time_password)


@users.command("set")
def set_user(
    name: str,
    role: Roles,
    disabled: Annotated[bool, typer.Option("--disabled", help="May not log in.")] = False,
    tenant: OtherTenant = "",
    json: Json = False,
) -> None:
    """Replace a user's roles, or disable them. What you give yourself, a second one confirms.

    Example: basalt user set ada --role auditor
    """
    request = pb.SetUserRequest(tenant=tenant, name=name, roles=role, disabled=disabled)
    with platform() as client:
        answer = client.call(client.identity.SetUser, request)
    if answer.user.HasField("roles_asked"):
        named = "".join(f" --role {each}" for each in answer.user.roles_asked.roles)
        named += f" --tenant {tenant}" if tenant else ""
        told(
            answer,
            json,
            f"{name} has these roles once a second administrator, of the tenant or else of the"
            f" platform, has confirmed them: `basalt user confirm {name}{named}`. They lapse"
            f" {when(answer.user.roles_asked.until)}.",
        )
        return
    told(answer, json, f"{name}: {', '.join(role)}{', disabled' if disabled else ''}.")
    if answer.revoked_keys:
        note(
            f"Revoked with it, as {name} made them and may make none any more: the keys"
            f" {', '.join(answer.revoked_keys)}. Whoever needs one makes another."
        )
    _warn_unless_sure(answer.in_force if answer.HasField("in_force") else None)


@users.command("confirm")
def confirm_roles(name: str, role: Roles, tenant: OtherTenant = "", json: Json = False) -> None:
    """Confirm roles that another administrator would give to themselves.

    Name those that `basalt user list` shows as asked.

    Example: basalt user confirm ada --role administrator --role operator
    """
    request = pb.ConfirmRolesRequest(tenant=tenant, name=name, roles=role)
    with platform() as client:
        answer = client.call(client.identity.ConfirmRoles, request)
    told(answer, json, f"{name}: {', '.join(answer.user.roles)}.")
    _warn_unless_sure(answer.in_force if answer.HasField("in_force") else None)


@users.command("reset-password")
def reset_password(name: str, tenant: OtherTenant = "", json: Json = False) -> None:
    """Give a user a new one-time password.

    Example: basalt user reset-password ada
    """
    request = pb.ResetPasswordRequest(tenant=tenant, name=name)
    with platform() as client:
        answer = client.call(client.identity.ResetPassword, request)
    told(answer, json, f"{name} may log in once with this password, then chooses one:")
    if not json:
        typer.echo(answer.one_time_password)
    _warn_unless_sure(answer.in_force if answer.HasField("in_force") else None)


@users.command("list")
def list_users(tenant: OtherTenant = "", limit: Limit = 100, json: Json = False) -> None:
    """List your tenant's users, or another's; an administrator of the platform may.

    Example: basalt user list
    """
    request = pb.ListUsersRequest(tenant=tenant)
    with platform() as client:
        found = pages(client, client.identity.ListUsers, request, "users", limit)
    listed(
        found,
        json,
        "Users",
        ("name", "roles", "asked", "disabled", "changed", "by"),
        lambda u: (
            u.name,
            ", ".join(u.roles),
            ", ".join(u.roles_asked.roles),
            "disabled" if u.disabled else "",
            when(u.changed.at),
            u.changed.by,
        ),
    )


@keys.command("create")
def create_key(
    name: str,
    role: KeyRoles,
    days: Annotated[int, typer.Option(help="Days until it expires.", min=1, max=365)] = 90,
    tenant: Annotated[
        str, typer.Option("--tenant", help="Needed of the platform's administrator.")
    ] = "",
    json: Json = False,
) -> None:
    """Create an API key, shown once. Whoever makes it answers for what is done with it.

    Example: basalt key create shop --role application
    """
    request = pb.CreateApiKeyRequest(name=name, roles=role, days=days, tenant=tenant)
    with platform() as client:
        answer = client.call(client.identity.CreateApiKey, request)
    holds = when(answer.key.expires_at)
    told(answer, json, f"The key {answer.key.id} holds until {holds}. It is shown once:")
    if not json:
        typer.echo(answer.secret)


@keys.command("revoke")
def revoke_key(key_id: str, tenant: OtherTenant = "", json: Json = False) -> None:
    """Revoke an API key; says whether every part of the platform refuses it already.

    Example: basalt key revoke 01k5xw3q4n
    """
    with platform() as client:
        request = pb.RevokeApiKeyRequest(id=key_id, tenant=tenant)
        answer = client.call(client.identity.RevokeApiKey, request)
    told(answer, json, f"The key {key_id} is revoked.")
    _warn_unless_sure(answer.in_force if answer.HasField("in_force") else None)


@keys.command("list")
def list_keys(tenant: OtherTenant = "", limit: Limit = 100, json: Json = False) -> None:
    """List your tenant's API keys, or another's; an administrator of the platform may.

    Example: basalt key list
    """
    with platform() as client:
        request = pb.ListApiKeysRequest(tenant=tenant)
        found = pages(client, client.identity.ListApiKeys, request, "keys", limit)
    listed(
        found,
        json,
        "API keys",
        ("id", "name", "roles", "expires", "revoked"),
        lambda k: (
            k.id,
            k.name,
            ", ".join(k.roles),
            when(k.expires_at),
            "revoked" if k.revoked else "",
        ),
    )


@keys.command("rotate")
def rotate_keys(json: Json = False) -> None:
    """Sign tokens with a new key from now on; the old one holds until its tokens have expired.

    Example: basalt key rotate
    """
    with platform() as client:
        answer = client.call(client.identity.RotateKeys, pb.RotateKeysRequest())
    told(answer, json, f"Tokens are signed with {answer.key_id} from now on.")
