"""What a definition may name is what a training process can do; and the service stays light."""

import subprocess
import sys

from services.trainer.core.steps import PARAMETERS, VERBS
from services.trainer.training.algorithms import ALGORITHMS
from services.trainer.training.run import STEPS

HEAVY = ("torch", "sklearn", "numpy", "polars", "onnx", "onnxruntime")


def test_every_algorithm_and_step_has_its_function() -> None:
    assert set(PARAMETERS) == set(ALGORITHMS)
    assert set(VERBS.values()) == set(STEPS)


def test_the_service_process_imports_nothing_heavy() -> None:
    source = "import sys, services.trainer.app; print(*sys.modules)"
    answer = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert not set(HEAVY) & set(answer.stdout.split())
