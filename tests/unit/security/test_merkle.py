"""The tree of RFC 9162 against its published vectors and against its definition."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from basalt.checkpoint import Checkpoint, consistent
from libs.common.errors import InvalidInputError
from services.security.core import merkle
from services.security.core.merkle import Frontier, leaf_hash, node_hash

# The leaves and heads that implementations of RFC 6962 test with (certificate-transparency-go).
ENTRIES = [
    bytes.fromhex(each)
    for each in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
HEADS = (
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)


def defined(entries: Sequence[bytes]) -> bytes:
    """MTH of RFC 9162, 2.1.1, word for word."""
    if not entries:
        return hashlib.sha256(b"").digest()
    if len(entries) == 1:
        return leaf_hash(entries[0])
    split = 1
    while split * 2 < len(entries):
        split *= 2
    return node_hash(defined(entries[:split]), defined(entries[split:]))


def reader(entries: Sequence[bytes]) -> merkle.Whole:
    async def whole(start: int, size: int) -> bytes:
        assert size & (size - 1) == 0, "only whole subtrees are asked for"
        assert start % size == 0
        assert start + size <= len(entries), "nothing is read beyond the log"
        return defined(entries[start : start + size])

    return whole


def leaves(count: int) -> list[bytes]:
    return [f"record {number}".encode() for number in range(count)]


def checkpoint(entries: Sequence[bytes]) -> Checkpoint:
    return Checkpoint("acme", len(entries), defined(entries), "", ())


@pytest.mark.parametrize("size", range(len(HEADS)))
def test_heads_are_the_published_ones(size: int) -> None:
    assert merkle.head_of(ENTRIES[:size]).hex() == HEADS[size]
    assert asyncio.run(merkle.head(size, reader(ENTRIES))).hex() == HEADS[size]


def test_proofs_are_the_published_ones() -> None:
    async def proofs() -> None:
        whole = reader(ENTRIES)
        inclusion = await merkle.inclusion_proof(5, 8, whole)
        assert [each.hex() for each in inclusion] == [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ]
        consistency = await merkle.consistency_proof(6, 8, whole)
        assert [each.hex() for each in consistency] == [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ]

    asyncio.run(proofs())


@given(st.integers(0, 130))
def test_a_tree_that_grows_is_the_tree(count: int) -> None:
    tree = Frontier()
    entries = leaves(count)
    for number, entry in enumerate(entries, 1):
        completed = tree.add(leaf_hash(entry))
        for height, found in enumerate(completed, 1):
            assert found == defined(entries[number - (1 << height) : number])
        assert len(tree.hashes) == number.bit_count()
    assert tree.head == defined(entries)
    # It goes on from what was kept of it.
    again = Frontier(tree.size, tree.hashes)
    again.add(leaf_hash(b"one more"))
    assert again.head == defined([*entries, b"one more"])


@given(st.data())
def test_every_leaf_is_proven_to_be_in_it_and_no_other(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 70))
    index = data.draw(st.integers(0, size - 1))
    entries = leaves(size)
    proof = asyncio.run(merkle.inclusion_proof(index, size, reader(entries)))
    assert len(proof) <= size.bit_length()
    found = merkle.verify_inclusion(index, size, leaf_hash(entries[index]), proof)
    assert found == defined(entries)
    assert merkle.verify_inclusion(index, size, leaf_hash(b"another"), proof) != found
    for wrong in (proof[:-1] if proof else [b"x" * 32], [*proof, b"x" * 32]):
        assert merkle.verify_inclusion(index, size, leaf_hash(entries[index]), wrong) != found


@given(st.data())
def test_growth_is_proven_and_nothing_else(data: st.DataObject) -> None:
    second = data.draw(st.integers(0, 70))
    first = data.draw(st.integers(0, second))
    entries = leaves(second)
    proof = asyncio.run(merkle.consistency_proof(first, second, reader(entries)))
    assert len(proof) <= second.bit_length() + 1
    older, newer = checkpoint(entries[:first]), checkpoint(entries)
    assert consistent(older, newer, proof)
    if first > 0:
        place = data.draw(st.integers(0, first - 1))
        rewritten = [*entries[:place], b"rewritten", *entries[place + 1 :]]
        assert not consistent(checkpoint(rewritten[:first]), newer, proof)
        forged = asyncio.run(merkle.consistency_proof(first, second, reader(rewritten)))
        assert not consistent(older, checkpoint(rewritten), forged)
    if proof:
        place = data.draw(st.integers(0, len(proof) - 1))
        flipped = bytes([proof[place][0] ^ 1]) + proof[place][1:]
        assert not consistent(older, newer, [*proof[:place], flipped, *proof[place + 1 :]])
        assert not consistent(older, newer, proof[:-1])
    assert not consistent(older, newer, [*proof, b"x" * 32])
    assert not consistent(newer, older, proof) or first == second


@pytest.mark.parametrize(("first", "second"), [(-1, 3), (4, 3)])
def test_what_is_not_in_the_log_has_no_proof(first: int, second: int) -> None:
    with pytest.raises(InvalidInputError):
        asyncio.run(merkle.consistency_proof(first, second, reader(leaves(3))))
    with pytest.raises(InvalidInputError):
        asyncio.run(merkle.inclusion_proof(first, second, reader(leaves(3))))


def test_the_cost_is_as_the_height() -> None:
    asked: list[int] = []

    async def whole(start: int, size: int) -> bytes:
        asked.append(size)
        return hashlib.sha256(f"{start} {size}".encode()).digest()

    asyncio.run(merkle.consistency_proof(123_456_789, 987_654_321, whole))
    assert len(asked) < 30 * 30
