"""The keys that sign checkpoints: of their own, since tokens' keys are forgotten in time.

Old ones stay, as the checkpoints that they signed do; their private halves do not.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from libs.common.clock import Clock
from libs.common.errors import PreconditionError
from libs.common.identity import PLATFORM
from libs.common.journal import Change, Journal, aggregate
from libs.common.stores.ports import Entry
from services.security.core import notes
from services.security.ports import NoteSigner, Seal

KIND = "checkpoint-keys"
AGGREGATE = aggregate(PLATFORM, KIND, "state")


class CheckpointKey(BaseModel):
    """`public` is the key as verifiers take it: `notes.verifier_key`."""

    model_config = ConfigDict(frozen=True)

    key_id: str
    public: str
    sealed: str


class KeysState(BaseModel):
    """The last one signs."""

    model_config = ConfigDict(frozen=True)

    keys: tuple[CheckpointKey, ...]


@dataclass(slots=True)
class CheckpointKeys:
    journal: Journal
    clock: Clock
    seal: Seal
    signer: NoteSigner
    _state: KeysState | None = None

    async def begin(self) -> None:
        """Makes the first key, unless there is one."""

        async def first(latest: Entry | None) -> Change | None:
            if latest is not None:
                return None
            return Change("KeyMade", KeysState(keys=(self._new(),)).model_dump())

        self._take(await self.journal.decide(AGGREGATE, "first-start", "security", first))

    async def refresh(self) -> None:
        """Takes over what another replica changed."""
        if (latest := await self.journal.latest(AGGREGATE)) is not None:
            self._take(latest)

    async def rotate(self, by: str) -> None:
        async def another(latest: Entry | None) -> Change:
            before = KeysState.model_validate(latest.state).keys if latest else ()
            old = tuple(key.model_copy(update={"sealed": ""}) for key in before)
            return Change("KeysRotated", KeysState(keys=(*old, self._new())).model_dump())

        self._take(await self.journal.decide(AGGREGATE, self.clock.new_id(), by, another))

    def verifier_keys(self) -> list[str]:
        return [key.public for key in self._keys()]

    def verifier_key(self, key_id: str) -> str:
        return next((key.public for key in self._keys() if key.key_id == key_id), "")

    def signing(self) -> CheckpointKey:
        return self._keys()[-1]

    def signed(self, text: str, key: CheckpointKey) -> str:
        """The note: `text` with its signature."""
        private = self.seal.open(f"checkpoint-key/{key.key_id}", key.sealed)
        public, signature = self.signer.sign(private, text.encode())
        return notes.with_signature(text, notes.key_hash(public), signature)

    def _keys(self) -> tuple[CheckpointKey, ...]:
        if self._state is None:
            raise PreconditionError("security has not started.", next_step="Try again shortly.")
        return self._state.keys

    def _new(self) -> CheckpointKey:
        key_id = self.clock.new_id().lower()
        private, public = self.signer.new_key()
        sealed = self.seal.close(f"checkpoint-key/{key_id}", private)
        return CheckpointKey(key_id=key_id, public=notes.verifier_key(public), sealed=sealed)

    def _take(self, entry: Entry) -> None:
        self._state = KeysState.model_validate(entry.state)
