"""What a reviewer reads says each thing once."""

from pathlib import Path

import pytest

from services.trainer.training import card, rows
from services.trainer.training.candidate import Result
from tests.support.training import order, patients


@pytest.mark.parametrize(
    ("kept", "table"),
    [
        (
            "mlp",
            "| metric | mlp | baseline (baseline) |\n| --- | --- | --- |\n"
            "| accuracy | 0.9700 | 0.9000 |\n\n",
        ),
        ("baseline", "| metric | baseline |\n| --- | --- |\n| accuracy | 0.9700 |\n\n"),
    ],
)
def test_the_baseline_has_a_column_unless_it_is_what_was_kept(
    tmp_path: Path, kept: str, table: str
) -> None:
    wanted = order(tmp_path, patients())
    result = Result(
        kept=kept,
        metrics={"accuracy": 0.97},
        baseline="baseline",
        baseline_metrics={"accuracy": 0.97 if kept == "baseline" else 0.9},
        validation_metrics={},
        probability_difference=0.0,
    )

    written = card.write(wanted, rows.load(tmp_path / "data.parquet", wanted), result)

    assert table in written
    assert ("It is the baseline itself" in written) == (kept == "baseline")
