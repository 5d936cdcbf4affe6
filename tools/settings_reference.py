"""Writes docs/reference/settings.md from the services' settings, so that it is never behind.

`python -m tools.settings_reference` writes it, `... check` fails when it is stale.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

from pydantic.fields import FieldInfo

from libs.common.settings import SERVICES, CommonSettings

PAGE = Path(__file__).resolve().parent.parent / "docs/reference/settings.md"
HEADING = """# Settings

A service reads its settings from the environment, and stops with a list when one that it needs is
missing. What is a list or a mapping is written as JSON. Where `BASALT_SECRETS` names a folder, a
setting may also be a file in it, named in lower case (`basalt_master_key`): that is how containers
get their secrets.

`basalt up` and `docker compose` set what is needed. Numbers and tables are yours to choose:
`basalt up` hands on those that it finds in its own environment (`BASALT_JOBS_AT_ONCE=2 basalt up`),
Compose those that its file names in the form `"${BASALT_JOBS_AT_ONCE:-}"`. One that is empty is one
that nobody set.
"""


def document() -> str:
    parts = [HEADING, _table("Every service", CommonSettings.model_fields)]
    for service in SERVICES:
        settings = import_module(f"services.{service}.settings").Settings
        own = {
            name: field
            for name, field in settings.model_fields.items()
            if name not in CommonSettings.model_fields
        }
        if own:
            parts.append(_table(service, own))
    return "\n".join(parts)


def _table(title: str, fields: dict[str, FieldInfo]) -> str:
    rows = [
        f"| `BASALT_{name.upper()}` | {_default(field)} | {field.description or ''} |"
        for name, field in fields.items()
    ]
    return (
        f"## {title}\n\n| name | default | what it is |\n|---|---|---|\n" + "\n".join(rows) + "\n"
    )


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**needed**"
    default = field.get_default(call_default_factory=True)
    text = "" if default is None else str(default)
    # A secret shows as stars, and an empty one as nothing.
    return f"`{text}`" if text else ""


def main(arguments: list[str]) -> int:
    if arguments == ["check"]:
        fresh = PAGE.exists() and PAGE.read_text() == document()
        print("settings: the page is fresh." if fresh else "Stale: run `make reference`.")
        return 0 if fresh else 1
    PAGE.write_text(document())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
