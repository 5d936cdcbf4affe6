"""What a caller hears of a disk that is full."""

from __future__ import annotations

import errno
import os

import pytest

from libs.common.errors import DependencyError, InternalError
from libs.common.rpc import _told


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_is_full_is_no_fault_of_ours(number: int) -> None:
    told = _told(OSError(number, os.strerror(number), "/srv/spool/upload-1"))

    assert isinstance(told, DependencyError)
    assert told.which == "disk"
    assert "Make room" in told.next_step
    assert "/srv" not in str(told)


def test_another_error_of_the_disk_is() -> None:
    assert isinstance(_told(OSError(errno.EIO, "broken", "/srv/spool/upload-1")), InternalError)
