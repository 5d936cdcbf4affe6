"""A multi-layer perceptron by torch, whose training can be cut anywhere and goes on to the bit.

Everything random comes from a generator that is seeded anew for each epoch, so an epoch is the same
whether it is reached in one run or in three.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import nn

from services.trainer.core.steps import Mlp
from services.trainer.training.checkpoints import Position
from services.trainer.training.network import DenseNetwork, FittedNetwork, class_weights
from services.trainer.training.session import Session


def fit(parameters: Mlp, session: Session) -> FittedNetwork:
    training, classes = session.rows.training, len(session.rows.classes)
    torch.manual_seed(seed_of(session.seed, session.step))
    widths = [training.features.shape[1], *parameters.hidden, classes]
    network = DenseNetwork(widths, parameters.dropout)
    network.standardise(training.features)
    if not session.checkpoints.restore_fitted(session.step, network):
        _train(network, parameters, session)
        session.checkpoints.save_fitted(session.step, network)
    return FittedNetwork(network)


def _train(network: DenseNetwork, parameters: Mlp, session: Session) -> None:
    training = session.rows.training
    weights = class_weights(training, len(session.rows.classes), parameters.class_weight)
    loss_of = nn.CrossEntropyLoss(
        weight=None if weights is None else torch.from_numpy(weights.astype(np.float32))
    )
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=parameters.learning_rate, weight_decay=parameters.weight_decay
    )
    features = torch.from_numpy(training.features)
    labels = torch.from_numpy(training.labels)
    position = session.checkpoints.restore(session.step, network, optimizer)
    batches = -(-len(labels) // parameters.batch_rows)
    for epoch in range(position.epoch, parameters.epochs):
        seed = seed_of(session.seed, session.step, epoch)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        begin_at = position.batch if epoch == position.epoch else 0
        if begin_at == 0:
            torch.manual_seed(seed)  # For dropout; in mid-epoch the checkpoint has its state.
        network.train()
        for batch, chosen in enumerate(order.split(parameters.batch_rows)):
            if batch < begin_at:
                continue
            optimizer.zero_grad()
            loss = loss_of(network(features[chosen]), labels[chosen])
            loss.backward()
            optimizer.step()
            if session.checkpoints.due:
                ahead = Position(epoch, batch + 1) if batch + 1 < batches else Position(epoch + 1)
                session.checkpoints.save(session.step, network, optimizer, ahead)
        if session.progress((epoch + 1) / parameters.epochs):
            session.report.metrics(_glance(network, session))


def _glance(network: DenseNetwork, session: Session) -> dict[str, float]:
    """How it does on the validation rows so far; costs little and changes nothing."""
    answers = FittedNetwork(network).probabilities(session.rows.validation.features)
    right = answers.argmax(axis=1) == session.rows.validation.labels
    return {f"{session.step}_validation_accuracy": round(float(right.mean()), 6)}


def seed_of(*parts: object) -> int:
    """63 bits that depend on every part, the same everywhere."""
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
