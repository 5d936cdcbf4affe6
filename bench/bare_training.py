"""The peer of bench/training.py: the same training as a plain script, with no platform around it.

    python -m bench.bare_training data.parquet order.json OUTPUT_FOLDER

The same rows, model, epochs and export; no checkpoints, no progress, no lineage.
"""

import sys
from pathlib import Path

import numpy as np
import polars as pl
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss
from torch import nn

from services.trainer.core.order import Order
from services.trainer.training.export import require_alike, write_dense
from services.trainer.training.rows import load


def main(data: Path, order_file: Path, output: Path) -> None:
    torch.set_num_threads(1)
    order = Order.model_validate_json(order_file.read_bytes())
    rows = load(data, order)
    parameters = order.pipeline.trains[1].parameters.model_dump()
    training, held_out = rows.training, rows.evaluation
    mean = training.features.mean(axis=0)
    scale = training.features.std(axis=0)

    baseline = LogisticRegression(max_iter=1_000)
    baseline.fit((training.features - mean) / scale, training.labels)

    torch.manual_seed(7)
    features = torch.from_numpy((training.features - mean) / scale)
    labels = torch.from_numpy(training.labels)
    network = nn.Sequential(
        nn.Linear(features.shape[1], parameters["hidden"][0]),
        nn.ReLU(),
        nn.Linear(parameters["hidden"][0], len(rows.classes)),
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=parameters["learning_rate"])
    loss_of = nn.CrossEntropyLoss()
    for _ in range(parameters["epochs"]):
        for chosen in torch.randperm(len(labels)).split(parameters["batch_rows"]):
            optimizer.zero_grad()
            loss_of(network(features[chosen]), labels[chosen]).backward()
            optimizer.step()

    def probabilities(raw: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            standard = torch.from_numpy((raw - mean) / scale)
            return torch.softmax(network(standard), dim=1).numpy()

    layers = [
        (each.weight.detach().numpy(), each.bias.detach().numpy())
        for each in network
        if isinstance(each, nn.Linear)
    ]
    write_dense(mean, scale, layers, output / "model.onnx")
    answers = probabilities(held_out.features)
    require_alike(output / "model.onnx", held_out.features, answers, 1)
    table = pl.DataFrame(held_out.features).with_columns(label=pl.Series(held_out.labels))
    table.write_parquet(output / "evaluation.parquet")
    print(
        f"accuracy {accuracy_score(held_out.labels, answers.argmax(axis=1)):.3f}"
        f" log loss {log_loss(held_out.labels, answers):.3f}"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
