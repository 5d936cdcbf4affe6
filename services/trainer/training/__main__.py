"""The training process: `python -m services.trainer.training FOLDER --parent PID ...`."""

from __future__ import annotations

import argparse
import os
import traceback
from pathlib import Path

from services.trainer.training.leash import die_with
from services.trainer.training.report import Report


def main() -> int:
    arguments = _arguments()
    if arguments.parent:
        die_with(arguments.parent)
    report = Report.on_stdout()
    # Imported once the process cannot be orphaned: this takes seconds.
    from libs.common import telemetry
    from libs.common.disk import is_full
    from libs.common.errors import BasaltError
    from services.trainer.training.run import train

    flush_spans = telemetry.set_up(
        "trainer", arguments.otlp, os.environ.get("BASALT_OTLP_TOKEN", "")
    )
    try:
        with telemetry.span("train", under=os.environ.get("TRACEPARENT", "")):
            train(arguments.folder, arguments.threads, report)
        return 0
    except BasaltError as error:
        report.refused(error.what, error.which, error.next_step)
    except MemoryError:
        report.refused("Training ran out of memory.", "memory", "Use a smaller model or batch.")
    except OSError as error:
        if not is_full(error):
            raise
        what, next_step = "The disk under BASALT_WORK is full.", "Free space on it."
        report.refused(what, "work", next_step, passes=True)
    except Exception:
        # The trace is for the job's log; its reader wrote the pipeline.
        for line in traceback.format_exc().splitlines():
            report.log(line)
        report.refused("Training failed unexpectedly.", "", "The job's log has the trace.")
    finally:
        flush_spans()
    return 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="services.trainer.training")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parent", type=int, default=0, help="the process to die with")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--otlp", default="", help="where spans go: host:port")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
