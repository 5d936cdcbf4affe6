"""`train`: pipelines and the jobs that run them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated
from uuid import uuid4

import typer
from rich.text import Text

from basalt.cli.client import pages, platform
from basalt.cli.output import (
    Json,
    Limit,
    as_json,
    assignments,
    console,
    done,
    fields,
    fresh_line,
    listed,
    measured,
    note,
    plain,
    progress_bar,
    read_text,
    say,
    told,
    when,
    word,
)
from basalt.pb.basalt.v1 import trainer_pb2 as pb

train = typer.Typer(help="Pipelines and training jobs.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    app.add_typer(train, name="train")


@train.command("put")
def put_pipeline(
    definition: Annotated[Path, typer.Argument(help="The pipeline, YAML.")], json: Json = False
) -> None:
    """Create or change a pipeline.

    Example: basalt train put tumour.yaml
    """
    with platform() as client:
        pipeline = client.call(
            client.trainer.PutPipeline,
            pb.PutPipelineRequest(definition_yaml=read_text(definition)),
        ).pipeline
    leads = f"{pipeline.dataset} → {pipeline.model}"
    told(pipeline, json, f"Revision {pipeline.revision} of {pipeline.name}: {leads}.")
    if pipeline.warning and not json:
        say(f"Note: {pipeline.warning}")


@train.command("pipelines")
def list_pipelines(limit: Limit = 100, json: Json = False) -> None:
    """List the pipelines.

    Example: basalt train pipelines
    """
    with platform() as client:
        found = pages(
            client, client.trainer.ListPipelines, pb.ListPipelinesRequest(), "pipelines", limit
        )
    listed(
        found,
        json,
        "Pipelines",
        ("name", "dataset", "model", "revision", "changed", "by"),
        lambda p: (p.name, p.dataset, p.model, p.revision, when(p.changed.at), p.changed.by),
    )


@train.command("run")
def run_pipeline(
    pipeline: str,
    dataset: Annotated[str, typer.Option(help="Another dataset than the pipeline's.")] = "",
    version: Annotated[int, typer.Option(help="Of the dataset; 0: the latest.")] = 0,
    parameter: Annotated[
        list[str] | None,
        typer.Option("--set", help="Replace a parameter: mlp.epochs=20; may be repeated."),
    ] = None,
    json: Json = False,
) -> None:
    """Run a pipeline and follow it to its end.

    Example: basalt train run tumour
    """
    request = pb.RunPipelineRequest(
        pipeline=pipeline,
        dataset=dataset,
        dataset_version=version,
        idempotency_key=uuid4().hex,
        parameters=dict(assignments(parameter)),
    )
    with platform() as client:
        job = client.call(client.trainer.RunPipeline, request).job
        with _watching(job.id), progress_bar(json) as progress:
            task = progress.add_task(job.id, total=1.0)
            job = client.wait_for_job(
                job.id,
                on_progress=lambda job: progress.update(
                    task, completed=job.progress, description=f"{job.id} · {_step(job)}"
                ),
            )
    if json:
        as_json(job)
        return
    show(job)
    used = next((each.value for each in job.metrics if each.name == "rows_used"), 1.0)
    if used < 1.0:
        note(f"{used:.1%} of the dataset's rows were used: the others lack a value. See its card.")
    done(f"The candidate goes to review: `basalt model versions {job.model}`")


@contextmanager
def _watching(job: str) -> Iterator[None]:
    """On Ctrl-C says that it ended the watching only, and how to end the job."""
    try:
        yield
    except KeyboardInterrupt:
        fresh_line()
        note(
            f"Ctrl-C ends the watching, not the job {job}.\n"
            f"Next: Watch it again with `basalt train log {job}`,"
            f" or end it with `basalt train cancel {job}`."
        )
        raise


def _step(job: pb.Job) -> str:
    return _waits(job) or plain(job.step)


def _waits(job: pb.Job) -> str:
    """Where in the queue the job is; "" for one that does not wait."""
    if not job.queue_place:
        return ""
    if job.queue_place == 1:
        return "next in the queue"
    ahead = job.queue_place - 1
    return f"{ahead} before it in the queue, {job.queue_others} of them of other tenants"


def show(job: pb.Job) -> None:
    fields(
        f"Job {job.id}",
        (
            ("state", word(pb.JobState, job.state)),
            ("data", f"{job.dataset} version {job.dataset_version}"),
            ("trigger", job.trigger),
            ("attempt", job.attempt),
            ("waits", _waits(job)),
            ("queued", f"{when(job.queued_at)} by {job.queued_by}"),
            ("ended", when(job.ended_at)),
            ("metrics", measured(job.metrics)),
            ("failure", job.failure),
            ("trace", job.trace_id),
        ),
    )


@train.command("jobs")
def list_jobs(
    pipeline: Annotated[str, typer.Option(help="Of one pipeline only.")] = "",
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """List the jobs.

    Example: basalt train jobs
    """
    request = pb.ListJobsRequest(pipeline=pipeline)
    with platform() as client:
        found = pages(client, client.trainer.ListJobs, request, "jobs", limit)
    listed(
        found,
        json,
        "Jobs",
        ("id", "state", "progress", "data", "trigger", "attempt", "queued", "failure"),
        lambda j: (
            j.id,
            word(pb.JobState, j.state),
            f"place {j.queue_place}" if j.queue_place else f"{j.progress:.0%}",
            f"{j.dataset} v{j.dataset_version}",
            j.trigger,
            j.attempt,
            when(j.queued_at),
            j.failure,
        ),
    )


@train.command("show")
def show_job(job: str, json: Json = False) -> None:
    """Show a job.

    Example: basalt train show tumour-v1
    """
    with platform() as client:
        found = client.call(client.trainer.GetJob, pb.GetJobRequest(id=job)).job
    if json:
        as_json(found)
    else:
        show(found)


@train.command("log")
def follow_log(job: str, json: Json = False) -> None:
    """Print a job's log, and follow it until the job ends.

    Example: basalt train log tumour-v1
    """
    with platform() as client, _watching(job):
        for answer in client.stream(client.trainer.FollowJobLog, pb.FollowJobLogRequest(id=job)):
            if json:
                as_json(answer)
            else:
                line = Text.assemble((f"{when(answer.at)} ", "dim"), plain(answer.line))
                # A terminal would break words; a program gets whole lines.
                console.print(line, soft_wrap=not console.is_terminal)


@train.command("cancel")
def cancel_job(
    job: str,
    reason: Annotated[str, typer.Option(help="Kept with the job.")] = "",
    json: Json = False,
) -> None:
    """Cancel a job; its process ends.

    Example: basalt train cancel tumour-v1
    """
    with platform() as client:
        answer = client.call(client.trainer.CancelJob, pb.CancelJobRequest(id=job, reason=reason))
    told(answer, json, f"{job} is cancelled.")
