"""`python -m services.security`"""

from libs.common.runtime import run
from libs.common.settings import read
from services.security.app import build
from services.security.settings import Settings

if __name__ == "__main__":
    run(build(read(Settings)))
