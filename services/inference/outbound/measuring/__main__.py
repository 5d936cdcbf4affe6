"""`python -m services.inference.outbound.measuring FOLDER`: a question's files in, JSON out."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

MEMORY_BYTES_MAX = 8 * 1024**3  # Of address space, of which much is only reserved.
CPU_S_MAX = 110


def main(folder: Path) -> dict[str, Any]:
    from services.inference.outbound.measuring.format import objections_to
    from services.inference.outbound.measuring.performance import measured

    asked = json.loads((folder / "question.json").read_text())
    objections = objections_to((folder / "model.onnx").read_bytes(), asked)
    return {"objections": objections} if objections else measured(folder, asked)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S_MAX, CPU_S_MAX))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    json.dump(main(Path(sys.argv[1])), sys.stdout)
