"""Every method is in the audit log, or it is said here why not."""

from __future__ import annotations

from libs.common.policy import Policy
from tests.tidy.test_contracts import methods

NAMES_ONLY = "names, states and counts, which every member of the tenant may see"
PUBLIC = "public keys: who asks says nothing"
INSIDE = "services among each other; what they do it for is in the log"
NUMBERS = "figures of the platform, no rows"
OWN_RECORD = "written by security itself, which alone knows who was meant"
NOT_AUDITED = {
    "IdentityService/Login": OWN_RECORD,
    "IdentityService/ChangePassword": OWN_RECORD,
    "IdentityService/GetJwks": PUBLIC,
    "IdentityService/IssueServiceToken": INSIDE,
    "IdentityService/WatchAccess": INSIDE,
    "IdentityService/FollowAccess": INSIDE,
    "StreamService/PutStream": INSIDE,
    "StreamService/CreateStreamKey": INSIDE,
    "StreamService/RotateStreamKey": INSIDE,
    "StreamService/RevokeStreamKey": INSIDE,
    "StreamService/ListStreamKeys": INSIDE,
    "IngestService/ListSourceKeys": NAMES_ONLY,
    "IdentityService/ListTenants": NAMES_ONLY,
    "IdentityService/ListUsers": NAMES_ONLY,
    "IdentityService/ListApiKeys": NAMES_ONLY,
    "SigningService/VerifyManifest": "it tells of a signature what anybody can compute",
    "SigningService/GetSigningKeys": PUBLIC,
    "AuditService/AppendAudit": "it is the record",
    "IngestService/GetSource": NAMES_ONLY,
    "IngestService/ListSources": NAMES_ONLY,
    "IngestService/ListDatasets": NAMES_ONLY,
    "IngestService/ListDatasetVersions": NAMES_ONLY,
    "IngestService/GetDatasetVersion": NAMES_ONLY,
    "TrainerService/GetPipeline": NAMES_ONLY,
    "TrainerService/ListPipelines": NAMES_ONLY,
    "TrainerService/GetJob": NAMES_ONLY,
    "TrainerService/ListJobs": NAMES_ONLY,
    "TrainerService/WatchJob": NAMES_ONLY,
    "TrainerService/ReadCandidate": INSIDE,
    "ModelService/ListModels": NAMES_ONLY,
    "ModelService/ListModelVersions": NAMES_ONLY,
    "ModelService/GetModelVersion": NAMES_ONLY,
    "DeploymentService/GetDeployment": NAMES_ONLY,
    "DeploymentService/ListDeployments": NAMES_ONLY,
    "DeploymentService/ListDeploymentHistory": NAMES_ONLY,
    "DeploymentService/WatchRoutes": INSIDE,
    "MonitoringService/GetPlatformHealth": NUMBERS,
    "MonitoringService/ListPlatformEvents": NUMBERS,
    "MonitoringService/GetServingMetrics": NUMBERS,
    "MonitoringService/GetDriftReport": NUMBERS,
    "MonitoringService/ListAlerts": NUMBERS,
    "MonitoringService/GetTrace": NUMBERS,
    "MonitoringService/ListTraces": NUMBERS,
    "HealthService/GetServiceHealth": INSIDE,
    "GatewayService/GetDoor": NUMBERS,
    "GatewayService/GetLimits": NUMBERS,
}


def test_every_method_is_in_the_log_or_it_is_said_why_not() -> None:
    policy = Policy.load()
    silent = {
        name.removeprefix("basalt.v1.")
        for _, name, _ in methods()
        if not (policy.access(name).privileged or policy.access(name).observed)
    }

    assert silent == set(NOT_AUDITED)


def test_whatever_changes_something_is_recorded_before_it_does() -> None:
    """By the verbs of names: what only reads begins with one of these."""
    policy = Policy.load()
    reading = ("Get", "List", "Watch", "Read", "Follow", "Export", "Verify", "Prove", "Count")
    changing = {
        name.removeprefix("basalt.v1.")
        for _, name, _ in methods()
        if not name.partition("/")[2].startswith(reading) and not policy.access(name).privileged
    }

    assert {name for name in changing if NOT_AUDITED.get(name) not in (OWN_RECORD, INSIDE)} == {
        "AuditService/AppendAudit"
    }
