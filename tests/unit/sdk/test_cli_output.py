"""What people see in terminals of any width, what programs read, and what neither is to see."""

import json
import re

import pytest

from basalt.pb.basalt.v1 import common_pb2, monitoring_pb2, security_pb2
from basalt.pb.basalt.v1 import inference_pb2 as pb
from tests.support.answering import Answering
from tests.support.terminal import in_terminal, piped

LIST = "basalt.v1.ModelService/ListModels"
VERSIONS = "basalt.v1.ModelService/ListModelVersions"
VERSION = "basalt.v1.ModelService/GetModelVersion"
TRACE = "basalt.v1.MonitoringService/GetTrace"
TRACES = "basalt.v1.MonitoringService/ListTraces"
DRIFT = "basalt.v1.MonitoringService/GetDriftReport"
LOGIN = "basalt.v1.IdentityService/Login"
CHANGE = "basalt.v1.IdentityService/ChangePassword"
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOUR = re.compile(r"\x1b\[(?:[0-9;]*;)?3[0-7]m")
# What somebody may name their things, to see what happens.
HOSTILE = "[bold red]x[/] [link=http://evil]y[/link] \x1b[2J\x07 `z` :bomb:"
SHOWN = "[bold red]x[/] [link=http://evil]y[/link] \\x1b[2J\\x07 `z` :bomb:"
DIGEST = "0123456789abcdef" * 4


def version(number: int = 1, name: str = "tumour", author: str = "ada") -> pb.ModelVersion:
    made = pb.ModelVersion(
        model=name,
        version=number,
        stage=pb.MODEL_STAGE_SIGNED,
        author=author,
        manifest_sha256=DIGEST,
        card=f"# A model\n\nBy {author}.",
        features=[f"feature_{place}" for place in range(30)],
        metrics=[
            common_pb2.Metric(name="accuracy", value=0.97),
            common_pb2.Metric(name="auc", value=0.99),
            common_pb2.Metric(name="evaluation_rows", value=42),
        ],
        gates=[
            pb.GateResult(gate="accuracy_min", passed=True, value=0.97, limit=0.95),
            pb.GateResult(gate=author, passed=False, value=3, limit=2, detail="too [slow]"),
        ],
    )
    made.lineage.dataset = "measurements"
    made.lineage.dataset_version = 12
    return made


@pytest.fixture
def server(server: Answering) -> Answering:
    listed = [version(number) for number in (3, 2, 1)]
    server.handlers |= {
        LIST: lambda *_: pb.ListModelsResponse(models=[pb.Model(name=HOSTILE, latest_version=3)]),
        VERSIONS: lambda *_: pb.ListModelVersionsResponse(versions=listed),
        VERSION: lambda *_: pb.GetModelVersionResponse(version=version(author=HOSTILE)),
    }
    return server


def test_piped_output_has_whole_lines_and_no_control_codes(server: Answering) -> None:
    shown = piped("model", "versions", "tumour").output
    lines = shown.splitlines()
    assert len(lines) == 4
    assert lines[0].split() == [
        "version", "stage", "data", "metrics", "author", "reviews", "manifest",
    ]  # fmt: skip
    for number, line in zip((3, 2, 1), lines[1:], strict=True):
        assert line.split()[0] == str(number)
        assert "measurements v12" in line
        assert "accuracy 0.9700, auc 0.9900, evaluation_rows 42 " in line
        assert DIGEST[:12] in line
    assert "\x1b" not in shown


def test_piped_card_is_what_was_written(server: Answering) -> None:
    shown = piped("model", "show", "tumour").output
    assert "# A model\n\nBy " in shown
    assert re.search(rf"^manifest +{DIGEST}$", shown, re.MULTILINE)
    assert ", ".join(f"feature_{place}" for place in range(30)) in shown


def test_nothing_of_the_platform_is_markup_or_a_command(server: Answering) -> None:
    for arguments in (("model", "list"), ("model", "show", "tumour")):
        assert SHOWN in piped(*arguments).output
        seen = in_terminal(*arguments, columns=300).output
        assert SHOWN in CONTROL.sub("", seen)
        assert "\x1b[2J" not in seen
        assert "\x07" not in seen
        assert "\x1b]8" not in seen


def test_json_keeps_everything_as_it_is(server: Answering) -> None:
    shown = piped("model", "list", "--json").output
    assert json.loads(shown)[0]["name"] == HOSTILE
    assert "\x1b" not in shown


@pytest.mark.parametrize("columns", [20, 40, 80, 120, 200])
def test_no_terminal_is_too_narrow(server: Answering, columns: int) -> None:
    shown = in_terminal("model", "versions", "tumour", columns=columns)
    assert shown.status == 0
    plain = CONTROL.sub("", shown.output)
    assert max(len(line) for line in plain.splitlines()) <= columns
    # Nothing is left out: what did not fit in a line goes on in the next.
    whole = re.sub(r"\s", "", plain)
    assert "…" not in whole
    for word in (DIGEST[:12], "measurements", "signed", "0.9700"):
        assert whole.count(word) == 3, word


def test_narrow_terminals_list_each_row_by_field(server: Answering) -> None:
    narrow = CONTROL.sub("", in_terminal("model", "versions", "tumour", columns=40).output)
    assert "Versions of tumour, 1 of 3" in narrow
    assert re.search(r"^manifest +0123456789ab *$", narrow, re.MULTILINE)
    wide = CONTROL.sub("", in_terminal("model", "versions", "tumour", columns=120).output)
    assert re.search(r"^Versions of tumour *$", wide, re.MULTILINE)
    assert "1 of 3" not in wide


def test_traces_are_told_apart_in_a_narrow_terminal(server: Answering) -> None:
    def traces(*_: object) -> monitoring_pb2.ListTracesResponse:
        root = "monitoring: basalt.v1.HealthService/GetServiceHealth"
        found = [
            monitoring_pb2.TraceSummary(trace_id=f"{place:032x}", root=root) for place in (1, 2)
        ]
        return monitoring_pb2.ListTracesResponse(traces=found)

    server.handlers[TRACES] = traces
    lines = [line.rstrip() for line in CONTROL.sub("", in_terminal("trace").output).splitlines()]
    assert lines.count("") == 1
    assert lines[lines.index("") + 1] == "Traces, 2 of 2"
    assert any(line.endswith("HealthService/GetServiceHealth") for line in lines)


def drift_report(*names: str) -> monitoring_pb2.GetDriftReportResponse:
    """Of each name one feature that drifted and one above its limit by chance; and a calm one."""
    answer = monitoring_pb2.GetDriftReportResponse()
    answer.report.live_rows, answer.report.alpha = 200, 0.001
    for name in names:
        for number, value, p_value, drifted in ((1, 0.375, 1e-9, True), (2, 0.184, 0.0123, False)):
            answer.report.features.add(
                feature=f"{name}_{number}",
                statistic="ks",
                value=value,
                limit=0.15,
                p_value=p_value,
                drifted=drifted,
                reference_mean=0.04563,
                live_mean=1234.5,
            )
    answer.report.features.add(feature="calm", statistic="ks", value=0.1, limit=0.15, p_value=1)
    return answer


def test_drift_that_is_chance_is_no_tick_and_explained(server: Answering) -> None:
    server.handlers[DRIFT] = lambda *_: drift_report("mean_texture")
    shown = piped("monitor", "drift", "tumour").output
    marks = {line.split()[1]: line[0] for line in shown.splitlines() if line[0] in "✓~✗"}
    assert marks == {
        "mean_texture_1": "✗",
        "mean_texture_2:": "~",
        "mean_texture_2": "~",
        "calm": "✓",
    }
    assert shown.endswith(
        "~ mean_texture_2: ks is above its limit, which may be chance (p = 0.012).\n"
        "Drift needs p ≤ 0.001; p is multiplied by the number of comparisons.\n"
    )


def test_table_that_just_fits_is_not_cut_off(server: Answering) -> None:
    server.handlers[DRIFT] = lambda *_: drift_report("worst_smoothness")
    shown = CONTROL.sub("", in_terminal("monitor", "drift", "tumour").output)
    ends = [line.split()[-1] for line in shown.splitlines() if line.strip()]
    assert ends.count("(mean)") == 1
    assert ends.count("1234") == 2


def test_terminals_get_colours_unless_they_are_not_wanted(server: Answering) -> None:
    assert COLOUR.search(in_terminal("model", "show", "tumour").output)
    assert not COLOUR.search(in_terminal("model", "show", "tumour", NO_COLOR="1").output)
    assert not CONTROL.search(in_terminal("model", "show", "tumour", TERM="dumb").output)


def test_trace_is_a_tree(server: Answering) -> None:
    def spans(*_: object) -> monitoring_pb2.GetTraceResponse:
        root = monitoring_pb2.Span(span_id="1", service="gateway", name=HOSTILE, duration_ms=4)
        child = monitoring_pb2.Span(
            span_id="2", parent_span_id="1", service="triton", name="infer", failed=True
        )
        child.started_at.FromSeconds(1)
        orphan = monitoring_pb2.Span(span_id="3", parent_span_id="9", service="x", name="y")
        return monitoring_pb2.GetTraceResponse(spans=[orphan, child, root])

    server.handlers[TRACE] = spans
    shown = piped("trace", "ab" * 16).output.splitlines()
    assert shown[0] == f"trace {'ab' * 16} · 3 spans"
    assert f"gateway {SHOWN} 4.0 ms" in "\n".join(shown)
    assert any(line.endswith("└── triton infer 0.0 ms failed") for line in shown)


def test_nothing_to_list_is_said(server: Answering) -> None:
    server.handlers[LIST] = lambda *_: pb.ListModelsResponse()
    assert piped("model", "list").output == "Models: none.\n"
    assert piped("model", "list", "--json").output == "[]\n"


def test_value_of_a_newer_platform_is_shown_as_its_number(server: Answering) -> None:
    model = pb.Model(name="tumour", latest_stage=99)  # pyright: ignore[reportArgumentType]
    server.handlers[LIST] = lambda *_: pb.ListModelsResponse(models=[model])
    assert "99" in piped("model", "list").output


def test_pages_are_read_up_to_the_limit(server: Answering) -> None:
    def page(request: pb.ListModelsRequest, _: object) -> pb.ListModelsResponse:
        start = int(request.page.token or 0)
        found = [pb.Model(name=f"m{start + place}") for place in range(request.page.size)]
        return pb.ListModelsResponse(models=found, next_page_token=str(start + len(found)))

    server.handlers[LIST] = page
    listed = json.loads(piped("model", "list", "--limit", "250", "--json").output)
    assert [each["name"] for each in listed] == [f"m{place}" for place in range(250)]
    assert [call.request.page.size for call in server.calls] == [100, 100, 51]


# Logging in at a terminal.


def test_login_asks_for_what_is_missing_and_shows_no_password(server: Answering) -> None:
    changed: list[security_pb2.ChangePasswordRequest] = []

    def login(request: security_pb2.LoginRequest, _: object) -> security_pb2.LoginResponse:
        from libs.common.errors import PreconditionError

        if not changed:
            raise PreconditionError("This is a one-time password.")
        answer = security_pb2.LoginResponse(token="the-token")
        answer.login_ends_at.FromSeconds(4_000_000_000)
        return answer

    def change(
        request: security_pb2.ChangePasswordRequest, _: object
    ) -> security_pb2.ChangePasswordResponse:
        changed.append(request)
        return security_pb2.ChangePasswordResponse()

    server.handlers |= {LOGIN: login, CHANGE: change}
    typed = [
        ("Tenant: ", "acme"),
        ("Name: ", "ann"),
        ("Password: ", "once-secret"),
        ("New password: ", "own-secret-words"),
        ("Repeat for confirmation: ", "own-secret-words"),
    ]
    shown = in_terminal("login", "--endpoint", server.address, typed=typed)
    assert shown.status == 0, shown
    assert (changed[0].password, changed[0].new_password) == ("once-secret", "own-secret-words")
    assert "This password was for one login. Choose your own." in shown.output
    after_prompts = shown.output.partition("This password")[2]
    assert "secret" not in after_prompts
    # The next time the last tenant and name are offered.
    typed = [("Tenant [acme]: ", ""), ("Name [ann]: ", ""), ("Password: ", "own-secret-words")]
    again = in_terminal("login", typed=typed, BASALT_TOKEN="")
    assert again.status == 0, again
    assert server.calls[-1].request.name == "ann"
