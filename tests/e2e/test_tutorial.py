"""The tutorial's commands do what the tutorial says, on a platform of their own."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.laptop import Laptop

ROOT = Path(__file__).resolve().parents[2]
TUTORIAL = ROOT / "docs/tutorial/README.md"
TUTORIAL_S_MAX = 280
BLOCK = re.compile(r"```(bash|python)\n(.*?)```", re.DOTALL)


def script() -> str:
    """Every block in the order of the page; Python ones as a reader would paste them."""
    blocks = BLOCK.findall(TUTORIAL.read_text())
    return "\n".join(
        code if language == "bash" else f"python - <<'END'\n{code}END\n"
        for language, code in blocks
    )


def test_every_command_of_the_tutorial_runs(laptop: Laptop, tmp_path: Path) -> None:
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    environment = {
        **os.environ,
        "BASALT_HOME": str(laptop.home.root),
        "BASALT_ENDPOINT": laptop.door,
        "BASALT_SESSION": str(tmp_path / "session.json"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script()],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TUTORIAL_S_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3_000:] + done.stderr[-3_000:]
    assert "Everything serves." in done.stdout
    assert "['setosa']" in done.stdout
    assert "every link holds" in done.stdout
