"""Who the command line is logged in as: one small file that its owner alone can read."""

from __future__ import annotations

import json
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

DEFAULT_ENDPOINT = "127.0.0.1:7080"


@dataclass(frozen=True)
class Session:
    """`expires_at` is the token's, `login_ends_at` the last moment to which it can be renewed."""

    endpoint: str
    token: str
    tenant: str
    name: str
    expires_at: float
    login_ends_at: float = 0.0
    # The PEM file with the authority of the door's certificate; "" without TLS.
    tls_ca: str = ""

    @property
    def expired(self) -> bool:
        return self.expires_at < time.time()

    def same_login(self, other: Session) -> bool:
        mine = (self.endpoint, self.tenant, self.name)
        return mine == (other.endpoint, other.tenant, other.name)


@dataclass(frozen=True)
class Target:
    """Where a client connects, and as whom; `login` when that is the last `basalt login`."""

    endpoint: str
    token: str
    tls_ca: str
    login: Session | None


def target(
    endpoint: str | None = None, token: str | None = None, tls_ca: Path | str | None = None
) -> Target:
    """What is given, else BASALT_ENDPOINT, BASALT_TOKEN and BASALT_TLS_CA, else the last login.

    Without a login the address is that of this machine's own installation. A login's token goes to
    the platform that gave it, and to no other.
    """
    login = load()
    where = endpoint or os.environ.get("BASALT_ENDPOINT", "")
    where = where or (login.endpoint if login else own_door())
    if login is not None and login.endpoint != where:
        login = None
    authority = str(tls_ca or os.environ.get("BASALT_TLS_CA", ""))
    authority = authority or (login.tls_ca if login else "")
    given = token if token is not None else os.environ.get("BASALT_TOKEN") or None
    if given is not None:
        return Target(where, given, authority, None)
    return Target(where, login.token if login else "", authority, login)


def installation() -> Path:
    """Where `basalt up` keeps its state on this machine."""
    return Path(os.environ.get("BASALT_HOME") or Path.home() / ".basalt").expanduser()


def own_door() -> str:
    try:
        port = json.loads((installation() / "ports.json").read_text())["door"]
    except (OSError, ValueError, KeyError, TypeError):
        return DEFAULT_ENDPOINT
    return f"127.0.0.1:{port}"


def session_file() -> Path:
    folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return Path(os.environ.get("BASALT_SESSION") or folder / "basalt" / "session.json")


def save(session: Session) -> None:
    """Replaces the file as a whole: a reader sees the old login or the new one. Raises OSError."""
    file = session_file()
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Mode 0600 from its first moment, and a name of its own: commands may run side by side.
    descriptor, partial = tempfile.mkstemp(prefix=".session-", dir=file.parent)
    try:
        with os.fdopen(descriptor, "w") as opened:
            json.dump(asdict(session), opened)
        Path(partial).replace(file)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def load() -> Session | None:
    """The last login; None when there is none, or the file is not one of ours."""
    try:
        session = Session(**json.loads(session_file().read_text()))
    except (OSError, ValueError, TypeError):
        return None
    texts = (session.endpoint, session.token, session.tenant, session.name, session.tls_ca)
    times = (session.expires_at, session.login_ends_at)
    whole = all(isinstance(each, str) for each in texts)
    return session if whole and all(isinstance(each, int | float) for each in times) else None


def forget() -> None:
    session_file().unlink(missing_ok=True)
