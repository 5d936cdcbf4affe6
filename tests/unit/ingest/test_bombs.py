"""What is small on its way in and large inside: it takes less than the limit, and is named."""

from __future__ import annotations

from pathlib import Path

from services.ingest.core.limits import INTAKE_BYTES_MAX, MEBIBYTE
from tests.support.growth import FILES, WORK, heights

REFUSED = ("at most 10000000", "row group", "bytes of memory", "bytes; a record", "is over")
# Of a file of lines each is told by itself, and the header is one.
LINES = {"open-quotation.csv": 2 * MEBIBYTE + 1, "one-line.csv": 2, "one-line.json-lines": 1}


def test_nothing_takes_more_memory_than_it_may(tmp_path: Path) -> None:
    """One test for all: most of the time goes into starting the process that is measured."""
    found = heights(tmp_path)

    assert found.keys() == WORK.keys()
    too_much = {name: taken for name, (taken, _) in found.items() if taken > INTAKE_BYTES_MAX}
    assert not too_much
    for name, (_, answer) in found.items():
        if "over the limit" in name:
            assert "when decompressed" in answer[0], name
        elif "at the limit" in name:
            assert answer == [], name
        elif name.endswith("columns-of-nulls.parquet"):
            accepted, held = answer
            assert (accepted, held > 0) == (0, True), name
        elif name in LINES:
            assert answer == LINES[name], name
        elif name == "of-long-values.parquet":
            assert answer == 100
        elif name in FILES:
            assert any(said in str(answer) for said in REFUSED), (name, answer)
        else:
            accepted, held = answer
            assert (accepted, held > 0) == (0, True), name
