"""How the tenants share a service: what one of them may have under way, and who waits for whom.

Calls of a costly kind pass a gate in fair turns; however many one tenant makes at a time, another's
is next. What a tenant makes beyond all measure is refused, and only to that tenant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext

from libs.common.errors import LimitError
from libs.common.fair import Gate
from libs.common.identity import Caller

# Of one tenant in one service, with what waits for its turn; watches count, too. The door lets
# four times as many through to a service, so that no tenant takes all of its room there.
TENANT_CALLS_MAX = 256
# Reads run beside each other; of one tenant half as many, so that another finds room at once.
READS_AT_ONCE = 16
# An upload keeps a file of up to 1 GiB on disk and up to 256 MiB of memory.
UPLOADS_AT_ONCE = 4
# Sealing reads all rows of a dataset.
SEALINGS_AT_ONCE = 2

READ_PREFIXES = ("Get", "List", "Count")
# What is done about many records in quarantine takes rows in, too.
UPLOADS = frozenset(
    {
        "UploadRecords",
        "UploadFile",
        "BatchMendQuarantined",
        "BatchChangeQuarantined",
        "BatchReplayQuarantined",
        "BatchDiscardQuarantined",
    }
)
SEALINGS = frozenset({"SealDataset"})


class Sharing:
    """One a service. `shares` names tenants that get more turns than others: {"acme": 2}."""

    def __init__(self, shares: Mapping[str, float] | None = None) -> None:
        self._calls: Counter[str] = Counter()
        self._reads = Gate(READS_AT_ONCE, READS_AT_ONCE // 2, shares)
        self._uploads = Gate(UPLOADS_AT_ONCE, UPLOADS_AT_ONCE // 2, shares)
        self._sealings = Gate(SEALINGS_AT_ONCE, SEALINGS_AT_ONCE // 2, shares)

    @asynccontextmanager
    async def admitted(self, who: Caller | None, method: str) -> AsyncIterator[None]:
        """Held while a call is handled. Raises LimitError."""
        if who is None:
            yield
            return
        gate = self._gate(who, method)
        with self._counted(who):
            async with nullcontext() if gate is None else gate.turn(who.tenant):
                yield

    def _gate(self, who: Caller, method: str) -> Gate | None:
        name = method.rpartition("/")[2]
        if name in SEALINGS:
            return self._sealings
        if who.is_service:
            # It answers a call that has had its turn already, or keeps the platform going.
            return None
        if name in UPLOADS:
            return self._uploads
        return self._reads if name.startswith(READ_PREFIXES) else None

    def _counted(self, who: Caller) -> _Counted | nullcontext[None]:
        return nullcontext() if who.is_service else _Counted(self._calls, who.tenant)


class _Counted:
    def __init__(self, calls: Counter[str], tenant: str) -> None:
        self._calls = calls
        self._tenant = tenant

    def __enter__(self) -> None:
        if self._calls[self._tenant] >= TENANT_CALLS_MAX:
            raise LimitError(
                f"Your tenant has {TENANT_CALLS_MAX} calls under way in this service, the most.",
                which="TENANT_CALLS_MAX",
                next_step="Wait for answers, or end watches that nobody looks at.",
            )
        self._calls[self._tenant] += 1

    def __exit__(self, *_: object) -> None:
        self._calls[self._tenant] -= 1
        if not self._calls[self._tenant]:
            del self._calls[self._tenant]
