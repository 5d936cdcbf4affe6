"""`python -m services.inference`."""

from libs.common.runtime import run
from libs.common.settings import read
from services.inference.app import build
from services.inference.settings import Settings

if __name__ == "__main__":
    run(build(read(Settings)))
