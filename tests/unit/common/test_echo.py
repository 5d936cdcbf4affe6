"""A caller's words, wherever they are said again."""

from __future__ import annotations

import io
import json

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from libs.common import echo, runtime, telemetry
from libs.common.errors import NotFoundError
from services.gateway.dispatcher.calls import error_block
from tests.support.tracing import Spans

WORDS = st.text() | st.text(alphabet="a\x00\n\u202e é😀%", min_size=200, max_size=900)


@given(WORDS, st.integers(16, 1_000))
def test_it_fits_and_can_be_shown(text: str, bytes_max: int) -> None:
    said = echo.bounded(text, bytes_max)

    assert echo.encoded_bytes(said) <= bytes_max
    assert said.isprintable()
    assert echo.encoded(said).isascii()


@given(st.text(alphabet=st.characters(exclude_categories=("C", "Z")), max_size=20))
def test_what_fits_stays_as_it_is(text: str) -> None:
    assert echo.bounded(text) == text
    assert echo.short(text) == text


def test_both_ends_of_a_long_sentence_stay() -> None:
    said = echo.bounded(f"There is no model {'x' * 65_536} here.", 200)

    assert said.startswith("There is no model xxx")
    assert said.endswith("xxx here.")
    assert "x…x" in said


@given(WORDS, st.integers(8, 300))
def test_a_label_is_short(text: str, characters_max: int) -> None:
    said = echo.short(text, characters_max)

    assert len(said) <= characters_max
    assert said.isprintable()


@given(WORDS)
def test_the_dispatcher_says_it_within_the_same_bounds(text: str) -> None:
    assert len(error_block(5, f"model {text}")) < 3_000


def test_a_log_line_is_one_line_and_not_longer_than_people_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    before = structlog.get_config()
    try:
        runtime.log_to_stderr("tested", "info")
        structlog.get_logger().info(
            "refused\n",
            name="x\u202e" * 100_000,
            error=str(NotFoundError("y\n" * 100_000)),
            of=["z"] * 99_999,
        )
    finally:
        structlog.contextvars.clear_contextvars()
        structlog.configure(**before)

    (line,) = written.getvalue().splitlines()
    assert len(line) < 20_000
    assert json.loads(line)["name"].startswith("x\\u202e")


def test_a_span_is_named_and_labelled_within_bounds(spans: Spans) -> None:
    with telemetry.span("x" * 70_000, basalt_model="m\n" * 70_000):
        pass

    (span,) = spans.all()
    assert len(span.name) <= echo.LABEL_CHARACTERS_MAX
    assert len(str((span.attributes or {})[telemetry.MODEL])) <= echo.LABEL_CHARACTERS_MAX
