"""`predict`: a deployed model, asked from the command line."""

from __future__ import annotations

import csv
import io
import json as jsonlib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from basalt.cli.client import platform
from basalt.cli.output import Json, as_json, read_text, say, short, table
from basalt.errors import InvalidInputError
from basalt.prediction import Prediction

SHOWN_ROWS_MAX = 50
JSON_LINES = (".jsonl", ".ndjson")


def add_to(app: typer.Typer) -> None:
    app.command()(predict)


def predict(
    model: str,
    rows: Annotated[Path, typer.Argument(help="CSV with a header, or JSON lines; - for stdin.")],
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
                "labels": [str(label) for label in answer.labels],
                "probabilities": None if known is None else known.tolist(),
            }
        )
        return
    table(
        f"{answer.model} version {answer.model_version} ({short(answer.manifest_sha256)})",
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


def _rows(path: Path) -> list[dict[str, Any]]:
    content = _standard_input() if str(path) == "-" else read_text(path)
    found: list[dict[str, Any]]
    if path.suffix.lower() in JSON_LINES or content.lstrip().startswith("{"):
        lines = content.split("\n")
        found = [_row(path, at, line) for at, line in enumerate(lines, 1) if line.strip()]
    else:
        found = _csv_rows(path, content)
    if not found:
        raise InvalidInputError(
            f"{path} holds no rows.",
            which=str(path),
            next_step="Write one JSON object a line, or CSV with a header.",
        )
    return found


def _csv_rows(path: Path, content: str) -> list[dict[str, Any]]:
    try:
        return list(csv.DictReader(io.StringIO(content, newline="")))
    except csv.Error as error:
        raise InvalidInputError(
            f"{path} is not CSV: {error}.",
            which=str(path),
            next_step="Write one JSON object a line, or CSV with a header.",
        ) from error


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise InvalidInputError(
            "The standard input is no text in UTF-8.", which="-", next_step="Send CSV or JSON."
        ) from error


def _row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = jsonlib.loads(line)
    except (jsonlib.JSONDecodeError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise InvalidInputError(
            f"Line {number} of {path} is no JSON object.",
            which=str(path),
            next_step="Write one JSON object a line, or CSV with a header.",
        )
    return row
