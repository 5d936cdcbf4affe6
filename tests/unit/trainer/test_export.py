"""An exported network answers as torch does, or it is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from libs.common.errors import PreconditionError
from services.trainer.training.export import require_alike
from services.trainer.training.network import DenseNetwork, FittedNetwork


def fitted(widths: list[int]) -> tuple[FittedNetwork, np.ndarray]:
    torch.manual_seed(3)
    features = np.random.default_rng(3).normal(50, 20, (200, widths[0])).astype(np.float32)
    network = DenseNetwork(widths, dropout=0.2)
    network.standardise(features)
    return FittedNetwork(network), features


@pytest.mark.parametrize("widths", [[4, 2], [30, 64, 2], [7, 16, 8, 5]])
def test_onnx_and_torch_answer_alike(tmp_path: Path, widths: list[int]) -> None:
    model, features = fitted(widths)
    model.export(tmp_path / "model.onnx")
    probabilities = model.probabilities(features)
    assert probabilities.shape == (200, widths[-1])
    assert require_alike(tmp_path / "model.onnx", features, probabilities, 1) < 1e-5


def test_the_same_network_is_the_same_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        fitted([5, 8, 3])[0].export(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("wrong", [1e-3, float("nan")])
def test_an_export_that_answers_otherwise_is_refused(tmp_path: Path, wrong: float) -> None:
    model, features = fitted([4, 8, 2])
    model.export(tmp_path / "model.onnx")
    answers = model.probabilities(features) + np.float32(wrong)
    with pytest.raises(PreconditionError, match="answers otherwise"):
        require_alike(tmp_path / "model.onnx", features, answers, 1)


def test_an_export_with_swapped_classes_is_refused(tmp_path: Path) -> None:
    model, features = fitted([4, 8, 2])
    model.export(tmp_path / "model.onnx")
    with pytest.raises(PreconditionError):
        require_alike(tmp_path / "model.onnx", features, model.probabilities(features)[:, ::-1], 1)
