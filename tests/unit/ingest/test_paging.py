from __future__ import annotations

import pytest

from libs.common.errors import InvalidInputError
from services.ingest.core import paging


def test_a_token_says_where_the_page_before_ended() -> None:
    token = paging.token("scans", 7)

    assert paging.place(token, "", 0) == ("scans", 7)
    assert paging.place("", "", 0) == ("", 0)


@pytest.mark.parametrize(
    "token", ["?", "AAAA", "e30", paging.token(7), paging.token("a", "b"), "é"]
)
def test_a_token_that_we_did_not_make_is_refused(token: str) -> None:
    with pytest.raises(InvalidInputError, match="or none for the first page"):
        paging.place(token, "", 0)


def test_a_page_ends_where_its_size_or_its_weight_does() -> None:
    found = ["a" * 1_000_000, "b" * 1_000_000, "c" * 3_000_000, "d"]

    assert paging.fitting(found, 10, len, lambda each: each[0]) == (found[:3], paging.token("c"))
    assert paging.fitting(found[:2], 2, len, lambda each: each[0]) == (found[:2], paging.token("b"))
    assert paging.fitting(found[:2], 3, len, lambda each: each[0]) == (found[:2], "")
    assert paging.fitting([], 3, len, str) == ([], "")
