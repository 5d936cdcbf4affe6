"""Whether live predictions look like the data a version was trained on: the statistics.

Two statistics are computed for each feature and for the prediction, each with a limit on the size
of the difference and one on the chance of seeing it without any drift: with many rows a tiny
difference is certain but harmless, with few rows a large one is chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy import stats

from libs.common.events import PredictionSample

# The name under which a model's answer stands among its features.
PREDICTION = "prediction"
PSI_BINS = 10
# A pseudo-count in each bin, so that an empty one has a finite logarithm (Jeffreys' prior).
PSI_PSEUDO_COUNT = 0.5
# Probabilities are compared to the second digit: what is finer decides nothing, and a model is
# always a little surer of the rows it has learned from.
PROBABILITY_STEP = 0.01
# A drifted version counts as recovered when every value is below this part of its limit.
RECOVERY_FRACTION = 0.8

Column = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Reference:
    """The training rows of a version, by column, and how to read its live ones.

    `columns` holds the features, and `prediction` where the version says one number a row.
    `output_width` is the number of values that all outputs of a row have together, and
    `answer_width` the number of the last output's: its last value is the prediction.
    """

    features: tuple[str, ...]
    columns: Mapping[str, Column]
    output_width: int
    answer_width: int
    probabilities: bool

    @property
    def rows(self) -> int:
        return min((len(column) for column in self.columns.values()), default=0)


class Comparison(BaseModel):
    """One statistic of one feature. `p_value` is 0 for PSI."""

    model_config = ConfigDict(frozen=True)

    feature: str
    statistic: Literal["ks", "psi"]
    value: float
    limit: float
    p_value: float
    drifted: bool
    reference_mean: float
    live_mean: float

    @property
    def calm(self) -> bool:
        return self.value < self.limit * RECOVERY_FRACTION


class DriftReport(BaseModel):
    """The comparison of a version's newest live rows with its training rows."""

    model_config = ConfigDict(frozen=True)

    model: str
    version: int
    at: datetime
    live_rows: int
    reference_rows: int
    comparisons: tuple[Comparison, ...] = ()
    alpha: float = 0.0
    problem: str = ""

    @property
    def drifted(self) -> bool:
        return any(comparison.drifted for comparison in self.comparisons)

    @property
    def calm(self) -> bool:
        """Compared, and well below every limit."""
        return bool(self.comparisons) and all(each.calm for each in self.comparisons)


@dataclass(frozen=True, slots=True)
class DriftLimits:
    """When a difference is drift. `alpha` is the chance of a false alarm in a whole comparison.

    Two windows are compared, the newest `recent_rows` and the newest `window_rows`: a sudden
    change shows in the first, while older rows still outvote it in the second; a small one shows
    in the second only.
    """

    window_rows: int = 1_000
    recent_rows: int = 200
    rows_min: int = 100
    ks_limit: float = 0.15
    psi_limit: float = 0.2
    alpha: float = 0.0001

    def compare(
        self, reference: Mapping[str, Column], live: Mapping[str, Column]
    ) -> tuple[int, tuple[Comparison, ...]]:
        """The live rows compared, and both statistics of each column, the drifted ones first.

        `live` is newest first. The answer is of the recent window when that one drifts and the
        long one does not, else of the long one. A column that one side has too little of is left
        out.
        """
        rows = max((len(column) for column in live.values()), default=0)
        sizes = (
            [self.window_rows] if rows <= self.recent_rows else [self.window_rows, self.recent_rows]
        )
        windows = [
            (
                min(size, rows),
                self._compare(reference, {name: live[name][:size] for name in live}, len(sizes)),
            )
            for size in sizes
        ]
        return next(
            (window for window in windows if any(each.drifted for each in window[1])), windows[0]
        )

    def _compare(
        self, reference: Mapping[str, Column], live: Mapping[str, Column], windows: int
    ) -> tuple[Comparison, ...]:
        pairs = {
            name: (_finite(reference[name]), _finite(live[name]))
            for name in reference
            if name in live
        }
        pairs = {
            name: (ours, theirs)
            for name, (ours, theirs) in pairs.items()
            if len(ours) >= self.rows_min // 2 and len(theirs) >= self.rows_min
        }
        comparisons: list[Comparison] = []
        for name, (ours, theirs) in pairs.items():
            means = (float(ours.mean()), float(theirs.mean()))
            tests = len(pairs) * windows
            comparisons.append(self._ks(name, ours, theirs, means, tests))
            comparisons.append(self._psi(name, ours, theirs, means, tests))
        return tuple(sorted(comparisons, key=lambda each: (not each.drifted, -each.value)))

    def _ks(
        self, name: str, ours: Column, theirs: Column, means: tuple[float, float], tests: int
    ) -> Comparison:
        """Two-sample Kolmogorov-Smirnov: the largest distance of the two distribution functions.

        scipy.stats.ks_2samp (Hodges 1958); the p-value is the asymptotic one, times the number of
        tests (Bonferroni 1936), which holds however the columns depend on each other.
        """
        outcome: Any = stats.ks_2samp(ours, theirs, method="asymp")
        distance = float(outcome.statistic)
        p_adjusted = min(1.0, float(outcome.pvalue) * tests)
        return Comparison(
            feature=name,
            statistic="ks",
            value=distance,
            limit=self.ks_limit,
            p_value=p_adjusted,
            drifted=distance >= self.ks_limit and p_adjusted <= self.alpha,
            reference_mean=means[0],
            live_mean=means[1],
        )

    def _psi(
        self, name: str, ours: Column, theirs: Column, means: tuple[float, float], tests: int
    ) -> Comparison:
        value, bins = population_stability_index(ours, theirs)
        limit = max(self.psi_limit, psi_by_chance(len(ours), len(theirs), bins, self.alpha / tests))
        return Comparison(
            feature=name,
            statistic="psi",
            value=value,
            limit=limit,
            p_value=0.0,
            drifted=value >= limit,
            reference_mean=means[0],
            live_mean=means[1],
        )


def population_stability_index(reference: Column, live: Column) -> tuple[float, int]:
    """PSI = Σ (qᵢ - pᵢ) ln(qᵢ / pᵢ) over bins i, and the number of bins.

    p and q are the parts of the reference and of the live rows in the bins that the reference's
    deciles bound; equal deciles (a feature with few values) make one bin. Under 0.1 nothing
    changed, above 0.2 something did. Source: Siddiqi, Credit Risk Scorecards (Wiley 2006); it is
    the symmetric Kullback-Leibler divergence of Jeffreys (1946).
    """
    deciles = np.quantile(reference, np.arange(1, PSI_BINS) / PSI_BINS, method="inverted_cdf")
    edges = np.unique(deciles)
    bins = len(edges) + 1
    p, q = (
        (np.bincount(np.searchsorted(edges, values), minlength=bins) + PSI_PSEUDO_COUNT)
        / (len(values) + PSI_PSEUDO_COUNT * bins)
        for values in (reference, live)
    )
    return float(np.sum((q - p) * np.log(q / p))), bins


def psi_by_chance(reference_rows: int, live_rows: int, bins: int, alpha: float) -> float:
    """The PSI that samples of one distribution exceed with probability `alpha`.

    Without drift PSI / (1/n + 1/m) follows χ² with bins - 1 degrees of freedom. Source: Yurdakul,
    Statistical Properties of Population Stability Index (Western Michigan University 2018).
    """
    scale = 1 / reference_rows + 1 / live_rows
    return scale * float(stats.chi2.isf(alpha, max(bins - 1, 1)))


def live_columns(
    reference: Reference, samples: Sequence[PredictionSample], rows_max: int
) -> dict[str, Column]:
    """The newest rows by column; rows that do not have the version's width are left out."""
    width = len(reference.features)
    rows: list[tuple[float, ...]] = []
    predictions: list[float] = []
    for sample in samples:
        for index, row in enumerate(sample.features):
            if len(row) == width and len(rows) < rows_max:
                rows.append(row)
                outputs = sample.outputs[index] if index < len(sample.outputs) else ()
                predictions.append(_prediction(reference, outputs))
    table = np.asarray(rows, dtype=np.float64).reshape(len(rows), width)
    columns = {name: table[:, index] for index, name in enumerate(reference.features)}
    return columns | {
        PREDICTION: stepped(np.asarray(predictions, dtype=np.float64), reference.probabilities)
    }


def stepped(predictions: Column, probabilities: bool) -> Column:
    """Predictions at the precision at which they are compared, the same on both sides."""
    if not probabilities:
        return predictions
    return np.round(predictions / PROBABILITY_STEP) * PROBABILITY_STEP


def _prediction(reference: Reference, outputs: tuple[float, ...]) -> float:
    """The last value of the last output; NaN when the caller did not ask for that output."""
    if outputs and len(outputs) in (reference.output_width, reference.answer_width):
        return outputs[-1]
    return float("nan")


def _finite(values: Column) -> Column:
    return values[np.isfinite(values)]
