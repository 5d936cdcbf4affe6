"""python -m services.ingest"""

from __future__ import annotations

from libs.common.runtime import run
from libs.common.settings import read
from services.ingest.app import build
from services.ingest.settings import Settings

if __name__ == "__main__":
    run(build(read(Settings)))
