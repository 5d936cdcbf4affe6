"""Events as they are written and read: with every number that a float can be."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from libs.common import events
from libs.common.events import DriftDetected, DriftedFeature, PredictionSample, PredictionsServed
from libs.common.stores.encoding import plain

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ODD = (math.nan, math.inf, -math.inf, 1e308, 5e-324, -0.0)


def served(*rows: tuple[float, ...]) -> PredictionsServed:
    return PredictionsServed(
        id="e1",
        tenant="acme",
        at=NOON,
        model="cancer",
        version=1,
        since=NOON,
        until=NOON,
        requests=1,
        rows=len(rows),
        samples=(PredictionSample(at=NOON, features=rows, outputs=rows),),
    )


def test_numbers_that_are_none_survive_an_event() -> None:
    event = served(ODD, (1.0,) * len(ODD))

    read = PredictionsServed.model_validate_json(event.model_dump_json())

    assert repr(read.samples[0].features) == repr(event.samples[0].features)
    assert repr(read.samples[0].outputs) == repr(event.samples[0].outputs)
    drifted = DriftedFeature(feature="x", statistic="psi", value=math.inf, limit=math.nan)
    drift = DriftDetected(
        id="e2", tenant="acme", at=NOON, model="m", version=1, features=(drifted,), live_rows=1
    )
    again = DriftDetected.model_validate_json(drift.model_dump_json())
    assert repr(again.features) == repr(drift.features)


def test_every_part_of_an_event_says_such_numbers_alike() -> None:
    parts = [
        each
        for each in vars(events).values()
        if isinstance(each, type) and issubclass(each, BaseModel) and each is not BaseModel
    ]
    assert len(parts) > 10
    assert {each.model_config.get("ser_json_inf_nan") for each in parts} == {"strings"}


def test_what_earlier_releases_wrote_for_them_is_read() -> None:
    said = json.loads(served((1.0, 2.0)).model_dump_json())
    said["samples"][0]["features"] = [[None, 2.0], [3.0, None]]

    read = PredictionsServed.model_validate_json(json.dumps(said))

    assert repr(read.samples[0].features) == "((nan, 2.0), (3.0, nan))"
    for wrong in ("none", [[{}]], [["x"]], None):
        said["samples"][0]["features"] = wrong
        with pytest.raises(ValidationError):
            PredictionsServed.model_validate_json(json.dumps(said))


class State(BaseModel):
    model_config = ConfigDict(frozen=True)

    numbers: tuple[float, ...]
    by_name: dict[str, float]


def test_numbers_that_are_none_survive_a_journal_entry() -> None:
    state = State(numbers=ODD, by_name={"auc": math.nan, "loss": math.inf})

    kept = plain(state.model_dump(mode="json"))

    assert repr(State.model_validate(json.loads(json.dumps(kept, allow_nan=False)))) == repr(state)
