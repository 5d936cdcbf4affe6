# The OpenTelemetry Collector's image holds its binary alone; this one can also say how it is.
ARG BASE=python:3.11.14-slim-bookworm
FROM ghcr.io/open-telemetry/opentelemetry-collector-releases/opentelemetry-collector-contrib:0.157.0 AS collector

FROM ${BASE}
COPY --from=collector /otelcol-contrib /otelcol-contrib
USER 10001:10001
ENTRYPOINT ["/otelcol-contrib"]
