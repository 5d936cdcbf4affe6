"""The Merkle tree of RFC 9162 (2.1) over a log: its head, and proofs that lead to it.

Everything is computed from subtree hashes that a reader gives: `whole(start, size)` of 2^k leaves
from a multiple of 2^k on, which never change once they are there. So a head and a proof cost as
many of them as the tree is high.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterable, Sequence

from libs.common.errors import InvalidInputError

LEAF = b"\x00"
NODE = b"\x01"
HASH_BYTES = 32
# Of a tree without leaves.
EMPTY = hashlib.sha256(b"").digest()

# The hash of the `size` leaves from `start` on; a power of two, and `start` a multiple of it.
Whole = Callable[[int, int], Awaitable[bytes]]


def leaf_hash(entry: bytes) -> bytes:
    return hashlib.sha256(LEAF + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(NODE + left + right).digest()


def peaks(size: int) -> list[tuple[int, int]]:
    """The whole subtrees of a tree of `size` leaves, from the left: (start, size)."""
    found, start = [], 0
    for bit in reversed(range(size.bit_length())):
        if size >> bit & 1:
            found.append((start, 1 << bit))
            start += 1 << bit
    return found


def bagged(hashes: Sequence[bytes]) -> bytes:
    """The head of a tree with these peaks."""
    if not hashes:
        return EMPTY
    head = hashes[-1]
    for left in reversed(hashes[:-1]):
        head = node_hash(left, head)
    return head


class Frontier:
    """A tree that only grows: a hash a peak, so that a leaf costs one or two hashes."""

    def __init__(self, size: int = 0, hashes: Sequence[bytes] = ()) -> None:
        self.size = size
        self.hashes = list(hashes)

    def add(self, leaf: bytes) -> list[bytes]:
        """Adds a leaf's hash. The whole subtrees that it completes: of 2, 4, 8... leaves."""
        self.hashes.append(leaf)
        self.size += 1
        completed: list[bytes] = []
        merging = self.size
        while merging % 2 == 0:
            right = self.hashes.pop()
            completed.append(node_hash(self.hashes.pop(), right))
            self.hashes.append(completed[-1])
            merging //= 2
        return completed

    @property
    def head(self) -> bytes:
        return bagged(self.hashes)


def head_of(entries: Iterable[bytes]) -> bytes:
    frontier = Frontier()
    for entry in entries:
        frontier.add(leaf_hash(entry))
    return frontier.head


async def head(size: int, whole: Whole) -> bytes:
    return bagged([await whole(start, count) for start, count in peaks(size)])


async def inclusion_proof(index: int, size: int, whole: Whole) -> list[bytes]:
    """PATH(m, D_n) of RFC 9162, 2.1.3.1. Raises InvalidInputError for a leaf that is not there."""
    if not 0 <= index < size:
        raise _outside(index, size)
    path: list[bytes] = []
    low, high = 0, size
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            path.append(await _range(middle, high, whole))
            high = middle
        else:
            path.append(await _range(low, middle, whole))
            low = middle
    return path[::-1]


async def consistency_proof(first: int, second: int, whole: Whole) -> list[bytes]:
    """PROOF(m, D_n) of RFC 9162, 2.1.4.1; nothing when there is nothing to prove."""
    if not 0 <= first <= second:
        raise _outside(first, second)
    if first in (0, second):
        return []
    path: list[bytes] = []
    low, high, complete = 0, second, True
    while first != high:
        middle = low + _split(high - low)
        if first <= middle:
            path.append(await _range(middle, high, whole))
            high = middle
        else:
            path.append(await _range(low, middle, whole))
            low, complete = middle, False
    if not complete:
        path.append(await _range(low, high, whole))
    return path[::-1]


def verify_inclusion(index: int, size: int, leaf: bytes, proof: Sequence[bytes]) -> bytes | None:
    """The head that the proof leads to (RFC 9162, 2.1.3.2); None when it cannot be one."""
    if not 0 <= index < size:
        return None
    at, last, found = index, size - 1, leaf
    for each in proof:
        if last == 0:
            return None
        if at % 2 == 1 or at == last:
            found = node_hash(each, found)
            while at % 2 == 0 and at != 0:
                at, last = at // 2, last // 2
        else:
            found = node_hash(found, each)
        at, last = at // 2, last // 2
    return found if last == 0 else None


async def _range(low: int, high: int, whole: Whole) -> bytes:
    """The hash of the leaves low..high-1, a subtree of the tree that they are in."""
    hashes = [await whole(low + start, count) for start, count in peaks(high - low)]
    return bagged(hashes)


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << (size - 1).bit_length() - 1


def _outside(index: int, size: int) -> InvalidInputError:
    return InvalidInputError(
        f"{index} is not in a log of {size} records.",
        which="size",
        next_step="`basalt audit checkpoint` says how many there are.",
    )
