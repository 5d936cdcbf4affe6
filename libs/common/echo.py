"""What a caller sent, where it is said again: short, printable, safe in every place it may go.

A name that came with a call ends up in a status, a header, a log line, a span, an alert. Unbounded
it breaks more than that call: trailers beyond HTTP/2's limits take the connection with them that
all tenants share. So whatever may hold a caller's words passes through here, at the edge that says
it; nothing else in a service has to think of it.
"""

from __future__ import annotations

from urllib.parse import quote

# Of an error's parts, percent-encoded as `grpc-message` has them. A status says the first and the
# last of them twice, the second time in base64: all trailers stay below 7 KiB, and peers take 8.
WHAT_BYTES_MAX = 1_500
WHICH_BYTES_MAX = 256
NEXT_STEP_BYTES_MAX = 600
# A single name, or a path, within a sentence of our own.
NAME_BYTES_MAX = 256
# A value in a log line; a traceback is longer, and ours.
LOG_CHARACTERS_MAX = 4_000
# A span's name or an attribute of it; a metric's label.
LABEL_CHARACTERS_MAX = 256
LEFT_OUT = "…"

# What stays as it is in `grpc-message`, but for the percent sign: printable ASCII.
_PRINTABLE = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")


def bounded(text: str, bytes_max: int = NAME_BYTES_MAX) -> str:
    """The text in at most so many bytes percent-encoded, its middle left out where it is longer.

    What cannot be shown, such as control characters and changes of direction, is written as an
    escape: it must not end a log line or a header, nor make a name look like another.
    """
    # A long text is not escaped as a whole only to be cut: its ends are all that can be kept.
    cut = len(text) > 2 * bytes_max
    if cut:
        text = text[:bytes_max] + text[-bytes_max:]
    shown = text if text.isprintable() else "".join(map(_shown, text))
    if not cut and encoded_bytes(shown) <= bytes_max:
        return shown
    room = bytes_max - encoded_bytes(LEFT_OUT)
    tail = _ending(shown, room // 3)
    return _beginning(shown, room - encoded_bytes(tail)) + LEFT_OUT + tail


def encoded(text: str) -> str:
    """As the header `grpc-message` carries it."""
    return quote(text, safe=_PRINTABLE, errors="backslashreplace")


def encoded_bytes(text: str) -> int:
    return len(encoded(text))


def short(value: object, characters_max: int = LABEL_CHARACTERS_MAX) -> str:
    """A value as a label: without what cannot be shown, and its end left out."""
    text = str(value)[: characters_max + 1]
    text = text if text.isprintable() else "".join(map(_shown, text))
    return text if len(text) <= characters_max else text[: characters_max - 1] + LEFT_OUT


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode("ascii")


def _beginning(text: str, room: int) -> str:
    end = 0
    for end, character in enumerate(text):
        room -= encoded_bytes(character)
        if room < 0:
            return text[:end]
    return text


def _ending(text: str, room: int) -> str:
    return _beginning(text[::-1], room)[::-1]
