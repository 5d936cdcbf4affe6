"""Prints Fisher's irises as CSV, one of them measured wrongly; --mended prints that one aright."""

import csv
import json
import sys

from sklearn.datasets import load_iris

WRONG = 5
COLUMNS = ["flower", "sepal_length", "sepal_width", "petal_length", "petal_width", "species"]


def flowers() -> list[dict[str, object]]:
    loaded = load_iris()
    rows = zip(loaded.data.tolist(), loaded.target.tolist(), strict=True)
    return [
        dict(
            zip(
                COLUMNS,
                [f"iris-{number:03d}", *values, str(loaded.target_names[kind])],
                strict=True,
            )
        )
        for number, (values, kind) in enumerate(rows)
    ]


if "--mended" in sys.argv:
    print(json.dumps(flowers()[WRONG]))
else:
    writer = csv.DictWriter(sys.stdout, COLUMNS)
    writer.writeheader()
    for number, flower in enumerate(flowers()):
        writer.writerow(flower | ({"petal_length": -1} if number == WRONG else {}))
