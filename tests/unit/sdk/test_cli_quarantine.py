"""`basalt quarantine` about many records, and listings that say when there are more."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from basalt.pb.basalt.v1 import inference_pb2
from basalt.pb.basalt.v1 import ingest_pb2 as pb
from tests.support.answering import Answering
from tests.support.terminal import in_terminal, piped

SERVICE = "basalt.v1.IngestService"
OF = ("--source", "scans", "--reason", "unit")


def telling(*progress: tuple[int, int]) -> Callable[[type[Any]], Callable[..., Any]]:
    """Answers of the batch method that is asked, whose counts these are."""

    def answers(kind: type[Any]) -> Callable[..., Any]:
        async def each(*_: object) -> AsyncIterator[Any]:
            for done, unfit in progress:
                examples = ["scans.0.1.0: It has no row."] if unfit else []
                yield kind(
                    progress=pb.QuarantineProgress(done=done, unfit=unfit, examples=examples)
                )

        return each

    return answers


@pytest.fixture
def batch(server: Answering) -> Answering:
    kinds = {
        "BatchChangeQuarantined": pb.BatchChangeQuarantinedResponse,
        "BatchReplayQuarantined": pb.BatchReplayQuarantinedResponse,
        "BatchDiscardQuarantined": pb.BatchDiscardQuarantinedResponse,
    }
    for name, kind in kinds.items():
        server.handlers[f"{SERVICE}/{name}"] = telling((3, 0), (7, 1))(kind)
    example = pb.QuarantinedRecord(id="scans.0.1.0", reason="unit", detail="Column in m.")
    counts = [pb.QuarantineCount(source="scans", reason="unit", records=8, example=example)]
    server.handlers[f"{SERVICE}/CountQuarantine"] = lambda *_: pb.CountQuarantineResponse(
        counts=counts
    )
    return server


def test_counts_say_what_to_do_next(batch: Answering) -> None:
    shown = piped("quarantine", "count")
    assert shown.status == 0
    assert "scans   unit    8        scans.0.1.0  Column in m." in shown.output
    assert "basalt quarantine change --source scans --reason unit" in shown.complaint
    assert json.loads(piped("quarantine", "count", "--json").output)[0]["records"] == "8"


def test_changes_are_sent_as_they_are_meant(batch: Answering) -> None:
    shown = piped(
        *("quarantine", "change", *OF, "--scale", "width=1000", "--set", "finding=benign"),
        *("--set", "slices=3", "--drop", "comment", "--rename", "Width=width"),
    )
    request = batch.calls[-1].request
    assert (request.filter.source, request.filter.reason) == ("scans", "unit")
    assert list(request.changes) == [
        pb.RowChange(rename=pb.ColumnName(column="Width", to="width")),
        pb.RowChange(drop="comment"),
        pb.RowChange(set=pb.ColumnValue(column="finding", value_json='"benign"')),
        pb.RowChange(set=pb.ColumnValue(column="slices", value_json="3")),
        pb.RowChange(scale=pb.ColumnFactor(column="width", factor=1_000)),
    ]
    assert shown.output == (
        "✓ 7 records are mended. Next: `basalt quarantine replay` with the same options.\n"
    )
    assert shown.complaint == "1 stay as they were:\n  scans.0.1.0: It has no row.\n"


def test_file_and_times_narrow_it(batch: Answering, tmp_path: Path) -> None:
    file = tmp_path / "scans.csv"
    file.write_bytes(b"scan\n1\n")
    times = ("--since", "2026-03-01T14:30+00:00", "--until", "2026-03-02T00:00+00:00")
    assert piped("quarantine", "replay", *OF, "--file", str(file), *times).status == 0
    wanted = batch.calls[-1].request.filter
    assert wanted.upload == hashlib.sha256(file.read_bytes()).hexdigest()
    assert wanted.held_from.ToJsonString() == "2026-03-01T14:30:00Z"
    assert wanted.held_until.ToJsonString() == "2026-03-02T00:00:00Z"


def test_discarding_asks_first(batch: Answering) -> None:
    refused = piped("quarantine", "discard", *OF)
    assert refused.status == 1
    assert "Add --yes" in refused.complaint
    assert "BatchDiscardQuarantined" not in batch.names()
    shown = in_terminal("quarantine", "discard", *OF, typed=[("Discard 8 records?", "y\n")])
    assert shown.status == 0
    assert "7 records are discarded." in shown.output
    assert batch.names().count("BatchDiscardQuarantined") == 1
    assert piped("quarantine", "discard", "scans.0.1.0", "scans.0.1.1", "--yes").status == 0
    assert list(batch.calls[-1].request.ids) == ["scans.0.1.0", "scans.0.1.1"]


@pytest.mark.parametrize(("told", "status"), [((0, 0), 0), ((0, 4), 1), ((2, 4), 0)])
def test_status_says_whether_anything_was_fit(
    server: Answering, told: tuple[int, int], status: int
) -> None:
    answers = telling(told)(pb.BatchReplayQuarantinedResponse)
    server.handlers[f"{SERVICE}/BatchReplayQuarantined"] = answers
    assert piped("quarantine", "replay", *OF).status == status


@pytest.mark.parametrize(
    "arguments",
    [
        ("change", *OF),
        ("change", *OF, "--set", "finding"),
        ("change", *OF, "--scale", "width=wide"),
        ("list", "--state", "gone"),
        ("list", "--since", "yesterday"),
        ("mend",),
        ("mend", "scans.0.1.0"),
    ],
)
def test_what_says_too_little_is_refused_here(
    server: Answering, arguments: tuple[str, ...]
) -> None:
    shown = piped("quarantine", *arguments)
    assert shown.status in (1, 2)
    assert "Traceback" not in shown.complaint
    assert server.calls == []


def test_what_is_exported_is_given_back(server: Answering, tmp_path: Path) -> None:
    pages = {
        "": (range(3), "next"),
        "next": (range(3, 5), ""),
    }

    def listed(request: pb.ListQuarantineRequest, *_: object) -> pb.ListQuarantineResponse:
        numbers, token = pages[request.page.token]
        return pb.ListQuarantineResponse(
            records=[
                pb.QuarantinedRecord(
                    id=f"scans.0.1.{number}",
                    reason="range",
                    body=b"{" if number == 4 else b"1,2",
                    row=b"" if number == 4 else b'{"width": %d, "name": "M\xc3\xbcller"}' % number,
                )
                for number in numbers
            ],
            next_page_token=token,
        )

    progress = pb.QuarantineProgress(done=4, unfit=1, examples=["scans.0.1.4: It is no row."])
    server.handlers[f"{SERVICE}/ListQuarantine"] = listed
    server.handlers[f"{SERVICE}/BatchMendQuarantined"] = lambda *_: pb.BatchMendQuarantinedResponse(
        progress=progress
    )
    file = tmp_path / "held.jsonl"

    assert piped("quarantine", "export", str(file), *OF).status == 0

    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [each["record"] for each in lines] == [
        *({"width": number, "name": "Müller"} for number in range(4)),
        "{",
    ]
    shown = piped("quarantine", "mend", "--file", str(file))
    assert shown.status == 0
    assert "4 records are mended" in shown.output
    sent = server.calls[-1].request.records
    assert json.loads(sent[2].body) == {"width": 2, "name": "Müller"}
    file.write_text('{"id": "scans.0.1.0"}\n')
    broken = piped("quarantine", "mend", "--file", str(file))
    assert (broken.status, "line 1" in broken.complaint) == (1, True)


@pytest.mark.parametrize(("there", "more"), [(4, False), (5, False), (6, True)])
@pytest.mark.parametrize("json_too", [(), ("--json",)])
def test_a_listing_that_is_cut_off_says_so(
    server: Answering, there: int, more: bool, json_too: tuple[str, ...]
) -> None:
    models = [inference_pb2.Model(name=f"model-{number}") for number in range(there)]

    def listed(request: inference_pb2.ListModelsRequest, *_: object) -> Any:
        first = int(request.page.token or 0)
        until = min(first + min(request.page.size, 3), there)
        return inference_pb2.ListModelsResponse(
            models=models[first:until], next_page_token=str(until) if until < there else ""
        )

    server.handlers["basalt.v1.ModelService/ListModels"] = listed
    shown = piped("model", "list", "--limit", "5", *json_too)
    assert shown.output.count("model-") == min(there, 5)
    assert ("There are more" in shown.complaint) == more
