"""A disk that is full: said, not corrupted, and all is well when there is space again."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

DISK_BYTES = 1_000_000
# A tmpfs in a mount namespace of its own: nothing outside sees it, and it goes with the process.
IN_A_SMALL_DISK = """
mount -t tmpfs -o "size=$1" tmpfs "$2" && exec "$3" -m tests.support.fill_disk "$2"
"""


async def test_a_full_disk_is_said_and_nothing_is_corrupted(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *("unshare", "--map-root-user", "--mount", "sh", "-c", IN_A_SMALL_DISK, "sh"),
        *(str(DISK_BYTES), str(tmp_path), sys.executable),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    found = json.loads(out)

    assert "full" in found["journal"][0]
    assert "Free space" in found["journal"][0]
    assert found["journal"][1] == "journal"
    assert "No space left" in found["objects"][0]
    assert found["objects"][1] == "objects"
    # What was acknowledged is there, what was refused is not, and it goes on from there.
    assert found["taken"] > 10
    assert found["during"] == found["taken"]
    assert found["after"] == found["taken"] + 1
    assert found["kept"] == "kept"
    assert found["keys"] == ["acme/model/kept"]
    assert found["integrity"] == "ok"
