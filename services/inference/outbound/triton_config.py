"""A version's Triton configuration, from its manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from services.inference.core.manifest import Tensor
from services.inference.ports import Servable

Backend = Literal["python", "onnxruntime"]
InstanceKind = Literal["CPU", "GPU", "AUTO"]

# Whoever looks into Triton sees what it serves; the reconciler knows by it what it put there.
MANIFEST_SHA256 = "manifest_sha256"
MODEL_SHA256 = "model_sha256"
# Which load it is, and what proves that it is one of ours.
LOAD = "basalt_load"
SEAL = "basalt_seal"
# The parameter of a call by which a model is asked for its proof.
CHALLENGE = "basalt_challenge"


def configuration(
    servable: Servable, backend: Backend, kind: InstanceKind, parameters: Mapping[str, str]
) -> dict[str, Any]:
    """As Triton's model_config.proto has it, in JSON.

    Both backends get the same tensors, so a caller cannot tell which one answers.
    """
    engine = (
        {"platform": "onnxruntime_onnx", "backend": "onnxruntime"}
        if backend == "onnxruntime"
        else {"backend": "python"}
    )
    return {
        "name": servable.name,
        **engine,
        "max_batch_size": servable.batch_size_max,
        # What waits is run together at once; nothing waits for more to come.
        "dynamic_batching": {},
        "input": _tensors(servable.inputs),
        "output": _tensors(servable.outputs),
        "instance_group": [{"kind": f"KIND_{kind}", "count": 1}],
        "parameters": {
            MANIFEST_SHA256: {"string_value": servable.manifest_sha256},
            MODEL_SHA256: {"string_value": servable.model_sha256},
            **{name: {"string_value": value} for name, value in parameters.items()},
        },
    }


def _tensors(tensors: Sequence[Tensor]) -> list[dict[str, Any]]:
    return [
        {"name": tensor.name, "data_type": f"TYPE_{tensor.datatype}", **_dims(tensor.shape[1:])}
        for tensor in tensors
    ]


def _dims(row: tuple[int, ...]) -> dict[str, Any]:
    """A row's dimensions. Triton knows no row without any: one number a row is [1] to callers.

    https://docs.nvidia.com/deeplearning/triton-inference-server: Model Configuration, Reshape.
    """
    return {"dims": list(row)} if row else {"dims": [1], "reshape": {"shape": []}}
