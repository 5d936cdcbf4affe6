from services.gateway.dispatcher import CallSpan, Sample, Sampler, SpanBuffer
from services.gateway.dispatcher.recording import SERIES_MAX, SERIES_OVERFLOW, Counts, Series


def sample(size: int) -> Sample:
    return Sample("acme", "joan", "m", "1", "sha256:aa", "", "", 0, b"r" * size, b"")


def test_a_full_sampler_drops_what_is_new_and_counts_it() -> None:
    sampler = Sampler(samples_max=2)
    for size in (1, 2, 3):
        sampler.offer(sample(size))

    assert [len(each.request) for each in sampler.drain(10)] == [1, 2]
    assert sampler.dropped == 1
    assert sampler.drain(10) == []


def test_a_sampler_is_bounded_in_bytes_and_drained_in_parts() -> None:
    sampler = Sampler(bytes_max=100)
    for _ in range(3):
        sampler.offer(sample(40))
    assert sampler.dropped == 1
    assert len(sampler.drain(1)) == 1
    sampler.offer(sample(40))
    assert sampler.dropped == 1
    assert len(sampler.drain(10)) == 2


def test_a_full_span_buffer_drops_and_counts() -> None:
    spans = SpanBuffer(spans_max=1)
    span = CallSpan("t", "s", "p", 0, 1, "acme", "m", "1", 0)
    spans.add(span)
    spans.add(span)
    assert spans.drain(5) == [span]
    assert spans.dropped == 1


def test_a_series_counts_requests_errors_and_latencies() -> None:
    series = Series()
    series.record(0, 0.0002, 3)
    series.record(4, 60.0)

    assert series.requests == 2
    assert series.rows == 3
    assert series.errors == {4: 1}
    assert series.latency_counts[0] == 1
    assert series.latency_counts[-1] == 1


def test_series_are_bounded() -> None:
    counts = Counts()
    for number in range(SERIES_MAX + 5):
        counts.of(("tenant", str(number), "1")).record(0, 0.0)
    copied = counts.copy()
    assert copied[SERIES_OVERFLOW].requests == 5
    assert len(copied) == SERIES_MAX + 1
