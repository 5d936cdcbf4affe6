"""ONNX for dense networks, and the proof that it answers as what was trained.

The graph is written node by node: for networks of this form torch's exporter makes the same nodes,
in six seconds and 300 MB more. What it answers is compared with the trained model on the very data.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from libs.common.errors import PreconditionError
from services.trainer.training.rows import Features

# What ONNX Runtime 1.16 and everything later reads.
OPSET = 17
IR_VERSION = 9
# Between the exported model and the one that was trained, in a probability.
PROBABILITY_DIFFERENCE_MAX = 1e-4
COMPARED_ROWS = 4_096
OUTPUTS = ["label", "probabilities"]

Weights = NDArray[np.float32]


def write_dense(
    mean: Weights, scale: Weights, layers: Sequence[tuple[Weights, Weights]], file: Path
) -> None:
    """softmax(W_n · relu(… W_1 · (features - mean) / scale + b_1 …) + b_n), in one file.

    `layers` are (weight [outer, inner], bias [outer]), as torch.nn.Linear has them.
    features FP32 [batch, columns] → label INT64 [batch], probabilities FP32 [batch, classes].
    """
    constants = {"mean": mean, "scale": scale}
    nodes = [
        helper.make_node("Sub", ["features", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "scale"], ["hidden_0"]),
    ]
    for n, (weight, bias) in enumerate(layers, 1):
        constants |= {f"weight_{n}": weight, f"bias_{n}": bias}
        inputs = [f"hidden_{n - 1}", f"weight_{n}", f"bias_{n}"]
        nodes.append(helper.make_node("Gemm", inputs, [f"linear_{n}"], transB=1))
        if n < len(layers):
            nodes.append(helper.make_node("Relu", [f"linear_{n}"], [f"hidden_{n}"]))
    nodes += [
        helper.make_node("Softmax", [f"linear_{len(layers)}"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
    ]
    classes = len(layers[-1][1])
    graph = helper.make_graph(
        nodes,
        "dense",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", len(mean)])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", classes]),
        ],
        [
            numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name)
            for name, value in constants.items()
        ],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="basalt",
    )
    onnx.checker.check_model(model, full_check=True)
    file.write_bytes(model.SerializeToString(deterministic=True))


def require_alike(
    file: Path, features: Features, expected: NDArray[np.floating], threads: int
) -> float:
    """The greatest difference in a probability, over all rows at once and some one by one.

    Raises PreconditionError when the export would answer otherwise than what was trained: such a
    model is no candidate.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    rows = features[:COMPARED_ROWS]
    worst = 0.0
    for asked, wanted in [(rows, expected[:COMPARED_ROWS]), *_singly(rows, expected)]:
        labels, answers = (np.asarray(out) for out in session.run(OUTPUTS, {"features": asked}))
        # np.maximum keeps what is no number, which `max` may drop.
        worst = float(np.maximum(worst, np.abs(answers - wanted).max()))
        top = np.sort(wanted, axis=1)
        # Where two classes are as good as equal, either is a right answer.
        clear = top[:, -1] - top[:, -2] > PROBABILITY_DIFFERENCE_MAX
        differ = (labels != wanted.argmax(axis=1))[clear].any()
        if not worst <= PROBABILITY_DIFFERENCE_MAX or differ:
            raise PreconditionError(
                f"The exported model answers otherwise than the trained one: a probability differs"
                f" by {worst:.2g}; {PROBABILITY_DIFFERENCE_MAX:g} is the most that may be.",
                which="export",
                next_step="Look for features of very large values: scale or exclude them.",
            )
    return worst


def _singly(
    rows: Features, expected: NDArray[np.floating]
) -> list[tuple[Features, NDArray[np.floating]]]:
    return [(rows[n : n + 1], expected[n : n + 1]) for n in range(min(len(rows), 8))]
