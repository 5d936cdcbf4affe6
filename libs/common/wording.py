"""What a text for people must not carry: where on our machines something lies."""

from __future__ import annotations

import re

# An absolute path of at least two names; a URL's, or a fraction's, begins within a word.
_PATH = re.compile(r"(?<![\w/.:…])/(?:[\w.@+-]+/)+([\w.@+-]*)")


def without_folders(text: str) -> str:
    """The same with "…/name" for each absolute path: what it is may help, where it is does not."""
    return _PATH.sub(r"…/\1", text)
