"""A request as the audit log shows it: what it is about, and all it says but secrets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

REQUEST_CHARACTERS_MAX = 4_000
SECRET_FIELDS = frozenset({"password", "new_password", "credential", "secret", "token"})
# More parts of bytes in a field than these have one digest together.
DIGESTS_MAX = 10
NAMING = ("model", "dataset", "source", "pipeline", "name", "id", "job", "tenant")
# What tells apart two requests about the same thing; not which page of it is read.
TELLING = ("version", "revision", "id", "name", "file", "state", "tenant")


def resource_of(request: Message | None) -> str:
    """What a request is about, for people: the first of its naming fields that is set."""
    for about in (request, getattr(request, "filter", None)):
        for field in NAMING:
            value = getattr(about, field, "")
            if isinstance(value, str) and value:
                return f"{field}/{value}"
    return ""


# Whose `id` is <tenant>/<name>.
NAMED_BY_ID = frozenset({"basalt.v1.ReplayDeadLetterRequest", "basalt.v1.DiscardDeadLetterRequest"})


def tenant_named(request: Message | None) -> str:
    """The tenant that a request is about, if it names one: `tenant`, or `limits.tenant`."""
    if request is None:
        return ""
    fields = request.DESCRIPTOR.fields_by_name
    if "tenant" in fields:
        return str(getattr(request, "tenant"))  # noqa: B009 - the type has it, Message has not.
    if "limits" in fields:
        return str(getattr(request, "limits").tenant)  # noqa: B009
    return ""


def tenant_concerned(request: Message | None) -> str:
    """The same, or the one whose the thing is that a request names."""
    if request is not None and request.DESCRIPTOR.full_name in NAMED_BY_ID:
        return str(getattr(request, "id")).partition("/")[0]  # noqa: B009 - it has one.
    return tenant_named(request)


def detail_of(request: Message | None) -> tuple[str, ...]:
    """What makes two requests of a method the same reading."""
    said = [str(getattr(request, field, "")) for field in TELLING] if request is not None else []
    return (resource_of(request), *said)


def without_secrets(request: Message | None) -> str:
    """Canonical JSON of a request; secrets left out, bytes by their digest."""
    if request is None:
        return "{}"
    shown = _without_secrets(_plain(request))
    text = json.dumps(shown, sort_keys=True, separators=(",", ":"))
    if len(text) <= REQUEST_CHARACTERS_MAX:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()
    return json.dumps({"characters": len(text), "sha256": digest}, separators=(",", ":"))


def _plain(message: Message) -> Any:
    """What a message says, with digests in the place of bytes at whatever depth."""
    # Bytes may be many megabytes: they are digested where they are, never written out.
    light = type(message)()
    light.CopyFrom(message)
    instead: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.type == field.TYPE_BYTES:
            instead[field.name] = _digest(value) if isinstance(value, bytes) else _digests(value)
        elif field.message_type is not None and _has_bytes(field.message_type):
            many = not isinstance(value, Message)
            instead[field.name] = [_plain(each) for each in value] if many else _plain(value)
        else:
            continue
        light.ClearField(field.name)
    said = MessageToDict(light, preserving_proto_field_name=True)
    return {**said, **instead} if instead else said


def _has_bytes(kind: Descriptor, above: frozenset[str] = frozenset()) -> bool:
    """Whether a type of messages has bytes somewhere in it; those of maps are none of ours."""
    if kind.full_name in above or kind.GetOptions().map_entry:
        return False
    above |= {kind.full_name}
    return any(
        field.type == field.TYPE_BYTES
        or (field.message_type is not None and _has_bytes(field.message_type, above))
        for field in kind.fields
    )


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _digests(parts: Sequence[bytes]) -> object:
    if len(parts) <= DIGESTS_MAX:
        return [_digest(part) for part in parts]
    together = hashlib.sha256()
    for part in parts:
        together.update(len(part).to_bytes(8, "big") + part)
    return {"count": len(parts), "sha256": together.hexdigest()}


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _without_secrets(inside)
            for name, inside in value.items()
            if name not in SECRET_FIELDS
        }
    return [_without_secrets(each) for each in value] if isinstance(value, list) else value
