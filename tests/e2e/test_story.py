"""The hospital's story holds from the first record to the rollback, in both editions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.laptop import running
from tests.support.telling import CHAPTERS, told_on

ROOT = Path(__file__).resolve().parents[2]
STORY_S_MAX = 600


@pytest.mark.timeout(STORY_S_MAX + 30)
def test_the_demo_holds() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "apps.hospital.demo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=STORY_S_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4_000:] + done.stderr[-4_000:]
    assert "Every step held" in done.stdout


@pytest.mark.real
@pytest.mark.timeout(STORY_S_MAX)
async def test_the_story_holds_on_real_stores() -> None:
    with running("real") as platform:
        async with told_on(platform) as story:
            for chapter in CHAPTERS:
                # Each checks what the services answer, and raises when it does not hold.
                await chapter.tell(story)
