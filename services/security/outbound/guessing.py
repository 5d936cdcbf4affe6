"""How many guesses a password takes, by zxcvbn: it knows some 90,000 common passwords and words,
their usual variants, repeats, sequences and rows of keys (Wheeler, USENIX Security 2016).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

from zxcvbn import zxcvbn

# What it judges of a password; its time grows with the square of this.
CHARACTERS_MAX = 72


class Zxcvbn:
    async def log10(self, password: str, words: Sequence[str]) -> float:
        judged = await asyncio.to_thread(
            zxcvbn, password[:CHARACTERS_MAX], user_inputs=list(words), max_length=CHARACTERS_MAX
        )
        return float(cast("float", judged["guesses_log10"]))
