"""The policy: complete, valid, and saying no wherever it does not say yes."""

import pytest
from cedarpy import validate_policies
from google.protobuf.message import Message

from libs.common.identity import Caller
from libs.common.pb.basalt.v1 import (
    gateway_pb2,
    health_pb2,
    inference_pb2,
    ingest_pb2,
    monitoring_pb2,
    security_pb2,
    trainer_pb2,
)
from libs.common.pb.inference import grpc_inference_service_pb2
from libs.common.policy import ROLES, Access, Policy, policy_text, schema_text

CONTRACTS = (
    gateway_pb2,
    health_pb2,
    inference_pb2,
    ingest_pb2,
    monitoring_pb2,
    security_pb2,
    trainer_pb2,
    grpc_inference_service_pb2,
)
METHODS = sorted(
    f"{service.full_name}/{method.name}"
    for contract in CONTRACTS
    for service in contract.DESCRIPTOR.services_by_name.values()
    for method in service.methods
)
OPEN = {
    "basalt.v1.IdentityService/Login",
    "basalt.v1.IdentityService/ChangePassword",
    "basalt.v1.IdentityService/GetJwks",
    "basalt.v1.IdentityService/IssueServiceToken",
    "basalt.v1.SigningService/GetSigningKeys",
}
PRIVILEGED = {
    "basalt.v1.IdentityService/CreateTenant",
    "basalt.v1.IdentityService/CreateUser",
    "basalt.v1.IdentityService/SetUser",
    "basalt.v1.IdentityService/ConfirmRoles",
    "basalt.v1.IdentityService/ResetPassword",
    "basalt.v1.IdentityService/CreateApiKey",
    "basalt.v1.IdentityService/RevokeApiKey",
    "basalt.v1.IdentityService/RotateKeys",
    "basalt.v1.IdentityService/RenewToken",
    "basalt.v1.IdentityService/Logout",
    "basalt.v1.SigningService/SignManifest",
    "basalt.v1.ModelService/ApproveModelVersion",
    "basalt.v1.ModelService/RejectModelVersion",
    "basalt.v1.DeploymentService/Deploy",
    "basalt.v1.DeploymentService/Promote",
    "basalt.v1.DeploymentService/Rollback",
    "basalt.v1.DeploymentService/Undeploy",
    "basalt.v1.MonitoringService/ReplayDeadLetter",
    "basalt.v1.MonitoringService/DiscardDeadLetter",
    "basalt.v1.GatewayService/PutLimits",
    "basalt.v1.IngestService/CreateSourceKey",
    "basalt.v1.IngestService/RotateSourceKey",
    "basalt.v1.IngestService/RevokeSourceKey",
    "basalt.v1.IngestService/PutSource",
    "basalt.v1.IngestService/UploadRecords",
    "basalt.v1.IngestService/UploadFile",
    "basalt.v1.IngestService/SealDataset",
    "basalt.v1.IngestService/MendQuarantined",
    "basalt.v1.IngestService/ReplayQuarantined",
    "basalt.v1.IngestService/BatchMendQuarantined",
    "basalt.v1.IngestService/BatchChangeQuarantined",
    "basalt.v1.IngestService/BatchReplayQuarantined",
    "basalt.v1.IngestService/BatchDiscardQuarantined",
    "basalt.v1.TrainerService/PutPipeline",
    "basalt.v1.TrainerService/RunPipeline",
    "basalt.v1.TrainerService/CancelJob",
    "basalt.v1.ModelService/SetAlias",
}
OBSERVED = {
    "basalt.v1.AuditService/ListAudit",
    "basalt.v1.AuditService/ExportAudit",
    "basalt.v1.AuditService/GetAuditCheckpoint",
    "basalt.v1.AuditService/ProveAudit",
    "basalt.v1.IngestService/ReadDataset",
    "basalt.v1.IngestService/ListQuarantine",
    "basalt.v1.IngestService/GetQuarantined",
    "basalt.v1.IngestService/CountQuarantine",
    "basalt.v1.TrainerService/FollowJobLog",
    "basalt.v1.ModelService/ReadModelVersion",
    "basalt.v1.MonitoringService/ListDeadLetters",
}
STREAMS = (
    "basalt.v1.StreamService/PutStream",
    "basalt.v1.StreamService/CreateStreamKey",
    "basalt.v1.StreamService/RotateStreamKey",
    "basalt.v1.StreamService/RevokeStreamKey",
    "basalt.v1.StreamService/ListStreamKeys",
)
# Who may, of the six roles and the six services, when the request names no other tenant.
MATRIX = {
    "basalt.v1.IdentityService/CreateTenant": {"platform administrator"},
    "basalt.v1.IdentityService/ListTenants": {"platform administrator"},
    "basalt.v1.IdentityService/RotateKeys": {"platform administrator"},
    "basalt.v1.GatewayService/PutLimits": {"platform administrator"},
    "basalt.v1.IdentityService/CreateUser": {"administrator", "platform administrator"},
    "basalt.v1.IdentityService/ConfirmRoles": {"administrator", "platform administrator"},
    "basalt.v1.IdentityService/CreateApiKey": {"administrator", "platform administrator"},
    "basalt.v1.IdentityService/ListUsers": {"administrator", "platform administrator", "auditor"},
    "basalt.v1.AuditService/ListAudit": {"auditor"},
    "basalt.v1.AuditService/ExportAudit": {"auditor"},
    "basalt.v1.AuditService/GetAuditCheckpoint": {"auditor", "platform administrator"},
    "basalt.v1.AuditService/ProveAudit": {"auditor", "platform administrator"},
    "basalt.v1.IngestService/PutSource": {"engineer"},
    "basalt.v1.IngestService/UploadFile": {"engineer"},
    "basalt.v1.IngestService/MendQuarantined": {"engineer"},
    "basalt.v1.IngestService/BatchDiscardQuarantined": {"engineer"},
    "basalt.v1.IngestService/SealDataset": {"engineer", "service:trainer"},
    "basalt.v1.TrainerService/RunPipeline": {"engineer"},
    "basalt.v1.ModelService/ApproveModelVersion": {"reviewer"},
    "basalt.v1.DeploymentService/Deploy": {"operator"},
    "basalt.v1.DeploymentService/Rollback": {"operator"},
    "basalt.v1.MonitoringService/ReplayDeadLetter": {"operator"},
    "inference.GRPCInferenceService/ModelInfer": {"application"},
    "basalt.v1.SigningService/SignManifest": {"service:inference"},
    "basalt.v1.IngestService/CreateSourceKey": {"engineer"},
    "basalt.v1.IngestService/RotateSourceKey": {"engineer"},
    "basalt.v1.IngestService/RevokeSourceKey": {"engineer"},
    **{method: {"service:ingest"} for method in STREAMS},
}
SERVICES = ("ingest", "trainer", "inference", "monitoring", "security", "gateway")
ONLY_SERVICES = (
    "basalt.v1.AuditService/AppendAudit",
    "basalt.v1.IdentityService/WatchAccess",
    "basalt.v1.IdentityService/FollowAccess",
    "basalt.v1.DeploymentService/WatchRoutes",
    "basalt.v1.TrainerService/ReadCandidate",
    "basalt.v1.HealthService/GetServiceHealth",
)


# Besides those: for whoever has a service's credential, and for one service alone.
INTERNAL = (
    "basalt.v1.IdentityService/IssueServiceToken",
    "basalt.v1.SigningService/SignManifest",
    *STREAMS,
)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy.load()


def person(role: str, tenant: str = "acme") -> Caller:
    return Caller(tenant, f"the-{role}", frozenset({role}), "t", 0.0)


def service(name: str, tenant: str = "acme") -> Caller:
    return Caller(tenant, f"service:{name}", frozenset({"service"}), "t", 0.0)


def everybody() -> dict[str, Caller]:
    return (
        {role: person(role) for role in ROLES}
        | {"platform administrator": person("administrator", "platform")}
        | {f"service:{name}": service(name) for name in SERVICES}
    )


def test_policy_holds_against_its_schema() -> None:
    result = validate_policies(policy_text(), schema_text())
    assert result.validation_passed, [str(error) for error in result.errors]


def test_every_method_of_every_contract_is_known_and_no_other(policy: Policy) -> None:
    assert sorted(policy.methods) == METHODS


@pytest.mark.parametrize("method", METHODS)
def test_access(policy: Policy, method: str) -> None:
    internal = method in ONLY_SERVICES or method in INTERNAL
    expected = Access(
        open=method in OPEN,
        privileged=method in PRIVILEGED,
        internal=internal,
        observed=method in OBSERVED,
    )
    assert policy.access(method) == expected


@pytest.mark.parametrize("method", METHODS)
def test_every_guarded_method_has_somebody_who_may(policy: Policy, method: str) -> None:
    allowed = {
        name for name, who in everybody().items() if policy.decide(who, method, None).allowed
    }
    assert allowed or method in OPEN
    assert allowed != set(everybody()) or ("read" in policy.kinds(method))


@pytest.mark.parametrize("method", sorted(MATRIX))
def test_matrix(policy: Policy, method: str) -> None:
    allowed = {
        name for name, who in everybody().items() if policy.decide(who, method, None).allowed
    }
    assert allowed == MATRIX[method]


@pytest.mark.parametrize("method", ONLY_SERVICES)
def test_what_only_services_may(policy: Policy, method: str) -> None:
    allowed = {
        name for name, who in everybody().items() if policy.decide(who, method, None).allowed
    }
    assert allowed == {f"service:{name}" for name in SERVICES}


@pytest.mark.parametrize("method", METHODS)
def test_what_no_person_may_is_internal(policy: Policy, method: str) -> None:
    people = [who for who in everybody().values() if not who.is_service]
    if not any(policy.decide(who, method, None).allowed for who in people) and method not in OPEN:
        assert policy.access(method).internal, "The door would have a way to it: `internal`."


def test_unknown_method_is_denied_and_not_open(policy: Policy) -> None:
    method = "basalt.v1.IngestService/DropEverything"
    assert policy.access(method) == Access(open=False, privileged=False, internal=False)
    assert not policy.decide(person("administrator", "platform"), method, None).allowed
    # A kind of act is no method either.
    assert not policy.decide(person("engineer"), "engineer", None).allowed


def test_name_of_a_service_without_its_role_makes_no_service(policy: Policy) -> None:
    pretender = Caller("acme", "service:inference", frozenset({"administrator"}), "t", 0.0)
    sign = "basalt.v1.SigningService/SignManifest"
    assert not policy.decide(pretender, sign, None).allowed
    role_only = Caller("acme", "inference", frozenset({"service"}), "t", 0.0)
    assert not policy.decide(role_only, sign, None).allowed


@pytest.mark.parametrize(
    ("method", "elsewhere"),
    [
        ("basalt.v1.IdentityService/CreateUser", security_pb2.CreateUserRequest(tenant="other")),
        ("basalt.v1.IdentityService/SetUser", security_pb2.SetUserRequest(tenant="other")),
        ("basalt.v1.IdentityService/ListUsers", security_pb2.ListUsersRequest(tenant="other")),
        ("basalt.v1.GatewayService/GetLimits", gateway_pb2.GetLimitsRequest(tenant="other")),
    ],
)
def test_only_the_platforms_administrator_names_another_tenant(
    policy: Policy, method: str, elsewhere: security_pb2.CreateUserRequest
) -> None:
    own = policy.decide(person("administrator"), method, None)
    foreign = policy.decide(person("administrator"), method, elsewhere)
    assert own.allowed
    assert not foreign.allowed
    assert "other" in foreign.reason
    assert policy.decide(person("administrator", "platform"), method, elsewhere).allowed
    assert not policy.decide(person("engineer", "platform"), method, elsewhere).allowed


def test_limits_name_their_tenant_inside(policy: Policy) -> None:
    request = gateway_pb2.PutLimitsRequest(limits=gateway_pb2.Limits(tenant="acme"))
    method = "basalt.v1.GatewayService/PutLimits"
    assert not policy.decide(person("administrator"), method, request).allowed
    assert policy.decide(person("administrator", "platform"), method, request).allowed


def test_service_writes_the_audit_of_any_tenant(policy: Policy) -> None:
    request = security_pb2.AppendAuditRequest(tenant="other")
    method = "basalt.v1.AuditService/AppendAudit"
    assert policy.decide(service("gateway"), method, request).allowed
    assert not policy.decide(person("administrator", "platform"), method, request).allowed


def test_refusal_names_the_role_it_needs(policy: Policy) -> None:
    decision = policy.decide(person("engineer"), "basalt.v1.DeploymentService/Deploy", None)
    assert decision.reason == "it needs the role operator."
    assert decision.next_step == "Ask an administrator of your tenant for a role that may."


def test_administrator_is_told_how_to_give_the_role(policy: Policy) -> None:
    decision = policy.decide(person("administrator"), "basalt.v1.AuditService/ListAudit", None)
    assert decision.next_step == (
        "As an administrator you can ask for it: `basalt user set the-administrator"
        " --role administrator --role auditor`; once a second administrator has confirmed it, log"
        " in again."
    )


@pytest.mark.parametrize(
    ("who", "method", "request_", "reason", "next_step"),
    [
        # No role of acme helps, whether there is a tenant `other` or not.
        (
            person("engineer"),
            "basalt.v1.IdentityService/CreateUser",
            security_pb2.CreateUserRequest(tenant="other"),
            "it names the tenant other, and the token is for acme.",
            "Name no tenant but acme, or log in as a user of the other.",
        ),
        (
            person("engineer", "platform"),
            "basalt.v1.IdentityService/CreateUser",
            security_pb2.CreateUserRequest(tenant="other"),
            "it needs the role administrator.",
            "Ask an administrator of your tenant for a role that may.",
        ),
        (
            person("administrator"),
            "basalt.v1.IdentityService/RotateKeys",
            None,
            "it is for administrators of the tenant platform, and the token is for acme.",
            "Ask one of them; no role of your tenant helps.",
        ),
        (
            person("administrator", "platform"),
            "basalt.v1.IdentityService/WatchAccess",
            None,
            "it is for the platform's own services.",
            "Nothing that a person is given permits it; `basalt --help` shows what people may do.",
        ),
    ],
)
def test_refusal_advises_what_would_help(
    policy: Policy, who: Caller, method: str, request_: Message | None, reason: str, next_step: str
) -> None:
    decision = policy.decide(who, method, request_)
    refusal = decision.refusal(who, method)
    assert (decision.reason, refusal.next_step) == (reason, next_step)
    assert refusal.what == f"{who.subject} may not call {method}: {reason}"


def test_rule_that_fails_to_evaluate_denies() -> None:
    """Cedar skips a `forbid` that errors; that must not become a yes."""
    broken = policy_text() + "forbid (principal, action, resource) when { principal.nothing == 1 };"
    who = person("engineer")
    decision = Policy(broken, schema_text()).decide(
        who, "basalt.v1.IngestService/ListSources", None
    )
    assert not decision.allowed
    assert decision.reason == "the policy could not be evaluated."


def test_caller_with_odd_characters_stays_who_they_are(policy: Policy) -> None:
    who = Caller('acme"/\n', 'x" in Role', frozenset({'engineer", "operator'}), "t", 0.0)
    assert not policy.decide(who, "basalt.v1.DeploymentService/Deploy", None).allowed
