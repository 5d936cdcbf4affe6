"""The patients: scikit-learn's breast-cancer measurements (Wolberg, Street, Mangasarian, 1995).

569 patients, 30 features of cell nuclei each, and what the biopsy found.
"""

from __future__ import annotations

import csv
import io
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_breast_cancer

TRAINING_PATIENTS = 396
HELD_OUT_PATIENTS = 169
ORDER_SEED = 7
# What the recalibrated instrument reads now, as a factor of what it read before.
RECALIBRATED = {"mean_texture": 1.45, "worst_smoothness": 1.6}


@dataclass(frozen=True)
class Patients:
    """`values` [patients, features]; `diagnoses` are "benign" or "malignant"."""

    ids: list[str]
    features: list[str]
    values: npt.NDArray[np.float64]
    diagnoses: list[str]

    def __len__(self) -> int:
        return len(self.ids)

    def record(self, index: int) -> dict[str, Any]:
        row = self.values[index]
        measured = {name: float(row[column]) for column, name in enumerate(self.features)}
        return {
            "patient_id": self.ids[index],
            **measured,
            "diagnosis": self.diagnoses[index],
        }

    def take(self, first: int, count: int) -> Patients:
        end = first + count
        return Patients(
            self.ids[first:end], self.features, self.values[first:end], self.diagnoses[first:end]
        )

    def recalibrated(self) -> Patients:
        """The same patients, measured with the instrument as it reads now."""
        values = self.values.copy()
        for name, factor in RECALIBRATED.items():
            values[:, self.features.index(name)] *= factor
        return Patients(self.ids, self.features, values, self.diagnoses)

    def shuffled_csv(self) -> bytes:
        """A file whose diagnoses belong to other patients: what no gate may let through."""
        diagnoses = list(self.diagnoses)
        random.Random(ORDER_SEED).shuffle(diagnoses)  # noqa: S311 - no secret.
        text = io.StringIO()
        writer = csv.DictWriter(text, ["patient_id", *self.features, "diagnosis"])
        writer.writeheader()
        for index, diagnosis in enumerate(diagnoses):
            writer.writerow(self.record(index) | {"diagnosis": diagnosis})
        return text.getvalue().encode()


def load() -> tuple[Patients, Patients]:
    """The patients to learn from, and those held out."""
    loaded: Any = load_breast_cancer()
    order = np.random.default_rng(ORDER_SEED).permutation(len(loaded.data))
    everyone = Patients(
        ids=[f"patient-{index:04d}" for index in order],
        features=[str(name).replace(" ", "_") for name in loaded.feature_names],
        values=loaded.data[order],
        diagnoses=[str(loaded.target_names[loaded.target[index]]) for index in order],
    )
    return (
        everyone.take(0, TRAINING_PATIENTS),
        everyone.take(TRAINING_PATIENTS, HELD_OUT_PATIENTS),
    )
