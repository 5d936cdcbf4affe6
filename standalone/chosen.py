"""What an operator chooses of the services' settings: what `basalt up` finds in its environment."""

from __future__ import annotations

import os
from importlib import import_module

from pydantic.fields import FieldInfo

# Numbers and tables. Places and secrets are the installation's own to say.
CHOSEN = (bool, int, float, dict)


def chosen_of(service: str) -> dict[str, str]:
    """Those that the service has, by the names of docs/reference/settings.md."""
    fields = import_module(f"services.{service}.settings").Settings.model_fields
    names = (f"BASALT_{name.upper()}" for name, field in fields.items() if _is_choice(name, field))
    return {name: os.environ[name] for name in names if name in os.environ}


def _is_choice(name: str, field: FieldInfo) -> bool:
    if field.is_required():
        return False
    return name == "log_level" or isinstance(field.get_default(call_default_factory=True), CHOSEN)
