"""Whether live predictions look like the data a version was trained on: the statistics.

Two statistics are computed for each feature and for the prediction, each with a limit on the size
of the difference and one on the chance of seeing it without any drift: with many rows a tiny
difference is certain but harmless, with few rows a large one is chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy import stats

from libs.common.events import PredictionSample, Statistic

# The names under which a model's answer stands among its features: the number it answers, the
# probability of the second of two classes, or the number of the likeliest of more, and how likely.
PREDICTION, CONFIDENCE = "prediction", "prediction: confidence"
# Of fewer rows than these a class is not compared by itself (Cochran 1954, for χ²).
CLASS_ROWS_MIN = 5
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

    `columns` holds the features, and what the version answered. `output_width` is the number of
    values that all outputs of a row have together, and `answer_width` the number of the last
    output's, which is the answer: the probabilities of so many `classes`, or else numbers of which
    the last counts. Of references from before whole answers were kept `whole` is false: they have
    the probability of the second class alone.
    """

    features: tuple[str, ...]
    columns: Mapping[str, Column]
    output_width: int
    answer_width: int
    classes: int
    whole: bool = True

    @property
    def categorical(self) -> bool:
        """Whether the prediction is the number of a class."""
        return self.whole and self.classes > 2

    @property
    def rows(self) -> int:
        return min((len(column) for column in self.columns.values()), default=0)


class Comparison(BaseModel):
    """One statistic of one feature. `p_value` is 0 for PSI and for missing values.

    The means are those of the values; of missing values their shares; of classes the shares of the
    one that changed most.
    """

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    feature: str
    statistic: Statistic
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

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

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
        self, reference: Mapping[str, Column], live: Mapping[str, Column], classes: int = 0
    ) -> tuple[int, tuple[Comparison, ...]]:
        """The live rows compared, and the statistics of each column, the drifted ones first.

        `live` is newest first; `classes` is how many there are where predictions are numbers of
        classes. The answer is of the recent window when that one drifts and the long one does not,
        else of the long one. Of a column that one side has too few values of, only how many are
        missing is compared.
        """
        rows = max((len(column) for column in live.values()), default=0)
        sizes = (
            [self.window_rows] if rows <= self.recent_rows else [self.window_rows, self.recent_rows]
        )
        windows = [
            (
                min(size, rows),
                self._compare(
                    reference, {name: live[name][:size] for name in live}, classes, len(sizes)
                ),
            )
            for size in sizes
        ]
        return next(
            (window for window in windows if any(each.drifted for each in window[1])), windows[0]
        )

    def _compare(
        self,
        reference: Mapping[str, Column],
        live: Mapping[str, Column],
        classes: int,
        windows: int,
    ) -> tuple[Comparison, ...]:
        both = {name: (reference[name], live[name]) for name in reference if name in live}
        pairs = {
            name: (_finite(ours), _finite(theirs))
            for name, (ours, theirs) in both.items()
            if self._enough(_finite(ours), _finite(theirs))
        }
        # A caller who does not ask for an answer leaves nothing out.
        gaps = {
            name: (~np.isfinite(ours), ~np.isfinite(theirs))
            for name, (ours, theirs) in both.items()
            if name not in (PREDICTION, CONFIDENCE)
            and self._enough(ours, theirs)
            and not (np.isfinite(ours).all() and np.isfinite(theirs).all())
        }
        tests = (len(pairs) + len(gaps)) * windows
        comparisons: list[Comparison] = []
        for name, (ours, theirs) in pairs.items():
            if classes and name == PREDICTION:
                counts = (_counted(ours, classes), _counted(theirs, classes))
                comparisons.append(self._shares(name, "psi", *_merged(*counts), tests))
                continue
            means = (float(ours.mean()), float(theirs.mean()))
            comparisons.append(self._ks(name, ours, theirs, means, tests))
            comparisons.append(self._psi(name, ours, theirs, means, tests))
        for name, (ours, theirs) in gaps.items():
            counts = (_counted(ours, 2), _counted(theirs, 2))
            comparisons.append(self._shares(name, "missing", *counts, tests))
        return tuple(sorted(comparisons, key=lambda each: (not each.drifted, -each.value)))

    def _enough(self, ours: Column, theirs: Column) -> bool:
        return len(ours) >= self.rows_min // 2 and len(theirs) >= self.rows_min

    def _shares(
        self, name: str, statistic: Statistic, ours: Column, theirs: Column, tests: int
    ) -> Comparison:
        """Compares how many rows fall into each of some groups, which are the bins of a PSI."""
        value = stability_index(ours, theirs)
        rows = int(ours.sum()), int(theirs.sum())
        limit = max(self.psi_limit, psi_by_chance(*rows, len(ours), self.alpha / tests))
        shares = ours / max(rows[0], 1), theirs / max(rows[1], 1)
        # Of two groups the last is meant: those that are missing.
        moved = int(np.argmax(np.abs(shares[1] - shares[0]))) if statistic == "psi" else -1
        return Comparison(
            feature=name,
            statistic=statistic,
            value=value,
            limit=limit,
            p_value=0.0,
            drifted=value >= limit,
            reference_mean=float(shares[0][moved]),
            live_mean=float(shares[1][moved]),
        )

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
    """The PSI of two samples in the bins that the reference's deciles bound, and how many.

    Equal deciles (a feature with few values) make one bin.
    """
    deciles = np.quantile(reference, np.arange(1, PSI_BINS) / PSI_BINS, method="inverted_cdf")
    edges = np.unique(deciles)
    bins = len(edges) + 1
    counts = (_counted(np.searchsorted(edges, values), bins) for values in (reference, live))
    return stability_index(*counts), bins


def stability_index(reference: Column, live: Column) -> float:
    """PSI = Σ (qᵢ - pᵢ) ln(qᵢ / pᵢ) over bins i, of which these are the counts.

    p and q are the parts of the reference and of the live rows. Under 0.1 nothing changed, above
    0.2 something did. Source: Siddiqi, Credit Risk Scorecards (Wiley 2006); it is the symmetric
    Kullback-Leibler divergence of Jeffreys (1946).
    """
    p, q = (
        (counts + PSI_PSEUDO_COUNT) / (counts.sum() + PSI_PSEUDO_COUNT * len(counts))
        for counts in (reference, live)
    )
    return float(np.sum((q - p) * np.log(q / p)))


def _counted(values: NDArray[Any], groups: int) -> Column:
    """How many rows are in each group, of which `values` are the numbers."""
    return np.bincount(values.astype(np.int64), minlength=groups).astype(np.float64)


def _merged(reference: Column, live: Column) -> tuple[Column, Column]:
    """The same counts, with the classes that have too few rows to be compared as one, the last."""
    least = np.minimum(reference, reference / max(reference.sum(), 1.0) * live.sum())
    rare = least < CLASS_ROWS_MIN
    if not rare.any():
        return reference, live
    ours, theirs = (np.append(counts[~rare], counts[rare].sum()) for counts in (reference, live))
    return ours, theirs


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
    answers: list[tuple[float, ...]] = []
    nothing = (float("nan"),) * reference.answer_width
    for sample in samples:
        for index, row in enumerate(sample.features):
            if len(row) == width and len(rows) < rows_max:
                rows.append(row)
                outputs = sample.outputs[index] if index < len(sample.outputs) else ()
                # A caller need not ask for the answer, nor for the outputs before it.
                asked = len(outputs) in (reference.output_width, reference.answer_width)
                answers.append(outputs[-reference.answer_width :] if asked and outputs else nothing)
    table = np.asarray(rows, dtype=np.float64).reshape(len(rows), width)
    columns = {name: table[:, index] for index, name in enumerate(reference.features)}
    answered = np.asarray(answers, dtype=np.float64).reshape(len(rows), reference.answer_width)
    return columns | answer_columns(answered, reference.classes, whole=reference.whole)


def answer_columns(answers: Column, classes: int, *, whole: bool = True) -> dict[str, Column]:
    """The columns of answers, [rows, width], as they are compared.

    `whole` false asks for the second class's probability, whatever the number of classes.
    """
    if not answers.shape[1]:
        return {}
    if answers.shape[1] != classes or classes < 2:
        return {PREDICTION: stepped(answers[:, -1], bool(classes))}
    if classes == 2 or not whole:
        return {PREDICTION: stepped(answers[:, 1], probabilities=True)}
    known = np.isfinite(answers).all(axis=1)
    likeliest = np.where(known, np.argmax(np.nan_to_num(answers), axis=1), np.nan)
    likely = np.where(known, np.max(np.nan_to_num(answers), axis=1), np.nan)
    return {PREDICTION: likeliest, CONFIDENCE: stepped(likely, probabilities=True)}


def stepped(predictions: Column, probabilities: bool) -> Column:
    """Predictions at the precision at which they are compared, the same on both sides."""
    if not probabilities:
        return predictions
    return np.round(predictions / PROBABILITY_STEP) * PROBABILITY_STEP


def _finite(values: Column) -> Column:
    return values[np.isfinite(values)]
