"""Serves one ONNX file in Triton's Python backend, where there is no ONNX Runtime backend.

Runs inside Triton, on its own Python: it stands alone and knows nothing of the platform. What it
serves it reads once, and only if the bytes have the digest that the configuration names.

The seal is a secret of this one load. Its file goes as soon as it is read; asked with a challenge,
the model shows that it knows it, so that who loaded it can tell it from any other.
"""

import hashlib
import hmac
import json
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils  # pyright: ignore[reportMissingImports] - Triton's own.

CHALLENGE = "basalt_challenge"


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        self._seal = bytes.fromhex((folder / "seal").read_text())
        (folder / "seal").unlink()
        content = (folder / "model.onnx").read_bytes()
        wanted = config["parameters"]["model_sha256"]["string_value"]
        found = hashlib.sha256(content).hexdigest()
        if found != wanted:
            raise pb_utils.TritonModelException(
                f"model.onnx has the SHA-256 {found}, not {wanted}: it is not served"
            )
        self._inputs = [each["name"] for each in config["input"]]
        self._outputs = [each["name"] for each in config["output"]]
        self._session = onnxruntime.InferenceSession(
            content, _options(), providers=_providers(args["model_instance_kind"])
        )

    def execute(self, requests):
        challenges = [_challenge(request) for request in requests]
        if not any(challenges):
            return self._run(requests)
        return [
            self._proof(request, challenge) if challenge else self._run([request])[0]
            for request, challenge in zip(requests, challenges, strict=True)
        ]

    def _proof(self, request, challenge):
        """By a run like any other, whatever it makes of the row. Answers have no room for more."""
        self._run([request])
        proof = hmac.digest(self._seal, challenge.encode(), "sha256").hex()
        error = pb_utils.TritonError(f"basalt-proof:{proof}")
        return pb_utils.InferenceResponse(error=error)

    def _run(self, requests):
        """One run for everything that Triton gathered; its rows are then given back to each."""
        columns = [
            [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for request in requests]
            for name in self._inputs
        ]
        rows = [len(each) for each in columns[0]]
        if len(requests) == 1:
            feeds = {name: each[0] for name, each in zip(self._inputs, columns, strict=True)}
        else:
            feeds = {
                name: np.concatenate(each) for name, each in zip(self._inputs, columns, strict=True)
            }
        try:
            results = [np.asarray(each) for each in self._session.run(self._outputs, feeds)]
        except Exception as error:
            failed = pb_utils.TritonError(f"the model could not answer: {error}")
            return [pb_utils.InferenceResponse(error=failed) for _ in requests]
        responses, start = [], 0
        for count in rows:
            end = start + count
            tensors = [
                pb_utils.Tensor(name, np.ascontiguousarray(result[start:end]))
                for name, result in zip(self._outputs, results, strict=True)
            ]
            responses.append(pb_utils.InferenceResponse(tensors))
            start = end
        return responses


def _challenge(request):
    """Few calls have parameters at all."""
    parameters = request.parameters()
    if not parameters or CHALLENGE not in parameters:
        return ""
    return str(json.loads(parameters)[CHALLENGE])


def _options():
    options = onnxruntime.SessionOptions()
    # Triton runs many models side by side; each takes one thread and no more.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    return options


def _providers(kind):
    available = onnxruntime.get_available_providers()
    if kind == "GPU" and "CUDAExecutionProvider" in available:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]
    return ["CPUExecutionProvider"]
