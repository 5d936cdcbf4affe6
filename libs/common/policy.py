"""Who may call what: one engine (Cedar), one file (`policy.cedar`), asked before every call.

`policy.cedarschema` lists every method with the kinds of act it is; the policy permits kinds to
roles. Both are parsed once. The engine skips a rule that fails to evaluate, a `forbid` too, so any
error in its diagnostics means no.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files

from cedarpy import AuthzResult, Entities, PolicySet, is_authorized
from google.protobuf.message import Message

from libs.common.errors import ForbiddenError
from libs.common.identity import PLATFORM, Caller
from libs.common.redaction import tenant_named

ROLES = ("administrator", "engineer", "reviewer", "operator", "application", "auditor")
ADMINISTRATOR = "administrator"
SERVICE_ROLE = "service"
# Callers whose entities are kept parsed; one is about 2 KiB.
CALLERS_MAX = 2_000
OPEN = "open"
PRIVILEGED = "privileged"
INTERNAL = "internal"
OBSERVED = "observed"


@dataclass(frozen=True, slots=True)
class Access:
    """`open`: needs no identity. `privileged`: written to the audit log before it takes effect.

    `observed`: reading that is written to the audit log, what is alike within a minute once.
    `internal`: between services; the door has no way to it.
    """

    open: bool
    privileged: bool
    internal: bool
    observed: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """`reason` completes "<who> may not call <method>: ..."; empty when allowed, as `next_step`."""

    allowed: bool
    reason: str = ""
    next_step: str = ""

    def refusal(self, who: Caller, method: str) -> ForbiddenError:
        return ForbiddenError(
            f"{who.subject} may not call {method}: {self.reason}",
            which=method,
            next_step=self.next_step,
        )


def policy_text() -> str:
    return files("libs.common").joinpath("policy.cedar").read_text()


def schema_text() -> str:
    return files("libs.common").joinpath("policy.cedarschema").read_text()


class Policy:
    """The parsed policy. Thread-safe; a decision takes about 30 µs."""

    def __init__(self, policy: str, schema: str) -> None:
        """Raises ValueError when a text does not parse."""
        self._policies = PolicySet.from_str(policy)
        # Given the schema, the engine adds each action with the kinds it belongs to.
        self._actions = Entities.from_json_str("[]", schema)
        self._kinds = _kinds(self._actions)
        # Every method the policy knows; an action without a slash is a kind of act.
        self.methods = frozenset(name for name in self._kinds if "/" in name)
        self._callers: dict[tuple[str, str, frozenset[str]], Entities] = {}

    @classmethod
    def load(cls) -> Policy:
        return cls(policy_text(), schema_text())

    def kinds(self, method: str) -> frozenset[str]:
        """The kinds of act that a method is; none for one that is unknown."""
        return self._kinds.get(method, frozenset())

    def access(self, method: str) -> Access:
        """`method` is "basalt.v1.IngestService/PutSource". One that is unknown is neither."""
        kinds = self.kinds(method)
        return Access(
            open=OPEN in kinds,
            privileged=PRIVILEGED in kinds,
            internal=INTERNAL in kinds,
            observed=OBSERVED in kinds,
        )

    def decide(self, who: Caller, method: str, request: Message | None) -> Decision:
        if method not in self.methods:
            return Decision(
                False, "the policy knows no such method.", "Call one of this platform's version."
            )
        tenant = tenant_named(request) or who.tenant
        answer = self._ask(who, method, tenant)
        if answer.allowed and not answer.diagnostics.errors:
            return Decision(True)
        if answer.diagnostics.errors:
            return Decision(
                False, "the policy could not be evaluated.", "Tell the platform's operators."
            )
        return self._refused(who, method, tenant)

    def _ask(self, who: Caller, method: str, tenant: str) -> AuthzResult:
        request = {
            "principal": _uid(who),
            "action": {"type": "Action", "id": method},
            "resource": {"type": "Tenant", "id": tenant},
            "context": {},
        }
        return is_authorized(request, self._policies, self._entities(who))

    def _entities(self, who: Caller) -> Entities:
        key = (who.tenant, who.subject, who.roles)
        entities = self._callers.get(key)
        if entities is None:
            entities = self._actions.with_added_json_str(json.dumps([_entity(who)]))
            if len(self._callers) >= CALLERS_MAX:
                self._callers.clear()
            self._callers[key] = entities
        return entities

    def _refused(self, who: Caller, method: str, tenant: str) -> Decision:
        """Advises what would help; whether another tenant that was named exists is not said."""
        needed = [role for role in ROLES if self._would_do(role, who.tenant, method, tenant)]
        if needed:
            return Decision(
                False,
                f"it needs the role {' or '.join(needed)}.",
                _how_to_get(needed[0], who),
            )
        if tenant != who.tenant and not who.is_service:
            return Decision(
                False,
                f"it names the tenant {tenant}, and the token is for {who.tenant}.",
                f"Name no tenant but {who.tenant}, or log in as a user of the other.",
            )
        if self._would_do(ADMINISTRATOR, PLATFORM, method, PLATFORM):
            return Decision(
                False,
                f"it is for administrators of the tenant {PLATFORM}, and the token is for"
                f" {who.tenant}.",
                "Ask one of them; no role of your tenant helps.",
            )
        return Decision(
            False,
            "it is for the platform's own services.",
            "Nothing that a person is given permits it; `basalt --help` shows what people may do.",
        )

    def _would_do(self, role: str, of: str, method: str, tenant: str) -> bool:
        somebody = Caller(of, f"a {role}", frozenset({role}), "", 0.0)
        return self._ask(somebody, method, tenant).allowed


def _how_to_get(role: str, who: Caller) -> str:
    if ADMINISTRATOR not in who.roles:
        return "Ask an administrator of your tenant for a role that may."
    # Roles are replaced, so those that are there have to be named as well.
    roles = " ".join(f"--role {each}" for each in (*sorted(who.roles), role))
    return (
        f"As an administrator you can ask for it: `basalt user set {who.subject} {roles}`; once a"
        " second administrator has confirmed it, log in again."
    )


def _kinds(actions: Entities) -> dict[str, frozenset[str]]:
    """Each action of the schema with the groups it is in."""
    return {
        entity["uid"]["id"]: frozenset(parent["id"] for parent in entity["parents"])
        for entity in json.loads(str(actions))
    }


def _uid(who: Caller) -> dict[str, str]:
    if _is_service(who):
        return {"type": "Service", "id": who.subject.removeprefix("service:")}
    return {"type": "User", "id": f"{who.tenant}/{who.subject}"}


def _is_service(who: Caller) -> bool:
    # Both come out of a token that security signed; neither alone makes a service.
    return who.is_service and SERVICE_ROLE in who.roles


def _entity(who: Caller) -> dict[str, object]:
    roles = [] if _is_service(who) else [{"type": "Role", "id": role} for role in sorted(who.roles)]
    return {
        "uid": _uid(who),
        "attrs": {"tenant": {"__entity": {"type": "Tenant", "id": who.tenant}}},
        "parents": roles,
    }
