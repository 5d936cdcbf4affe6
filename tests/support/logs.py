"""Does to a stopped Kafka's files what a power cut or a bad disk does."""

from __future__ import annotations

import struct
from pathlib import Path

from tools.servers import Kafka


def segment(kafka: Kafka, topic: str, partition: int = 0) -> Path:
    """The file that holds a partition from its offset 0 on."""
    return kafka.directory / "records" / f"{topic}-{partition}" / f"{0:020d}.log"


def partitions(kafka: Kafka, topic: str) -> range:
    return range(len(list((kafka.directory / "records").glob(f"{topic}-[0-9]*"))))


def batches(kafka: Kafka, topic: str, partition: int = 0) -> int:
    """How many batches a partition has."""
    return len(_places(segment(kafka, topic, partition).read_bytes())) - 1


def cut(kafka: Kafka, topic: str, batches_kept: int, partition: int = 0) -> None:
    """The partition loses its batches after so many."""
    path = segment(kafka, topic, partition)
    places = _places(path.read_bytes())
    with path.open("r+b") as file:
        file.truncate(places[batches_kept])


def damage(kafka: Kafka, topic: str, batch: int, partition: int = 0) -> bytes:
    """Flips a bit in the content of a batch; the batch as it is then."""
    path = segment(kafka, topic, partition)
    content = bytearray(path.read_bytes())
    begin, end = _places(bytes(content))[batch : batch + 2]
    content[end - 3] ^= 1
    path.write_bytes(content)
    return bytes(content[begin:end])


def _places(content: bytes) -> list[int]:
    """Where each batch begins, and where the last one ends."""
    places = [0]
    while places[-1] + 12 <= len(content):
        (length,) = struct.unpack_from(">i", content, places[-1] + 8)
        if length <= 0:
            break  # The rest is room that Kafka took in advance.
        places.append(places[-1] + 12 + length)
    return places
