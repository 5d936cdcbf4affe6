"""The manifests of what is served, each with a signature that held not long ago."""

from __future__ import annotations

from libs.common.clock import Clock
from libs.common.errors import IntegrityError
from libs.common.journal import Journal
from services.inference.core import names, versions
from services.inference.core.artifacts import Artifacts, Signed
from services.inference.core.versions import ModelVersion

# A signature that held is looked at again after this: its key may have been taken back.
VERIFY_AGAIN_S = 300.0


class Verification:
    def __init__(self, journal: Journal, artifacts: Artifacts, clock: Clock) -> None:
        self._journal = journal
        self._artifacts = artifacts
        self._clock = clock
        self._known: dict[str, tuple[Signed, float]] = {}

    async def version(self, name: str) -> ModelVersion:
        """Where its files are kept; what they are, its manifest says."""
        tenant, model, number = names.parts_of_internal(name)
        return versions.of(await versions.find(self._journal, tenant, model, number))

    async def signed(self, name: str) -> Signed:
        """Raises IntegrityError when it may not be served, or not any more."""
        known, verified_at = self._known.get(name, (None, 0.0))
        now = self._clock.monotonic()
        if known is None:
            known = await self._artifacts.signed(await self.version(name))
        elif now - verified_at < VERIFY_AGAIN_S:
            return known
        else:
            try:
                await self._artifacts.verify_again(known)
            except IntegrityError:
                # It may have been signed again since.
                known = await self._artifacts.signed(await self.version(name))
        self._known[name] = (known, now)
        return known

    def take(self, signed: Signed) -> None:
        """It was verified a moment ago, to be loaded."""
        self._known[signed.name] = (signed, self._clock.monotonic())

    def last(self, name: str) -> Signed:
        """As it was when it was served last."""
        return self._known[name][0]
