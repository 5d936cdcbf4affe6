"""`source`, `data`: from upstream records to dataset versions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated
from uuid import uuid4

import typer

from basalt.cli import source_keys
from basalt.cli.client import pages, platform
from basalt.cli.output import (
    Json,
    Limit,
    as_json,
    console,
    fields,
    listed,
    note,
    plain,
    progress_bar,
    read_text,
    short,
    table,
    told,
    when,
    written_whole,
)
from basalt.errors import BasaltError, InvalidInputError
from basalt.pb.basalt.v1 import ingest_pb2 as pb

PART_BYTES = 512 * 1024
FORMATS = {
    ".csv": pb.FILE_FORMAT_CSV,
    ".jsonl": pb.FILE_FORMAT_JSON_LINES,
    ".ndjson": pb.FILE_FORMAT_JSON_LINES,
    ".parquet": pb.FILE_FORMAT_PARQUET,
}
sources = typer.Typer(help="Upstream systems and their data contracts.", no_args_is_help=True)
datasets = typer.Typer(help="Datasets and their versions.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    sources.add_typer(source_keys.keys, name="key")
    app.add_typer(sources, name="source")
    app.add_typer(datasets, name="data")


@sources.command("put")
def put_source(
    name: str,
    contract: Annotated[Path, typer.Argument(help="The data contract, YAML.")],
    json: Json = False,
) -> None:
    """Create or change a source.

    Example: basalt source put patients patients.yaml
    """
    with platform() as client:
        answer = client.call(
            client.ingest.PutSource,
            pb.PutSourceRequest(name=name, contract_yaml=read_text(contract)),
        )
    revision, topic = answer.source.revision, answer.source.topic
    told(
        answer,
        json,
        f"Revision {revision} of {name}; publish records to {topic}, with a key of"
        f" `basalt source key create {name}`.",
    )


@sources.command("list")
def list_sources(limit: Limit = 100, json: Json = False) -> None:
    """List the sources.

    Example: basalt source list
    """
    with platform() as client:
        found = pages(client, client.ingest.ListSources, pb.ListSourcesRequest(), "sources", limit)
    listed(
        found,
        json,
        "Sources",
        ("name", "topic", "accepted", "in quarantine", "duplicates", "revision"),
        lambda each: (
            each.name,
            each.topic,
            each.records_accepted,
            each.records_quarantined,
            each.records_duplicate,
            each.revision,
        ),
    )


@sources.command("show")
def show_source(name: str, json: Json = False) -> None:
    """Show a source and its contract.

    Example: basalt source show patients
    """
    with platform() as client:
        source = client.call(client.ingest.GetSource, pb.GetSourceRequest(name=name)).source
    if json:
        as_json(source)
        return
    fields(
        source.name,
        (
            ("topic", source.topic),
            ("accepted", source.records_accepted),
            ("in quarantine", source.records_quarantined),
            ("discarded", source.records_discarded or ""),
            ("changed", f"{when(source.changed.at)} by {source.changed.by}"),
        ),
    )
    console.print(plain(source.contract_yaml), soft_wrap=True)


@datasets.command("upload")
def upload(
    source: str,
    file: Annotated[Path, typer.Argument(help="CSV, JSON lines (.jsonl) or Parquet.")],
    json: Json = False,
) -> None:
    """Upload a file of records; the same file counts once.

    Example: basalt data upload patients patients.csv
    """
    kind = format_of(file)
    with file.open("rb") as opened:
        key = hashlib.file_digest(opened, "sha256").hexdigest()
    with platform() as client, progress_bar(json) as progress:
        task = progress.add_task(f"Uploading {file.name}", total=file.stat().st_size)

        def parts() -> Iterator[pb.UploadFileRequest]:
            yield pb.UploadFileRequest(source=source, idempotency_key=key, format=kind)
            with file.open("rb") as opened:
                while part := opened.read(PART_BYTES):
                    progress.advance(task, len(part))
                    yield pb.UploadFileRequest(part=part)
            yield pb.UploadFileRequest(last=True)

        try:
            summary = client.send(client.ingest.UploadFile, parts()).summary
        except BasaltError as error:
            if error.code == "INVALID_ARGUMENT":
                # The platform does not know what the file is called here.
                error.what = f"{file}: {error.what}"
            raise
    if summary.repeated_upload:
        told(summary, json, f"{file.name} was here before; nothing was added.")
    else:
        accepted = f"{summary.accepted} records accepted"
        told(summary, json, f"{accepted}, {summary.quarantined} in quarantine.")
    if not json:
        _explain(summary)
    if summary.quarantined and not summary.accepted:
        raise typer.Exit(1)


def _explain(summary: pb.UploadSummary) -> None:
    """What became of the lines, and what is wrong with those in quarantine."""
    lines = summary.lines_accepted + summary.lines_quarantined + summary.lines_skipped
    if lines:
        note(
            f"{lines} lines: {summary.lines_accepted} accepted, {summary.lines_quarantined} in"
            f" quarantine, {summary.lines_skipped} header or empty."
        )
    if summary.quarantined:
        reasons = sorted(summary.reasons.items(), key=lambda each: -each[1])
        note("In quarantine: " + ", ".join(f"{count} {reason}" for reason, count in reasons) + ".")
        for example in summary.examples:
            note(f"  {example}")
        note(f"See all: basalt quarantine count --source {summary.source}")


def format_of(file: Path) -> pb.FileFormat:
    """By the name's ending. Raises InvalidInputError for another than there is."""
    kind = FORMATS.get(file.suffix.lower())
    if kind is None:
        ending = f"ends in {file.suffix}, which is" if file.suffix else "has no ending, so it is"
        raise InvalidInputError(
            f"{file.name} {ending} of no known format.",
            which=str(file),
            next_step=f"Give a file that ends in {', '.join(FORMATS)}.",
        )
    return kind


@datasets.command("seal")
def seal(dataset: str, json: Json = False) -> None:
    """Make what came in into the next version.

    Example: basalt data seal patients
    """
    with platform() as client:
        answer = client.call(
            client.ingest.SealDataset,
            pb.SealDatasetRequest(dataset=dataset, idempotency_key=uuid4().hex),
        )
    version = f"{dataset} version {answer.version.version}"
    if answer.created:
        told(answer, json, f"{version}: {answer.version.row_count} rows.")
    else:
        told(answer, json, f"Nothing new since {version}.")


@datasets.command("list")
def list_datasets(limit: Limit = 100, json: Json = False) -> None:
    """List the datasets.

    Example: basalt data list
    """
    with platform() as client:
        found = pages(
            client, client.ingest.ListDatasets, pb.ListDatasetsRequest(), "datasets", limit
        )
    listed(
        found,
        json,
        "Datasets",
        ("name", "latest version", "rows", "not yet sealed", "changed"),
        lambda d: (d.name, d.latest_version, d.row_count, d.records_unsealed, when(d.changed_at)),
    )


@datasets.command("versions")
def list_versions(dataset: str, limit: Limit = 100, json: Json = False) -> None:
    """List a dataset's versions.

    Example: basalt data versions patients
    """
    request = pb.ListDatasetVersionsRequest(dataset=dataset)
    with platform() as client:
        found = pages(client, client.ingest.ListDatasetVersions, request, "versions", limit)
    listed(
        found,
        json,
        f"Versions of {dataset}",
        ("version", "rows", "duplicates dropped", "in quarantine", "manifest", "sealed", "by"),
        lambda v: (
            v.version,
            v.row_count,
            v.duplicates_dropped,
            v.quarantined,
            short(v.manifest_sha256),
            when(v.sealed.at),
            v.sealed.by,
        ),
    )


@datasets.command("show")
def show_version(
    dataset: str,
    version: Annotated[int, typer.Option(help="0: the latest.")] = 0,
    json: Json = False,
) -> None:
    """Show a version's columns and statistics.

    Example: basalt data show patients --version 1
    """
    request = pb.GetDatasetVersionRequest(dataset=dataset, version=version)
    with platform() as client:
        found = client.call(client.ingest.GetDatasetVersion, request).version
    if json:
        as_json(found)
        return
    fields(
        f"{dataset} version {found.version}",
        (
            ("manifest", found.manifest_sha256),
            ("rows", found.row_count),
            ("parents", ", ".join(short(parent) for parent in found.parents)),
            ("sealed", f"{when(found.sealed.at)} by {found.sealed.by}"),
            ("trace", found.trace_id),
        ),
    )
    table(
        "Columns",
        ("name", "type", "unit", "nulls", "minimum", "mean", "maximum"),
        (
            (
                c.name,
                c.type,
                c.unit,
                c.null_count,
                *(_of_numbers(c, value) for value in (c.minimum, c.mean, c.maximum)),
            )
            for c in found.columns
        ),
    )


def _of_numbers(column: pb.ColumnStatistics, value: float) -> str:
    return f"{value:.4g}" if column.type in ("float", "integer") else ""


@datasets.command("read")
def read_dataset(
    dataset: str,
    to: Annotated[Path, typer.Argument(help="The Parquet file to write.")],
    version: Annotated[int, typer.Option(help="0: the latest.")] = 0,
    json: Json = False,
) -> None:
    """Write a version's rows to a Parquet file.

    Example: basalt data read patients patients.parquet
    """
    request = pb.ReadDatasetRequest(dataset=dataset, version=version)
    with platform() as client, written_whole(to) as file:
        for answer in client.stream(client.ingest.ReadDataset, request):
            file.write(answer.part)
    told({"file": str(to), "bytes": to.stat().st_size}, json, f"{to} is written.")
