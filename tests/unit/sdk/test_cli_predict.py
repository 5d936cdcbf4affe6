"""The rows that `basalt predict` takes: the same from each form, and clear words for any other."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars
import pytest

from basalt.pb.basalt.v1 import inference_pb2 as pb
from basalt.pb.inference import grpc_inference_service_pb2 as oip
from tests.support.answering import Answering
from tests.support.terminal import environment, in_terminal, piped

VERSION = "basalt.v1.ModelService/GetModelVersion"
INFER = "inference.GRPCInferenceService/ModelInfer"
NEXT = "Next: Give CSV with a header, one JSON object a line (.jsonl), or Parquet.\n"


def described(*_: object) -> pb.GetModelVersionResponse:
    version = pb.ModelVersion(model="tumour", version=1, features=["age", "dose"])
    return pb.GetModelVersionResponse(version=version)


def ages(request: oip.ModelInferRequest, _: object) -> oip.ModelInferResponse:
    """Each row's age as its label."""
    rows = np.frombuffer(request.raw_input_contents[0], "<f4").reshape(-1, 2)
    answer = oip.ModelInferResponse(model_name="tumour", model_version="1")
    answer.outputs.add(name="label", datatype="INT64", shape=[len(rows)])
    answer.raw_output_contents.append(rows[:, 0].astype("<i8").tobytes())
    return answer


@pytest.fixture
def server(server: Answering) -> Answering:
    server.handlers |= {VERSION: described, INFER: ages}
    return server


def labels(rows: str, stdin: bytes = b"") -> list[int]:
    shown = piped("predict", "tumour", rows, "--version", "1", "--json", stdin=stdin)
    assert shown.status == 0, shown
    return json.loads(shown.output)["labels"]


def complaint(rows: Path | str, stdin: str | bytes = "") -> str:
    shown = piped("predict", "tumour", str(rows), stdin=stdin)
    assert (shown.status, shown.output) == (1, ""), shown
    assert "Traceback" not in shown.complaint
    return shown.complaint


def test_every_form_gives_the_same_rows(server: Answering, tmp_path: Path) -> None:
    rows = polars.DataFrame({"dose": [1.5, 2.5], "age": [41, 61], "name": ["ann", "bob"]})
    rows.write_csv(tmp_path / "rows.csv")
    rows.write_ndjson(tmp_path / "rows.jsonl")
    rows.write_parquet(tmp_path / "rows.PARQUET")
    for name in ("rows.csv", "rows.jsonl", "rows.PARQUET"):
        assert labels(str(tmp_path / name)) == [41, 61]
    for name in ("rows.csv", "rows.jsonl"):
        assert labels("-", (tmp_path / name).read_bytes()) == [41, 61]


def test_model_that_answered_is_named(server: Answering, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("age,dose\n41,1\n")
    shown = piped("predict", "tumour", str(rows), "--version", "1")
    assert shown.complaint.startswith("tumour version 1 (")
    assert shown.output.split() == ["row", "label", "probability", "0", "41"]
    seen = in_terminal("predict", "tumour", str(rows), "--version", "1", TERM="dumb").output
    assert "tumour version 1 (" in seen.splitlines()[0]
    assert seen.splitlines()[0].endswith(")")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("", "- holds no rows"),
        ("age,dose\n", "- holds no rows"),
        ('{"age": 1}\n{"age": \n', "Line 2 of - is no JSON object"),
        ('{"age": 1}\n[1]\n', "Line 2 of - is no JSON object"),
        ("{" * 100_000, "Line 1 of - is no JSON object"),
        ("age\n" + "1" * 1_100_000, "Line 2 is over 1048576 bytes"),
    ],
)
def test_rows_that_are_none(server: Answering, content: str, what: str) -> None:
    said = complaint("-", content)
    assert what in said
    assert said.endswith(NEXT)


def test_parquet_that_is_none(server: Answering, tmp_path: Path) -> None:
    rows = tmp_path / "rows.parquet"
    rows.write_text("age,dose\n1,2\n")
    said = complaint(rows)
    assert f"{rows} is not Parquet: " in said
    assert said.endswith(NEXT)
    rows.write_bytes(b"")
    assert complaint(rows) == f"Error: {rows} is empty.\n{NEXT}"
    polars.DataFrame({"age": [], "dose": []}).write_parquet(rows)
    assert complaint(rows) == f"Error: {rows} holds no rows.\n{NEXT}"


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("rows.xlsx", "rows.xlsx ends in .xlsx, which is of no known format."),
        ("rows", "rows has no ending, so it is of no known format."),
    ],
)
def test_file_of_another_form(server: Answering, name: str, what: str) -> None:
    assert complaint(name) == (
        f"Error: {what}\nNext: Give a file that ends in .csv, .jsonl, .ndjson, .parquet.\n"
    )
    assert server.calls == []


def test_file_that_cannot_be_read(server: Answering, tmp_path: Path) -> None:
    for ending in ("csv", "parquet"):
        missing = tmp_path / f"missing.{ending}"
        assert f"{missing}: No such file or directory." in complaint(missing)
    assert "It is not UTF-8." in complaint("-", b"\xff")


def test_parquet_where_polars_is_not_installed(server: Answering, tmp_path: Path) -> None:
    rows = tmp_path / "rows.parquet"
    polars.DataFrame({"age": [1], "dose": [2]}).write_parquet(rows)
    code = (
        f"import sys; sys.argv = ['basalt', 'predict', 'tumour', {str(rows)!r}];"
        "sys.modules['polars'] = None; from basalt.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment({}),
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{rows} is Parquet, which is read with polars" in done.stderr
    assert "Next: Install polars (the extra `parquet` of basalt)" in done.stderr


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ('age,dose\n1,"2\n3,4\n', "Line 2: A quotation mark is opened and nothing closes it."),
        ("age,dose\n1,2,3\n", "Line 2: It has 3 fields, but the header names 2."),
        ("age,dose\n1,2\n3\n", "Line 3: It has 1 fields"),
        ('{"age": 1, "age": 2}\n', "Line 1 of - has 'age' twice."),
    ],
)
def test_rows_are_read_as_an_upload_is_and_a_fault_refuses_them(
    server: Answering, content: str, what: str
) -> None:
    assert what in complaint("-", content)
    assert server.calls == []
