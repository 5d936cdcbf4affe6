"""Who may not come in any more: heard from security itself, with nobody in between."""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from libs.common.access import AccessWatch, ServiceTokens, revocations_of
from libs.common.pb.basalt.v1 import security_pb2
from libs.common.peers import Peers
from libs.common.revocations import Revocations
from libs.common.runtime import Loop
from libs.common.tls import ServerTls
from services.gateway.outbound.revocations import RevocationFile
from services.gateway.settings import Settings

# By which name security knows that the door itself has put a revocation in force.
FOLLOWER = "dispatcher"
FOLDER_FILE = "revocations.jsonl"
# How long a start waits for what was revoked before it.
ASKED_S_MAX = 3.0
# So often it is looked whether the file is still there.
LOOK_S = 1.0

log = structlog.get_logger(__name__)


class Following:
    """A part: revocations as security publishes them, and as they are remembered without it."""

    name = "access"

    def __init__(self, settings: Settings, revocations: Revocations, file: RevocationFile) -> None:
        tls = ServerTls(settings.tls, "gateway") if settings.tls else None
        credential = settings.service_credential.get_secret_value()
        self._open_peers = Peers(settings.peers, tls=tls)
        tokens = ServiceTokens("gateway", credential, self._open_peers)
        self._peers = Peers(settings.peers, tokens, tls)
        self._revocations = revocations
        self._file = file
        self._keeping = Loop("revocations", file.look, LOOK_S)
        self._watch = AccessWatch(self._peers, FOLLOWER, self._take)

    async def start(self) -> None:
        """Returns when what was revoked meanwhile is in force, or security cannot be asked."""
        self._file.begin()
        await self._keeping.start()
        await self._watch.start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ASKED_S_MAX):
                await self._watch.asked.wait()

    async def stop(self) -> None:
        await self._watch.stop()
        await self._keeping.stop()
        await self._peers.stop()
        await self._open_peers.stop()
        self._file.close()

    def _take(self, change: security_pb2.FollowAccessResponse) -> None:
        new = self._revocations.add(*revocations_of(change))
        try:
            self._file.append(new)
        except OSError as error:
            # In force all the same; only a restart without security would not know of it.
            log.warning("revocations_not_kept", error=str(error))
