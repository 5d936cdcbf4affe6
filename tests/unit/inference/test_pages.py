import pytest

from libs.common.errors import InvalidInputError
from services.inference.core.pages import newest_first, page


def test_the_newest_come_first_and_new_ones_move_no_page() -> None:
    items = ["1", "2", "3", "4", "5"]

    shown, token = newest_first(items, 2, "")
    assert shown == ["5", "4"]
    items.append("6")
    shown, token = newest_first(items, 2, token)
    assert shown == ["3", "2"]
    assert newest_first(items, 2, token) == (["1"], "")


def test_a_page_that_just_fits_is_the_last() -> None:
    assert newest_first(["1", "2"], 2, "") == (["2", "1"], "")
    assert newest_first([], 2, "") == ([], "")


@pytest.mark.parametrize("token", ["x", "-1", "²", "9" * 5_000])
def test_a_token_is_a_number(token: str) -> None:
    for listing in (page, newest_first):
        with pytest.raises(InvalidInputError, match="page token"):
            listing(["1"], 1, token)
