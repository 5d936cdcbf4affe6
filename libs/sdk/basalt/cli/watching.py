"""`monitor`, `trace`, `deadletter`: what happens, and what happened."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text
from rich.tree import Tree

from basalt.cli.client import pages, platform
from basalt.cli.output import (
    Json,
    Limit,
    as_json,
    console,
    fields,
    listed,
    mark,
    plain,
    say,
    table,
    told,
    when,
)
from basalt.pb.basalt.v1 import monitoring_pb2 as pb

FEATURES_SHOWN = 12
# Of every call between the services; where a tree is deep it takes the room of what tells.
PACKAGE = "basalt.v1."
CHANCE = Text("~", style="yellow")
monitor = typer.Typer(help="Serving, drift, alerts.", no_args_is_help=True)
deadletters = typer.Typer(help="Events that could not be handled.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    app.add_typer(monitor, name="monitor")
    app.add_typer(deadletters, name="deadletter")
    app.command()(trace)


@monitor.command("serving")
def serving(
    model: Annotated[str, typer.Argument(help="Empty: every model.")] = "",
    window_s: Annotated[int, typer.Option(help="Seconds back; 0: everything kept.")] = 0,
    json: Json = False,
) -> None:
    """Response time, throughput and errors.

    Example: basalt monitor serving tumour
    """
    request = pb.GetServingMetricsRequest(model=model, window_s=window_s)
    with platform() as client:
        answer = client.call(client.monitoring.GetServingMetrics, request)
    if json:
        as_json(answer)
        return
    table(
        "Serving",
        ("model", "version", "requests", "a second", "p50 ms", "p95 ms", "p99 ms", "errors"),
        (
            (
                m.model,
                m.version,
                m.requests,
                f"{m.requests_per_second:.1f}",
                f"{m.latency_ms_p50:.2f}",
                f"{m.latency_ms_p95:.2f}",
                f"{m.latency_ms_p99:.2f}",
                ", ".join(f"{code} {count}" for code, count in m.errors_by_code.items()),
            )
            for m in answer.metrics
        ),
    )


@monitor.command("drift")
def drift(model: str, json: Json = False) -> None:
    """Live predictions against the training data.

    Example: basalt monitor drift tumour
    """
    with platform() as client:
        report = client.call(
            client.monitoring.GetDriftReport, pb.GetDriftReportRequest(model=model)
        ).report
    if json:
        as_json(report)
    else:
        show_drift(report)


def show_drift(report: pb.DriftReport) -> None:
    """The features that drifted, then those that come closest."""
    fields(
        f"Drift of {report.model} version {report.version}",
        (
            ("drifted", "not compared" if report.problem else "yes" if report.drifted else "no"),
            ("why", report.problem),
            ("live rows", report.live_rows),
            ("reference rows", report.reference_rows),
            ("at", when(report.at)),
        ),
    )
    ordered = sorted(report.features, key=lambda f: (not f.drifted, -f.value / (f.limit or 1)))
    shown = ordered[:FEATURES_SHOWN]
    table(
        "Features",
        ("", "feature", "statistic", "value", "limit", "trained on (mean)", "live (mean)"),
        (
            (
                CHANCE if _by_chance(f) else mark(not f.drifted),
                f.feature,
                f.statistic,
                f"{f.value:.3f}",
                f"{f.limit:.3f}",
                f"{f.reference_mean:.4g}",
                f"{f.live_mean:.4g}",
            )
            for f in shown
        ),
    )
    unsure = [f for f in shown if _by_chance(f)]
    for f in unsure:
        chance = f"which may be chance (p = {f.p_value:.2g})"
        say(f"{CHANCE} {f.feature}: {f.statistic} is above its limit, {chance}.")
    if unsure:
        say(f"Drift needs p ≤ {report.alpha:g}; p is multiplied by the number of comparisons.")


def _by_chance(feature: pb.FeatureDrift) -> bool:
    """So few rows differ as much without any drift."""
    return not feature.drifted and feature.value >= feature.limit


@monitor.command("alerts")
def alerts(limit: Limit = 50, json: Json = False) -> None:
    """List the alerts, newest first.

    Example: basalt monitor alerts
    """
    with platform() as client:
        found = pages(client, client.monitoring.ListAlerts, pb.ListAlertsRequest(), "alerts", limit)
    listed(
        found,
        json,
        "Alerts",
        ("at", "severity", "kind", "subject", "message", "trace"),
        lambda a: (when(a.at), a.severity, a.kind, a.subject, a.message, a.trace_id),
    )


def trace(
    trace_id: Annotated[str, typer.Argument(help="Empty: list the newest traces.")] = "",
    limit: Limit = 20,
    json: Json = False,
) -> None:
    """Draw a trace as a tree, or list the newest ones.

    Example: basalt trace 4bf92f3577b34da6a3ce929d0e0e4736
    """
    with platform() as client:
        if trace_id:
            answer = client.call(client.monitoring.GetTrace, pb.GetTraceRequest(trace_id=trace_id))
            spans, found = list(answer.spans), []
        else:
            spans, request = [], pb.ListTracesRequest()
            found = pages(client, client.monitoring.ListTraces, request, "traces", limit)
    if not trace_id:
        if json:
            as_json(found)
            return
        table(
            "Traces",
            ("trace", "root", "spans", "started", "ms", "failed"),
            (
                (
                    t.trace_id,
                    t.root,
                    t.spans,
                    when(t.started_at),
                    f"{t.duration_ms:.1f}",
                    Text("failed", style="red") if t.failed else "",
                )
                for t in found
            ),
        )
    elif json:
        as_json(spans)
    else:
        console.print(span_tree(trace_id, spans))


def span_tree(trace_id: str, spans: list[pb.Span]) -> Tree:
    """Spans under their parents, in the order they started; orphans stand at the root."""
    children: dict[str, list[pb.Span]] = {}
    known = {span.span_id for span in spans}
    for span in sorted(spans, key=lambda span: span.started_at.ToNanoseconds()):
        parent = span.parent_span_id if span.parent_span_id in known else ""
        children.setdefault(parent, []).append(span)
    head = Text.assemble((plain(f"trace {trace_id}"), "bold"), f" · {len(spans)} spans")
    tree = Tree(head)
    waiting = [(tree, span) for span in reversed(children.get("", []))]
    while waiting:
        branch, span = waiting.pop()
        failed = f" {plain(span.status_message or 'failed')}" if span.failed else ""
        grown = branch.add(
            Text.assemble(
                (plain(span.service), "cyan"),
                f" {plain(span.name.removeprefix(PACKAGE))} ",
                (f"{span.duration_ms:.1f} ms", "dim"),
                (failed, "red"),
            )
        )
        waiting += [(grown, child) for child in reversed(children.get(span.span_id, []))]
    return tree


@deadletters.command("list")
def list_dead_letters(
    topic: Annotated[str, typer.Option(help="Of one topic only.")] = "",
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """List events that could not be handled.

    Example: basalt deadletter list
    """
    request = pb.ListDeadLettersRequest(topic=topic)
    with platform() as client:
        found = pages(client, client.monitoring.ListDeadLetters, request, "letters", limit)
    listed(
        found,
        json,
        "Dead letters",
        ("id", "topic", "consumer", "error", "attempts", "at", "state"),
        lambda d: (d.id, d.topic, d.consumer, d.error, d.attempts, when(d.at), _fate(d)),
    )


def _fate(letter: pb.DeadLetter) -> str:
    if letter.replayed:
        return "replayed"
    if letter.discarded:
        return "discarded"
    return f"cannot be replayed: {letter.hopeless}" if letter.hopeless else "waits"


@deadletters.command("replay")
def replay_dead_letter(letter: str, json: Json = False) -> None:
    """Have a dead letter's consumer take it again, once its cause is mended.

    Example: basalt deadletter replay ID
    """
    with platform() as client:
        answer = client.call(
            client.monitoring.ReplayDeadLetter, pb.ReplayDeadLetterRequest(id=letter)
        )
    if answer.already_replayed:
        told(answer, json, f"{letter} was replayed before; nothing was done now.")
    else:
        told(answer, json, f"{letter}: its consumer takes it again.")


@deadletters.command("discard")
def discard_dead_letter(letter: str, json: Json = False) -> None:
    """Wait for a dead letter no longer, such as for one that can never be taken.

    Example: basalt deadletter discard ID
    """
    with platform() as client:
        answer = client.call(
            client.monitoring.DiscardDeadLetter, pb.DiscardDeadLetterRequest(id=letter)
        )
    if answer.already_discarded:
        told(answer, json, f"{letter} was discarded before; nothing was done now.")
    else:
        told(answer, json, f"{letter} is discarded.")
