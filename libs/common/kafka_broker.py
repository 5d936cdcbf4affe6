"""What a broker is told so that it asks who comes: the same on a laptop and in containers.

Everybody logs in. The broker itself and its administrator have their passwords in its settings
(PLAIN), services and upstream systems theirs in Kafka (SCRAM). Nobody may do what no right allows.
"""

from __future__ import annotations

from libs.common.kafka import ADMINISTRATOR, MECHANISM

BROKER = "broker"
# The names of its listeners: for all clients, and for the controller inside of it.
CLIENT, CONTROLLER = "CLIENT", "CONTROLLER"
# A session whose password was changed or whose user was removed ends after this at the latest; a
# right that is withdrawn is refused at the next request.
REAUTHENTICATION_MS_MAX = 30_000
_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
_PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"


def identity_properties(broker_password: str, administrator_password: str) -> str:
    """Lines of `server.properties`; the passwords are letters and digits."""
    client, controller = (f"listener.name.{name.lower()}" for name in (CLIENT, CONTROLLER))
    itself = f'username="{BROKER}" password="{broker_password}" user_{BROKER}="{broker_password}"'
    administrator = f'user_{ADMINISTRATOR}="{administrator_password}"'
    told = {
        f"{client}.sasl.enabled.mechanisms": f"{MECHANISM},PLAIN",
        f"{client}.{MECHANISM.lower()}.sasl.jaas.config": _SCRAM,
        f"{client}.plain.sasl.jaas.config": f"{_PLAIN} {itself} {administrator};",
        "sasl.mechanism.inter.broker.protocol": "PLAIN",
        f"{controller}.sasl.enabled.mechanisms": "PLAIN",
        f"{controller}.plain.sasl.jaas.config": f"{_PLAIN} {itself};",
        "sasl.mechanism.controller.protocol": "PLAIN",
        "connections.max.reauth.ms": str(REAUTHENTICATION_MS_MAX),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": f"User:{BROKER};User:{ADMINISTRATOR}",
        "allow.everyone.if.no.acl.found": "false",
    }
    return _lines(told)


def tls_properties(keystore: str, authority: str) -> str:
    """`keystore` is a PEM file with the broker's key (PKCS 8) and certificate, in this order."""
    listener = f"listener.name.{CLIENT.lower()}.ssl"
    return _lines(
        {
            f"{listener}.keystore.type": "PEM",
            f"{listener}.keystore.location": keystore,
            # What the broker trusts when it calls itself.
            f"{listener}.truststore.type": "PEM",
            f"{listener}.truststore.location": authority,
        }
    )


def _lines(told: dict[str, str]) -> str:
    return "".join(f"{name}={value}\n" for name, value in told.items())
