"""Measures a model in a process of its own: a file from outside must not take the service along."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libs.common.errors import DependencyError
from services.inference.outbound.measuring import PROGRAM
from services.inference.ports import Measurement, Question

EVALUATION_S_MAX = 120.0
ERROR_BYTES_MAX = 2_000


@dataclass(frozen=True, slots=True)
class ProcessEvaluator:
    """Files are handed over in a folder of their own; the answer is one line of JSON."""

    async def measure(self, question: Question) -> Measurement:
        with tempfile.TemporaryDirectory(prefix="basalt-evaluation-") as folder:
            await asyncio.to_thread(_write, Path(folder), question)
            answer = await _run(Path(folder))
        return Measurement(**{**answer, "objections": tuple(answer.get("objections", ()))})


def _write(folder: Path, question: Question) -> None:
    (folder / "model.onnx").write_bytes(question.model)
    (folder / "evaluation.parquet").write_bytes(question.evaluation)
    if question.champion is not None:
        (folder / "champion.onnx").write_bytes(question.champion)
    asked = {
        "inputs": [each.model_dump() for each in question.inputs],
        "outputs": [each.model_dump() for each in question.outputs],
        "features": question.features,
        "classes": question.classes,
        "group": question.group,
        "positive": question.positive,
        "champion_features": question.champion_features,
    }
    (folder / "question.json").write_text(json.dumps(asked))


async def _run(folder: Path) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        PROGRAM,
        str(folder),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=_environment(),
    )
    try:
        async with asyncio.timeout(EVALUATION_S_MAX):
            output, errors = await process.communicate()
    except TimeoutError:
        return {"objections": [f"Measuring it took more than {EVALUATION_S_MAX:.0f} s."]}
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    code = process.returncode or 0
    if code == 0:
        return json.loads(output)
    if code < 0:
        return {"objections": [f"Measuring it ended by the signal {-code}: it crashes."]}
    raise DependencyError(
        "A candidate could not be measured: "
        + errors[-ERROR_BYTES_MAX:].decode(errors="replace").strip().rpartition("\n")[2],
        which="evaluation",
        next_step="It is tried again; the service's log has the whole story.",
    )


def _environment() -> dict[str, str]:
    """None of the service's own settings, which hold its credentials."""
    kept = ("PATH", "PYTHONPATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH")
    threads = {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
    return {name: os.environ[name] for name in kept if name in os.environ} | threads
