"""Logins that were refused, in the log: of known and unknown names, throttled ones too.

Strangers decide how many there are, so what comes from one address within a minute is two records:
the first at once, and how many followed. Of more addresses than are told apart the rest is one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from libs.common import telemetry
from libs.common.auditing import FAILED, REFUSED, WINDOW_S, Happening
from libs.common.clock import Clock
from libs.common.errors import BasaltError, DependencyError
from libs.common.identity import PLATFORM, caller_address
from services.security.core.access import Access
from services.security.core.audit import AuditLog

WINDOWS_MAX = 1_000
NAMES_MAX = 20
NAME_CHARACTERS_MAX = 64


@dataclass(slots=True)
class _Window:
    began: float
    first: Happening
    sequence: int
    repeated: int = 0
    names: dict[str, None] = field(default_factory=dict)


@dataclass(slots=True)
class RefusedLogins:
    audit: AuditLog
    access: Access
    clock: Clock
    _windows: dict[tuple[str, ...], _Window] = field(default_factory=dict)

    async def note(self, tenant: str, name: str, action: str, error: BasaltError) -> None:
        """Raises DependencyError naming audit when it cannot be written."""
        name, where = name[:NAME_CHARACTERS_MAX], tenant
        if tenant not in self.access.state.tenants:
            name, where = f"{tenant[:NAME_CHARACTERS_MAX]}/{name}", PLATFORM
        key = (where, action, error.code, caller_address())
        if len(self._windows) >= WINDOWS_MAX and key not in self._windows:
            key = (where, action, error.code, "")
        window = self._windows.get(key)
        if window is not None and self.clock.monotonic() - window.began < WINDOW_S:
            window.repeated += 1
            if len(window.names) < NAMES_MAX:
                window.names[name] = None
            return
        first = Happening(
            tenant=where,
            actor=name,
            action=action,
            resource=f"name/{name}",
            decision=REFUSED,
            request_json=_json({"code": error.code}),
            trace_id=telemetry.trace_id(),
            address=caller_address(),
        )
        if window is not None:
            await self._close(key)
        self._windows[key] = _Window(self.clock.monotonic(), first, 0)
        self._windows[key].sequence = await self._append(first, "")

    async def flush(self) -> None:
        """Says how many followed, of each minute that is over."""
        now = self.clock.monotonic()
        for key in [key for key, w in self._windows.items() if now - w.began >= WINDOW_S]:
            await self._close(key)

    async def _close(self, key: tuple[str, ...]) -> None:
        window = self._windows.pop(key)
        if not window.repeated or not window.sequence:
            return
        said = {"code": key[2], "names": sorted(window.names), "repeated": window.repeated}
        summary = Happening(
            tenant=window.first.tenant,
            actor=window.first.actor,
            action=window.first.action,
            resource=window.first.resource,
            decision=FAILED,
            request_json=_json(said),
            trace_id=window.first.trace_id,
            address=key[3],
            outcome_of=window.sequence,
        )
        await self._append(summary, f"repeated/{window.sequence}")

    async def _append(self, happening: Happening, key: str) -> int:
        try:
            return (await self.audit.append(happening, key)).sequence
        except BasaltError as error:
            raise DependencyError(
                "The audit log cannot be written, so nobody logs in.",
                which="audit",
                next_step="Try again when `basalt status` shows security serving.",
            ) from error


def _json(said: object) -> str:
    return json.dumps(said, sort_keys=True, separators=(",", ":"))
