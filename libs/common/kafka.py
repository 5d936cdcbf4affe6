"""How a program comes to Kafka: where it is, as whom, and whom to trust there.

The one place that knows it: every client, whatever library it stands on, is given its arguments
from here.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faststream.security import BaseSecurity, SASLScram256

from libs.common.settings import CommonSettings

MECHANISM = "SCRAM-SHA-256"
# Who makes topics, users and rights; `security` alone has its password.
ADMINISTRATOR = "administrator"
# Kafka's least: after it a group goes on without a consumer that died.
SESSION_MS = 6_000
HEARTBEAT_MS = 1_500


@dataclass(frozen=True, slots=True)
class KafkaAccess:
    """`bootstrap` is host:port[,host:port]; `ca` the authority of its certificate, with TLS.

    Without a user it is a Kafka that asks nobody who they are, as some tests have one.
    """

    bootstrap: str
    user: str = ""
    # Kept in a copy of ours as long as the process lives: clients connect again with it.
    password: str = ""
    ca: Path | None = None

    def __repr__(self) -> str:
        """Without the password: representations end in logs."""
        return f"KafkaAccess({self.bootstrap!r}, user={self.user!r})"

    @classmethod
    def of(cls, settings: CommonSettings, user: str) -> KafkaAccess:
        """What a service's settings say; `user` is the service."""
        password = settings.kafka_password.get_secret_value()
        return cls(settings.kafka, user if password else "", password, settings.kafka_ca)

    @property
    def servers(self) -> list[str]:
        return self.bootstrap.split(",")

    @property
    def protocol(self) -> str:
        if not self.user:
            return "SSL" if self.ca else "PLAINTEXT"
        return "SASL_SSL" if self.ca else "SASL_PLAINTEXT"

    def for_aiokafka(self) -> dict[str, Any]:
        """For its producer, consumer and admin client."""
        arguments: dict[str, Any] = {
            "bootstrap_servers": self.servers,
            "security_protocol": self.protocol,
        }
        if self.ca:
            arguments["ssl_context"] = self._trusting()
        if self.user:
            arguments |= {
                "sasl_mechanism": MECHANISM,
                "sasl_plain_username": self.user,
                "sasl_plain_password": self.password,
            }
        return arguments

    def for_faststream(self) -> BaseSecurity | None:
        """What `KafkaBroker` takes as its `security`, beside `servers`."""
        context = self._trusting() if self.ca else None
        if not self.user:
            return BaseSecurity(context) if context else None
        return SASLScram256(self.user, self.password, ssl_context=context, use_ssl=bool(context))

    def for_librdkafka(self, mechanism: str = MECHANISM) -> dict[str, str]:
        """For confluent-kafka's clients."""
        told = {"bootstrap.servers": self.bootstrap, "security.protocol": self.protocol}
        if self.ca:
            told["ssl.ca.location"] = str(self.ca)
        if self.user:
            told |= {
                "sasl.mechanism": mechanism,
                "sasl.username": self.user,
                "sasl.password": self.password,
            }
        return told

    def _trusting(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.ca))
