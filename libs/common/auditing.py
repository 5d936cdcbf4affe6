"""What the guard tells the audit log of a call: before it takes effect, and how it ended.

    privileged   recorded before it takes effect, and again with its outcome
    observed     reading: the first is recorded before it is answered; what is alike within a
                 minute is counted, and told in one record, so that who reads much waits for nobody

An outcome is written after its call: without the log it is tried again, and kept until then.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

import structlog
from google.protobuf.message import Message

from libs.common import telemetry
from libs.common.clock import Clock
from libs.common.errors import BasaltError, DependencyError
from libs.common.identity import PLATFORM, Caller, acting_for, caller_address
from libs.common.redaction import detail_of, resource_of, tenant_concerned, without_secrets
from libs.common.runtime import ended, lasting

PERMITTED = "permitted"
REFUSED = "refused"
# Outcomes, which say in `outcome_of` which record they belong to.
DONE = "done"
FAILED = "failed"
DECISIONS = (PERMITTED, REFUSED, DONE, FAILED)

# Reading that is alike within this span is one record.
WINDOW_S = 60.0
WINDOWS_MAX = 10_000
# Outcomes that wait for the log; of more the oldest are lost, and it is said how many.
OUTCOMES_MAX = 10_000
FLUSH_S = 5.0
RETRY_S = 1.0
# For outcomes when the service stops.
STOP_S_MAX = 2.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Happening:
    """What is to be recorded; the log adds sequence, time and hashes."""

    tenant: str
    actor: str
    action: str
    resource: str
    decision: str
    request_json: str
    trace_id: str
    address: str = ""
    outcome_of: int = 0

    @classmethod
    def of(cls, who: Caller, method: str, request: Message | None, decision: str) -> Happening:
        return cls(
            tenant=who.tenant,
            actor=who.subject,
            action=method,
            resource=resource_of(request),
            decision=decision,
            request_json=without_secrets(request),
            trace_id=telemetry.trace_id(),
            address=caller_address(),
        )

    def seen_by(self, named: str, tenants: Collection[str]) -> list[Happening]:
        """This, and, where the platform's administrator acts on another tenant, what that one's log
        says. Of a call that is refused, or anybody else's, nothing is in another's log.
        """
        acts = self.tenant == PLATFORM and self.decision == PERMITTED
        if not acts or named == self.tenant or named not in tenants:
            return [self]
        return [self, replace(self, tenant=named, actor=f"{self.tenant}/{self.actor}")]

    def ended(self, sequence: int, code: str, **more: object) -> Happening:
        """Its outcome. `sequence` is where it stands in the log."""
        said = {"code": code, **more}
        return replace(
            self,
            decision=DONE if code == "OK" else FAILED,
            request_json=json.dumps(said, sort_keys=True, separators=(",", ":")),
            outcome_of=sequence,
        )


@dataclass(frozen=True, slots=True)
class Written:
    """What was recorded, and where it stands in the log of its tenant."""

    happening: Happening
    sequence: int


# Writes what happened to each log that it belongs in: `named` is another tenant that the request
# names. The same key again adds nothing. Raises BasaltError.
Write = Callable[[Happening, str, str], Awaitable[Sequence[Written]]]
Asked = Sequence[Written]


@dataclass(slots=True)
class _Window:
    began: float
    first: asyncio.Future[Asked]
    repeated: int = 0


@dataclass(slots=True)
class Auditing:
    """A part of the runtime: it keeps what is still to be told."""

    write: Write
    clock: Clock
    name: str = "audit"
    problem: str = ""
    _outcomes: deque[Happening] = field(default_factory=deque)
    _lost: int = 0
    _windows: dict[tuple[str, ...], _Window] = field(default_factory=dict)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None

    # For the guard.

    async def asked(
        self, who: Caller, method: str, request: Message | None, decision: str
    ) -> Asked:
        """Returns once the record is durable. Raises DependencyError: then the call is refused."""
        happening = Happening.of(who, method, request, decision)
        named = tenant_concerned(request)
        try:
            return await self.write(happening, named, self.clock.new_id())
        except BasaltError as error:
            raise unwritten(method, error.what) from error

    async def observed(
        self, who: Caller, method: str, request: Message | None, decision: str
    ) -> None:
        """As `asked` for the first of a minute; the same again is counted until the minute ends."""
        key = (who.tenant, who.subject, caller_address(), method, decision, *detail_of(request))
        window = self._windows.get(key)
        now = self.clock.monotonic()
        if window is not None and now - window.began < WINDOW_S:
            window.repeated += 1
            await asyncio.shield(window.first)
            return
        if window is not None or len(self._windows) >= WINDOWS_MAX:
            self._close(key if window is not None else next(iter(self._windows)))
        window = _Window(now, asyncio.get_running_loop().create_future())
        self._windows[key] = window
        try:
            window.first.set_result(await self.asked(who, method, request, decision))
        except BaseException as error:
            self._windows.pop(key, None)
            told = (
                error
                if isinstance(error, BasaltError)
                else unwritten(method, "The call that would have written it was ended.")
            )
            window.first.set_exception(told)
            window.first.exception()  # Whoever waits is told; nobody has to.
            raise

    def ended(self, asked: Asked, code: str) -> None:
        """The outcome of what was asked: a gRPC status code's name. Never waits, never fails."""
        for each in asked:
            self._tell(each.happening.ended(each.sequence, code))

    # What is told later.

    def close_windows(self, older_than_s: float) -> None:
        now = self.clock.monotonic()
        for key in [k for k, w in self._windows.items() if now - w.began >= older_than_s]:
            self._close(key)

    def _close(self, key: tuple[str, ...]) -> None:
        window = self._windows.pop(key)
        if not window.repeated or not window.first.done() or window.first.exception():
            return
        for each in window.first.result():
            self._tell(each.happening.ended(each.sequence, "OK", repeated=window.repeated))

    def _tell(self, outcome: Happening) -> None:
        if len(self._outcomes) >= OUTCOMES_MAX:
            self._outcomes.popleft()
            self._lost += 1
        self._outcomes.append(outcome)
        self._wake.set()

    async def tell_all(self) -> None:
        """Writes what waits, in its order. Raises BasaltError, and keeps what is not written."""
        while self._outcomes:
            outcome = self._outcomes[0]
            # The sequence makes the key: written twice it is there once.
            key = f"outcome/{outcome.outcome_of}/{outcome.decision}"
            with acting_for(outcome.tenant):
                await self.write(outcome, "", key)
            if self._outcomes and self._outcomes[0] is outcome:
                self._outcomes.popleft()

    async def start(self) -> None:
        self._task = lasting(self._run(), "audit")

    async def stop(self) -> None:
        await ended(self._task)
        self.close_windows(0.0)
        try:
            async with asyncio.timeout(STOP_S_MAX):
                await self.tell_all()
        except (BasaltError, TimeoutError) as error:
            log.warning("audit_outcomes_lost", count=len(self._outcomes), error=str(error))

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_S):
                    await self._wake.wait()
            self._wake.clear()
            self.close_windows(WINDOW_S)
            try:
                await self.tell_all()
                self.problem = self._lost_so_far()
            except Exception as error:
                waiting = len(self._outcomes)
                self.problem = f"{waiting} outcomes wait for the audit log: {error}"
                log.warning("audit_outcomes_wait", count=waiting, error=str(error))
                await asyncio.sleep(RETRY_S)
                self._wake.set()

    def _lost_so_far(self) -> str:
        if not self._lost:
            return ""
        return f"{self._lost} outcomes are not in the audit log: more than {OUTCOMES_MAX} waited."


def unwritten(method: str, why: str) -> DependencyError:
    """What a call hears that may not take effect. `why`: a sentence."""
    return DependencyError(
        f"The audit log cannot be written, so {method} is refused. {why}",
        which="audit",
        next_step="Try again when `basalt status` shows security serving.",
    )
