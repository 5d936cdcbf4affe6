"""`python -m services.gateway`."""

from libs.common.runtime import run
from libs.common.settings import read
from services.gateway.app import build
from services.gateway.settings import Settings

if __name__ == "__main__":
    run(build(read(Settings)))
