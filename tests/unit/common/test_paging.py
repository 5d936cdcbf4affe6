from __future__ import annotations

import pytest

from libs.common.errors import InvalidInputError
from libs.common.paging import page_size


def test_a_page_has_up_to_500() -> None:
    assert [page_size(asked) for asked in (0, 1, 500)] == [50, 1, 500]
    for asked in (-1, 501):
        with pytest.raises(InvalidInputError, match=f"A page of {asked} .* 1 to 500"):
            page_size(asked)
