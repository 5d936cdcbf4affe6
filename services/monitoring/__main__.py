"""`python -m services.monitoring`."""

from libs.common.runtime import run
from libs.common.settings import read
from services.monitoring.app import build
from services.monitoring.settings import Settings

if __name__ == "__main__":
    run(build(read(Settings)))
