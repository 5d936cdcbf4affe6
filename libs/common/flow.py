"""The data flow: one row a topic. Adding an event begins here; see CONTRIBUTING.md.

upstream.<tenant>.<source>   CloudEvents of upstream systems; `ingest` creates one for each source
<topic>.dlq                  what a consumer could not handle, for `basalt deadletter list`
"""

from __future__ import annotations

from dataclasses import dataclass

from libs.common import events
from libs.common.events import Event

HOUR_MS = 3_600_000
UPSTREAM_PREFIX = "upstream."
UPSTREAM_PARTITIONS = 4
DEAD_LETTER_SUFFIX = ".dlq"
# How the headers begin that say why a message is a dead letter.
BURIAL_PREFIX = "basalt-"
# Who alone takes in upstream topics, all of them in one group: its offsets are in its journal.
UPSTREAM_READER = "ingest"
UPSTREAM_GROUP = "ingest"
# Who keeps every dead letter, and tells its consumer to take it again when that is asked for.
UNDERTAKER = "monitoring"


@dataclass(frozen=True, slots=True)
class Topic:
    """`key` names the fields whose values order the events: same key, same partition, in order."""

    name: str
    event: type[Event]
    producer: str
    consumers: tuple[str, ...]
    key: tuple[str, ...]
    retention_ms: int
    partitions: int = 4

    @property
    def dead_letters(self) -> str:
        return self.name + DEAD_LETTER_SUFFIX

    def key_of(self, event: Event) -> str:
        return "/".join(str(getattr(event, field)) for field in self.key)


DAYS_7 = 7 * 24 * HOUR_MS
DAY_1 = 24 * HOUR_MS
DEAD_LETTER_RETENTION_MS = 30 * 24 * HOUR_MS

# One row a topic, to be read as a table.
# fmt: off
# ruff: noqa: E501
DATASET_VERSIONED  = Topic("dataset.versioned.v1",  events.DatasetVersioned,  "ingest",     ("trainer",),                 ("tenant", "dataset"), DAYS_7)
TRAINING_COMPLETED = Topic("training.completed.v1", events.TrainingCompleted, "trainer",    ("inference",),               ("tenant", "model"),   DAYS_7)
TRAINING_FAILED    = Topic("training.failed.v1",    events.TrainingFailed,    "trainer",    ("monitoring",),              ("tenant", "job"),     DAYS_7)
MODEL_GATED        = Topic("model.gated.v1",        events.ModelGated,        "inference",  ("monitoring",),              ("tenant", "model"),   DAYS_7)
MODEL_SIGNED       = Topic("model.signed.v1",       events.ModelSigned,       "inference",  ("monitoring",),              ("tenant", "model"),   DAYS_7)
DEPLOYMENT_CHANGED = Topic("deployment.changed.v1", events.DeploymentChanged, "inference",  ("gateway", "monitoring"),    ("tenant", "model"),   DAYS_7)
FOREIGN_MODEL      = Topic("model.foreign.v1",      events.ForeignModelFound, "inference",  ("monitoring",),              ("tenant", "name"),    DAYS_7)
PREDICTIONS_SERVED = Topic("predictions.served.v1", events.PredictionsServed, "gateway",    ("monitoring",),              ("tenant", "model"),   DAY_1)
DRIFT_DETECTED     = Topic("drift.detected.v1",     events.DriftDetected,     "monitoring", ("trainer",),                 ("tenant", "model"),   DAYS_7)
ALERT_RAISED       = Topic("alert.raised.v1",       events.AlertRaised,       "monitoring", (),                           ("tenant", "subject"), DAYS_7)
LETTER_REPLAYED    = Topic("letter.replayed.v1",    events.LetterReplayed,    "monitoring", ("trainer", "inference", "gateway", "monitoring"), ("tenant", "topic"), DAYS_7)
ACCESS_CHANGED     = Topic("access.changed.v1",     events.AccessChanged,     "security",   ("gateway",),                 ("tenant",),           DAYS_7)
# fmt: on

TOPICS: tuple[Topic, ...] = (
    DATASET_VERSIONED,
    TRAINING_COMPLETED,
    TRAINING_FAILED,
    MODEL_GATED,
    MODEL_SIGNED,
    DEPLOYMENT_CHANGED,
    FOREIGN_MODEL,
    PREDICTIONS_SERVED,
    DRIFT_DETECTED,
    ALERT_RAISED,
    LETTER_REPLAYED,
    ACCESS_CHANGED,
)
BY_EVENT: dict[type[Event], Topic] = {topic.event: topic for topic in TOPICS}
BY_NAME: dict[str, Topic] = {topic.name: topic for topic in TOPICS}


def consumer_group(service: str, topic: str) -> str:
    """A service's group for a topic, shared by its replicas.

    Each topic has a group of its own: in a common one, every consumer that joins makes all the
    others begin anew, and a service with many topics takes a minute to start.
    """
    return f"{service}.{topic}"


def upstream_topic(tenant: str, source: str) -> str:
    """Where upstream systems publish a source's records; the name is what Kafka's ACLs guard."""
    return f"{UPSTREAM_PREFIX}{tenant}.{source}"


def upstream_names(topic: str) -> tuple[str, str]:
    """The tenant and source of an upstream topic: the inverse of `upstream_topic`."""
    tenant, _, source = topic.removeprefix(UPSTREAM_PREFIX).partition(".")
    return tenant, source
