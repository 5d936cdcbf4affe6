"""Starts the service: `python -m services.trainer`."""

from libs.common.runtime import run
from libs.common.settings import read
from services.trainer.app import build
from services.trainer.settings import Settings

if __name__ == "__main__":
    run(build(read(Settings)))
