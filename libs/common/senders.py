"""Who sends spans: every sender has a token of its own, which says its name.

A token is `<sender>.<HMAC-SHA256 of that name>` under one key that the receiver of spans alone has,
so a sender can say nothing in another's name, and a new one needs no list of them all. RFC 2104.
"""

from __future__ import annotations

import hashlib
import hmac
import re

HEADER = "authorization"
SCHEME = "Bearer "
# It takes in the spans of all others and passes them on, so it speaks in every name.
COLLECTOR = "collector"
NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")
TOKEN_CHARACTERS_MAX = 160


def token(key: str, sender: str) -> str:
    """What `sender` proves itself with. Raises ValueError for what is no name."""
    if not NAME.fullmatch(sender):
        raise ValueError(f"{sender!r} is no name of a sender: it is not like 'ingest'")
    return f"{sender}.{_proof(key, sender)}"


def authorization(said: str) -> str:
    """The value of the header that carries a token."""
    return SCHEME + said


def sender_of(key: str, header: str) -> str:
    """Whose token the header carries; "" when it is nobody's. It takes as long either way."""
    said = header.removeprefix(SCHEME)
    sender, _, proof = said.partition(".")
    known = len(said) <= TOKEN_CHARACTERS_MAX and NAME.fullmatch(sender) is not None
    genuine = hmac.compare_digest(_proof(key, sender).encode(), proof.encode())
    return sender if known and genuine and header.startswith(SCHEME) else ""


def _proof(key: str, sender: str) -> str:
    return hmac.new(key.encode(), sender.encode(errors="replace"), hashlib.sha256).hexdigest()
