"""`model`, `deploy`, `history`: the registry, what is in service, and what was."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markdown import Markdown

from basalt.cli.client import pages, platform
from basalt.cli.output import (
    Json,
    Limit,
    as_json,
    complain,
    console,
    done,
    fields,
    listed,
    mark,
    measured,
    plain,
    short,
    table,
    timestamp,
    told,
    when,
    word,
)
from basalt.pb.basalt.v1 import inference_pb2 as pb

Changed = pb.DeployResponse | pb.PromoteResponse | pb.RollbackResponse | pb.UndeployResponse
Reason = Annotated[str, typer.Option(help="Kept in the history.")]
models = typer.Typer(help="Models: versions, gates, review.", no_args_is_help=True)
deploy = typer.Typer(help="What is in service.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    app.add_typer(models, name="model")
    app.add_typer(deploy, name="deploy")
    app.command()(history)


@models.command("list")
def list_models(limit: Limit = 100, json: Json = False) -> None:
    """List the models.

    Example: basalt model list
    """
    with platform() as client:
        found = pages(client, client.models.ListModels, pb.ListModelsRequest(), "models", limit)
    listed(
        found,
        json,
        "Models",
        ("name", "latest", "stage", "aliases", "changed"),
        lambda m: (
            m.name,
            m.latest_version,
            word(pb.ModelStage, m.latest_stage),
            ", ".join(f"{alias}={version}" for alias, version in m.aliases.items()),
            when(m.changed_at),
        ),
    )


@models.command("versions")
def list_versions(model: str, limit: Limit = 100, json: Json = False) -> None:
    """List a model's versions.

    Example: basalt model versions tumour
    """
    request = pb.ListModelVersionsRequest(model=model)
    with platform() as client:
        found = pages(client, client.models.ListModelVersions, request, "versions", limit)
    listed(
        found,
        json,
        f"Versions of {model}",
        ("version", "stage", "data", "metrics", "author", "reviews", "manifest"),
        lambda v: (
            v.version,
            word(pb.ModelStage, v.stage),
            f"{v.lineage.dataset} v{v.lineage.dataset_version}",
            measured(v.metrics),
            v.author,
            ", ".join(
                f"{'approved' if r.approved else 'rejected'} by {r.reviewer}" for r in v.reviews
            ),
            short(v.manifest_sha256),
        ),
    )


@models.command("show")
def show_version(
    model: str,
    version: Annotated[int, typer.Option(help="0: the latest.")] = 0,
    json: Json = False,
) -> None:
    """Show a version: gates, lineage and its card.

    Example: basalt model show tumour
    """
    request = pb.GetModelVersionRequest(model=model, version=version)
    with platform() as client:
        found = client.call(client.models.GetModelVersion, request).version
    if json:
        as_json(found)
        return
    show(found)
    # A program gets the card as it was written.
    card = plain(found.card)
    console.print(Markdown(card) if console.is_terminal else card)


def show(version: pb.ModelVersion) -> None:
    lineage = version.lineage
    fields(
        f"{version.model} version {version.version}",
        (
            ("stage", word(pb.ModelStage, version.stage)),
            ("manifest", version.manifest_sha256),
            ("data", f"{lineage.dataset} version {lineage.dataset_version}"),
            ("job", lineage.job),
            ("author", version.author),
            ("may not approve", ", ".join(version.responsible or [version.author])),
            ("signed with", version.signed_by_key),
            ("features", ", ".join(version.features)),
            ("classes", ", ".join(version.classes)),
            ("trace", lineage.trace_id),
        ),
    )
    table(
        "Gates",
        ("", "gate", "value", "limit", "detail"),
        (
            (
                mark(gate.passed),
                gate.gate,
                f"{gate.value:.4g}",
                f"{gate.limit:.4g}",
                gate.detail,
            )
            for gate in version.gates
        ),
    )


@models.command("approve")
def approve(
    model: str,
    version: int,
    comment: Annotated[str, typer.Option(help="Why.")] = "",
    json: Json = False,
) -> None:
    """Approve a version that passed its gates; it is signed.

    Not by those who wrote its pipeline, ran it, made the key that did, nor by
    whom one of these made a reviewer within 24 hours.

    Example: basalt model approve tumour 2 --comment "Better recall"
    """
    with platform() as client:
        answer = client.call(
            client.models.ApproveModelVersion,
            pb.ApproveModelVersionRequest(model=model, version=version, comment=comment),
        )
    if answer.already_approved:
        told(answer, json, _settled_before(answer.version, comment))
        return
    key = answer.version.signed_by_key
    told(answer, json, f"{model} version {version} is approved and signed with {key}.")


@models.command("reject")
def reject(
    model: str,
    version: int,
    comment: Annotated[str, typer.Option(help="Why.")] = "",
    json: Json = False,
) -> None:
    """Reject a version.

    Example: basalt model reject tumour 2 --comment "Wrong cohort"
    """
    with platform() as client:
        answer = client.call(
            client.models.RejectModelVersion,
            pb.RejectModelVersionRequest(model=model, version=version, comment=comment),
        )
    if answer.already_rejected:
        told(answer, json, _settled_before(answer.version, comment))
        return
    told(answer, json, f"{model} version {version} is rejected.")


def _settled_before(version: pb.ModelVersion, comment: str) -> str:
    review = version.reviews[-1]
    verdict = "approved" if review.approved else "rejected"
    dropped = "; this comment was not recorded" if comment else ""
    return (
        f"{version.model} version {version.version} was {verdict} already by {review.reviewer}"
        f" at {when(review.at)}{dropped}."
    )


@models.command("alias")
def set_alias(model: str, alias: str, version: int, json: Json = False) -> None:
    """Name a version.

    Example: basalt model alias tumour champion 2
    """
    with platform() as client:
        answer = client.call(
            client.models.SetAlias, pb.SetAliasRequest(model=model, alias=alias, version=version)
        )
    told(answer, json, f"{model}: {alias} is version {version}.")


@deploy.command("put")
def put_deployment(
    model: str,
    version: int,
    weight: Annotated[
        int, typer.Option(help="Percent of the traffic; under 100 it is a canary.", min=1, max=100)
    ] = 100,
    reason: Reason = "",
    json: Json = False,
) -> None:
    """Put a signed version in service.

    Example: basalt deploy put tumour 2 --weight 20
    """
    request = pb.DeployRequest(model=model, version=version, weight=weight, reason=reason)
    with platform() as client:
        _report(client.call(client.deployments.Deploy, request), reason, json)


@deploy.command("promote")
def promote(model: str, reason: Reason = "", json: Json = False) -> None:
    """Give the canary all of the traffic.

    Example: basalt deploy promote tumour
    """
    request = pb.PromoteRequest(model=model, reason=reason)
    with platform() as client:
        _report(client.call(client.deployments.Promote, request), reason, json)


@deploy.command("rollback")
def rollback(
    model: str,
    to: Annotated[int, typer.Option(help="A revision; 0: what served before.")] = 0,
    reason: Reason = "",
    json: Json = False,
) -> None:
    """Go back to what served before.

    Example: basalt deploy rollback tumour
    """
    request = pb.RollbackRequest(model=model, to_revision=to, reason=reason)
    with platform() as client:
        _report(client.call(client.deployments.Rollback, request), reason, json)


@deploy.command("remove")
def undeploy(model: str, reason: Reason = "", json: Json = False) -> None:
    """Take a model out of service.

    Example: basalt deploy remove tumour
    """
    request = pb.UndeployRequest(model=model, reason=reason)
    with platform() as client:
        _report(client.call(client.deployments.Undeploy, request), reason, json)


@deploy.command("list")
def list_deployments(limit: Limit = 100, json: Json = False) -> None:
    """List what is in service.

    Example: basalt deploy list
    """
    request = pb.ListDeploymentsRequest()
    with platform() as client:
        found = pages(client, client.deployments.ListDeployments, request, "deployments", limit)
    listed(
        found,
        json,
        "Deployments",
        ("model", "revision", "serves", "action", "changed", "by", "problem"),
        lambda d: (
            d.model,
            d.revision,
            serves(d),
            d.action,
            when(d.changed.at),
            d.changed.by,
            d.problem,
        ),
    )


def serves(deployment: pb.Deployment) -> str:
    return ", ".join(f"v{v.version} {v.weight} %" for v in deployment.variants) or "nothing"


def _report(answer: Changed, reason: str, json: bool) -> None:
    deployment = answer.deployment
    revision = f"Revision {deployment.revision} of {deployment.model}"
    if json:
        as_json(deployment)
    elif answer.already_in_force:
        dropped = "; this reason was not recorded" if reason else ""
        done(
            f"{revision} was in force already: {serves(deployment)}, by {deployment.changed.by} at"
            f" {when(deployment.changed.at)}{dropped}."
        )
    else:
        done(f"{revision}: {serves(deployment)}.")
    if deployment.problem:
        complain(deployment.problem, "`basalt deploy list` shows when it is ready.")
        raise typer.Exit(1)


def history(
    model: Annotated[str, typer.Argument(help="Empty: every model.")] = "",
    at: Annotated[str, typer.Option(help="What served at this moment, ISO 8601.")] = "",
    limit: Limit = 100,
    json: Json = False,
) -> None:
    """What served when, from which data, approved by whom; newest first.

    Example: basalt history tumour --at 2026-03-01T14:30
    """
    request = pb.ListDeploymentHistoryRequest(model=model)
    if at:
        request.at.FromDatetime(timestamp(at))
    with platform() as client:
        found = pages(client, client.deployments.ListDeploymentHistory, request, "records", limit)
    if json:
        as_json(found)
    else:
        show_history(found)


def show_history(records: list[pb.DeploymentRecord]) -> None:
    table(
        "What served when",
        ("model", "revision", "action", "served", "from", "until", "data", "approved by", "by"),
        (
            (
                r.deployment.model,
                r.deployment.revision,
                r.deployment.action,
                serves(r.deployment),
                when(r.deployment.changed.at),
                when(r.until) or "now",
                ", ".join(f"{one.dataset} v{one.dataset_version}" for one in r.lineages),
                ", ".join(r.approved_by),
                r.deployment.changed.by,
            )
            for r in records
        ),
    )
