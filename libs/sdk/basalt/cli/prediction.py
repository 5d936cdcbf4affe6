"""`predict`: a deployed model, asked from the command line."""

from __future__ import annotations

import io
import json as jsonlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from basalt import rowfile
from basalt.cli.client import platform
from basalt.cli.data import format_of
from basalt.cli.output import Json, as_json, console, note, say, short, table
from basalt.errors import InvalidInputError
from basalt.pb.basalt.v1 import ingest_pb2
from basalt.prediction import Prediction
from basalt.rows import Rows

if TYPE_CHECKING:
    from polars import DataFrame

SHOWN_ROWS_MAX = 50
STANDARD_INPUT = "-"
FORM = "Give CSV with a header, one JSON object a line (.jsonl), or Parquet."


def add_to(app: typer.Typer) -> None:
    app.command()(predict)


def predict(
    model: str,
    rows: Annotated[
        Path,
        typer.Argument(help="CSV, JSON lines (.jsonl) or Parquet; -: CSV or JSON lines on stdin."),
    ],
    version: Annotated[str, typer.Option(help="Empty: as the deployment decides.")] = "",
    json: Json = False,
) -> None:
    """Predict for the rows of a file.

    Example: basalt predict tumour patients.csv
    """
    with platform() as client:
        answer = client.load_model(model, version=version).predict(_rows(rows))
    if json:
        known = answer.probabilities
        as_json(
            {
                "model": answer.model,
                "model_version": answer.model_version,
                "manifest_sha256": answer.manifest_sha256,
                "labels": answer.labels.tolist(),
                "probabilities": None if known is None else known.tolist(),
            }
        )
        return
    source = f"{answer.model} version {answer.model_version} ({short(answer.manifest_sha256)})"
    if not console.is_terminal:
        note(source)
    table(
        source,
        ("row", "label", "probability"),
        (
            (
                row,
                label,
                _sureness(answer, row),
            )
            for row, label in enumerate(answer.labels[:SHOWN_ROWS_MAX])
        ),
    )
    if len(answer) > SHOWN_ROWS_MAX:
        say(f"... and {len(answer) - SHOWN_ROWS_MAX} more: use --json for all.")


def _sureness(answer: Prediction, row: int) -> str:
    return "" if answer.probabilities is None else f"{answer.probabilities[row].max():.4f}"


def _rows(path: Path) -> Rows:
    if str(path) == STANDARD_INPUT:
        content = sys.stdin.buffer.read()
        read = _json_rows if content.lstrip().startswith(b"{") else _csv_rows
        found = read(path, content)
    elif (form := format_of(path)) == ingest_pb2.FILE_FORMAT_PARQUET:
        found = _parquet_rows(path)
    else:
        read = _json_rows if form == ingest_pb2.FILE_FORMAT_JSON_LINES else _csv_rows
        found = read(path, path.read_bytes())
    if not len(found):
        raise InvalidInputError(f"{path} holds no rows.", which=str(path), next_step=FORM)
    return found


def _parquet_rows(path: Path) -> DataFrame:
    try:
        import polars
    except ImportError as error:
        raise InvalidInputError(
            f"{path} is Parquet, which is read with polars, and that is not installed.",
            which=str(path),
            next_step="Install polars (the extra `parquet` of basalt), or give CSV or JSON lines.",
        ) from error
    with path.open("rb") as file:
        try:
            return polars.read_parquet(file)
        except polars.exceptions.PolarsError as error:
            why = f"not Parquet: {error}" if path.stat().st_size else "empty"
            raise InvalidInputError(f"{path} is {why}.", which=str(path), next_step=FORM) from error


def _json_rows(path: Path, content: bytes) -> list[dict[str, Any]]:
    lines = enumerate(content.removeprefix(rowfile.BYTE_ORDER_MARK).split(b"\n"), 1)
    return [_row(path, number, line) for number, line in lines if line.strip()]


def _csv_rows(path: Path, content: bytes) -> list[dict[str, Any]]:
    """As the platform reads an upload, but that a fault refuses the file: nobody could mend it."""
    if not content.strip():
        return []
    try:
        reader = rowfile.CsvReader(io.BytesIO(content))
        rows: list[dict[str, Any]] = []
        for each in reader.rows(lambda _: False):
            if each.too_long:
                raise rowfile.CsvError(
                    f"Line {each.number} is over {rowfile.RECORD_BYTES_MAX} bytes."
                )
            if each.fault:
                raise rowfile.CsvError(f"Line {each.number}: {each.fault}")
            if each.fields:
                rows.append(dict(zip(reader.header, each.fields, strict=True)))
    except rowfile.CsvError as error:
        raise InvalidInputError(
            f"{path} cannot be read as CSV. {error}", which=str(path), next_step=FORM
        ) from error
    return rows


def _row(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = jsonlib.loads(line)
    except (ValueError, RecursionError):
        row = None
    if (twice := rowfile.repeated_key(line)) is not None:
        raise InvalidInputError(
            f"Line {number} of {path} has {twice!r} twice.", which=str(path), next_step=FORM
        )
    if not isinstance(row, dict):
        raise InvalidInputError(
            f"Line {number} of {path} is no JSON object.", which=str(path), next_step=FORM
        )
    return row
