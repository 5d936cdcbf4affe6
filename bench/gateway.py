"""How fast the door is: raw Triton against Envoy, the dispatcher and Triton in a chain.

    python bench/gateway.py                  three rounds, about three minutes
    python bench/gateway.py --rounds 1 --seconds 4 --paths raw,dispatcher

One line a figure: what, its value, what it is compared with. Only ratios within a round count: the
speed of a shared machine drifts. h2load counts HTTP 200s, so the answers are checked apart, and the
dispatcher's own count of errors has to be zero.
"""

import argparse
import asyncio
import base64
import gc
import json
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc
import numpy as np
import onnx
import psutil
import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from onnx import TensorProto, helper, numpy_helper
from tritonclient.grpc import InferenceServerClient

from libs.common.pb.inference.grpc_inference_service_pb2 import ModelInferRequest
from libs.common.pb.inference.grpc_inference_service_pb2_grpc import GRPCInferenceServiceStub
from services.gateway.dispatcher import Dispatcher, Limits, Route, RoutingTable, Variant
from tools.servers import Envoy, Triton
from tools.servers.ports import free_ports

FEATURES, HIDDEN, CLASSES = 30, 64, 2
BATCH_SIZE_MAX = 64
TENANT = "acme"
MODEL, MODEL_UNMERGED, MODEL_INTERNAL = "mlp", "mlp-unmerged", "mlp"
CONTROL_KEY = "bench"
CONNECTIONS = 8
WARM_UP_S = 2
PATH = "/inference.GRPCInferenceService/ModelInfer"
AIMS = {"chain@32": 0.8, "chain@128": 1.3, "unmerged@32": 0.65}
# A chain of processes is slowed by other work far more than one server is: rounds in which others
# took more than this are measured again, a few times.
OTHER_CORES_MAX = 0.2
ATTEMPTS_A_ROUND = 4

TRITON_MODEL = """
import os

import numpy
import onnxruntime
import triton_python_backend_utils as backend


class TritonPythonModel:
    def initialize(self, args):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        file = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        self.session = onnxruntime.InferenceSession(file, options)

    def execute(self, requests):
        inputs = [backend.get_input_tensor_by_name(r, "x").as_numpy() for r in requests]
        y = self.session.run(None, {"x": numpy.concatenate(inputs)})[0]
        answers, row = [], 0
        for x in inputs:
            answers.append(
                backend.InferenceResponse([backend.Tensor("y", y[row : row + len(x)])])
            )
            row += len(x)
        return answers
"""

TRITON_CONFIG = """
backend: "python"
max_batch_size: 64
input [{ name: "x" data_type: TYPE_FP32 dims: [30] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [2] }]
instance_group [{ kind: KIND_CPU count: 1 }]
dynamic_batching { }
"""


@dataclass(frozen=True)
class Load:
    """What h2load measured, and the CPU time of each process a request."""

    requests_per_s: float
    latency_ms_mean: float
    cpu_us: dict[str, float]
    other_cores: float  # What other work took of the machine meanwhile.


def main() -> None:
    arguments = read_arguments()
    if arguments.dispatch:
        uvloop.run(dispatch(Path(arguments.dispatch), arguments.triton))
        return
    if shutil.which("h2load") is None:
        sys.exit("h2load is missing; on Debian: apt-get install nghttp2-client")
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), arguments)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=6, help="measured, of each run")
    parser.add_argument("--in-flight", default="32,128")
    parser.add_argument(
        "--paths",
        default="raw,dispatcher,chain,unmerged",
        help="of raw, dispatcher, chain, unmerged",
    )
    parser.add_argument("--dispatch", help=argparse.SUPPRESS)
    parser.add_argument("--triton", help=argparse.SUPPRESS)
    return parser.parse_args()


async def dispatch(socket: Path, triton_address: str) -> None:
    """The dispatcher's own process; prints its counts when it is told to end."""
    dispatcher = Dispatcher(triton_address, limits=Limits(tenant_concurrency_max=4_096))
    variants = (Variant(MODEL_INTERNAL, "1", "sha256:" + 64 * "0", 1),)
    dispatcher.use(
        RoutingTable.of(
            [
                Route(TENANT, MODEL, variants, batch_size_max=BATCH_SIZE_MAX, sample=0.01),
                Route(TENANT, MODEL_UNMERGED, variants, merge=False, sample=0.01),
            ]
        )
    )
    await dispatcher.start(socket)
    gc.collect()
    gc.freeze()
    print("ready", flush=True)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    await dispatcher.close(grace_s=5.0)
    snapshot = dispatcher.snapshot()
    print(
        json.dumps(
            {
                "series": [asdict(series) for series in snapshot.series.values()],
                "triton_requests": snapshot.triton_requests,
            }
        )
    )


def measure(folder: Path, arguments: argparse.Namespace) -> None:
    write_model(folder / "models" / MODEL_INTERNAL)
    write_frames(folder)
    key = Ed25519PrivateKey.generate()
    token = signed_token(key)
    triton = Triton(folder / "triton", control_key=CONTROL_KEY, repository=folder / "models")
    socket = folder / "dispatcher.sock"
    with triton, dispatcher_process(socket, triton.grpc_address) as dispatcher:
        with InferenceServerClient(triton.grpc_address) as client:
            client.load_model(MODEL_INTERNAL, headers={triton.control_header: CONTROL_KEY})
        port = free_ports(1)[0]
        config = folder / "envoy.json"
        config.write_text(json.dumps(envoy_config(port, socket, key)))
        with Envoy(config, folder / "envoy") as envoy:
            check_answers(triton.grpc_address, f"127.0.0.1:{port}", token)
            processes = {"triton": triton.pid, "dispatcher": dispatcher.pid, "envoy": envoy.pid}
            authorization = ["-H", f"authorization: Bearer {token}"]
            targets = {
                "raw": [f"http://{triton.grpc_address}{PATH}", "-d", str(folder / "raw")],
                "dispatcher": [f"http://dispatcher{PATH}", "-B", f"unix:{socket}", "-d",
                               str(folder / MODEL), "-H", f"x-basalt-tenant: {TENANT}"],
                "chain": [f"http://127.0.0.1:{port}{PATH}", "-d", str(folder / MODEL),
                          *authorization],
                "unmerged": [f"http://127.0.0.1:{port}{PATH}", "-d", str(folder / MODEL_UNMERGED),
                             *authorization],
            }  # fmt: skip
            chosen = {name: targets[name] for name in arguments.paths.split(",")}
            for in_flight in map(int, arguments.in_flight.split(",")):
                rounds = quiet_rounds(
                    arguments.rounds,
                    lambda flight=in_flight: {
                        name: load(target, flight, arguments.seconds, processes)
                        for name, target in chosen.items()
                    },
                )
                report(rounds, in_flight)


def quiet_rounds(count: int, measure_round: Callable[[], dict[str, Load]]) -> list[dict[str, Load]]:
    """The rounds that other work disturbed least."""
    rounds: list[dict[str, Load]] = []
    for _ in range(count * ATTEMPTS_A_ROUND):
        rounds.append(measure_round())
        rounds.sort(key=other_cores)
        if len(rounds) >= count and other_cores(rounds[count - 1]) <= OTHER_CORES_MAX:
            break
    return rounds[:count]


def other_cores(measured: dict[str, Load]) -> float:
    return max(each.other_cores for each in measured.values())


def write_model(folder: Path) -> None:
    """An MLP 30 → 64 → 2 with a softmax at its end."""
    random = np.random.default_rng(7)
    sizes = {"w1": (FEATURES, HIDDEN), "b1": (HIDDEN,), "w2": (HIDDEN, CLASSES), "b2": (CLASSES,)}
    weights = [
        numpy_helper.from_array(random.normal(size=size).astype(np.float32), name)
        for name, size in sizes.items()
    ]
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["z"]),
        helper.make_node("Softmax", ["z"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", FEATURES])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", CLASSES])
    graph = helper.make_graph(nodes, "mlp", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (folder / "1").mkdir(parents=True)
    onnx.save(model, folder / "1/model.onnx")
    (folder / "1/model.py").write_text(TRITON_MODEL)
    (folder / "config.pbtxt").write_text(f'name: "{folder.name}"\n{TRITON_CONFIG}')


def infer_request(model: str) -> ModelInferRequest:
    x = np.linspace(-1, 1, FEATURES, dtype=np.float32)
    request = ModelInferRequest(model_name=model, raw_input_contents=[x.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=[1, FEATURES])
    return request


def write_frames(folder: Path) -> None:
    for file, model in (("raw", MODEL_INTERNAL), (MODEL, MODEL), (MODEL_UNMERGED, MODEL_UNMERGED)):
        message = infer_request(model).SerializeToString()
        (folder / file).write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed_token(key: Ed25519PrivateKey) -> str:
    now = int(time.time())
    claims = {"iss": "basalt", "aud": "basalt", "sub": "bench", "tenant": TENANT,
              "iat": now, "exp": now + 3_600}  # fmt: skip
    parts = [{"alg": "EdDSA", "typ": "JWT", "kid": "bench"}, claims]
    signed = ".".join(base64url(json.dumps(part).encode()) for part in parts)
    return f"{signed}.{base64url(key.sign(signed.encode()))}"


@contextmanager
def dispatcher_process(socket: Path, triton_address: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, __file__, "--dispatch", str(socket), "--triton", triton_address]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        process.stdout.readline()  # Says that it listens.
        yield process
    finally:
        process.terminate()
        output, _ = process.communicate(timeout=15)
    counts = json.loads(output)
    requests = sum(series["requests"] for series in counts["series"])
    errors = sum(sum(series["errors"].values()) for series in counts["series"])
    # h2load breaks off what is in flight at the end of a run: those calls count as cancelled.
    line("dispatcher's calls a Triton request", requests / max(counts["triton_requests"], 1), "")
    line("dispatcher's calls without an answer", errors, f"of {requests}; ends of runs only")


def check_answers(raw: str, chain: str, token: str) -> None:
    """The chain's answer is Triton's, under the public name; without a token there is none."""
    metadata = (("authorization", f"Bearer {token}"),)
    with grpc.insecure_channel(raw) as channel:
        expected = GRPCInferenceServiceStub(channel).ModelInfer(infer_request(MODEL_INTERNAL))
    with grpc.insecure_channel(chain) as channel:
        stub = GRPCInferenceServiceStub(channel)
        for model in (MODEL, MODEL_UNMERGED):
            answer = stub.ModelInfer(
                infer_request(model), metadata=metadata, wait_for_ready=True, timeout=10
            )
            assert answer.raw_output_contents == expected.raw_output_contents
            assert (answer.model_name, answer.model_version) == (model, "1")
        try:
            stub.ModelInfer(infer_request(MODEL), timeout=10)
        except grpc.RpcError as error:
            refused = isinstance(error, grpc.Call) and error.code()
        else:
            refused = None
        assert refused is grpc.StatusCode.UNAUTHENTICATED


def load(target: list[str], in_flight: int, seconds: int, processes: dict[str, int]) -> Load:
    before = {name: cpu_s(pid) for name, pid in processes.items()}
    own_before, all_before, began = own_cpu_s(before), all_cpu_s(), time.monotonic()
    command = [
        "h2load", "-D", str(seconds), "--warm-up-time", str(WARM_UP_S), "-c", str(CONNECTIONS),
        "-m", str(in_flight // CONNECTIONS), "-H", "content-type: application/grpc",
        "-H", "te: trailers", *target,
    ]  # fmt: skip
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    after = {name: cpu_s(pid) for name, pid in processes.items()}
    others_s = (all_cpu_s() - all_before) - (own_cpu_s(after) - own_before)
    other = max(others_s / (time.monotonic() - began), 0.0)
    rate = re.search(r"finished in [\d.]+\w+, ([\d.]+) req/s", output)
    statuses = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", output)
    times = re.search(r"time for request: +\S+ +\S+ +([\d.]+)(\w+)", output)
    assert rate, output
    assert statuses, output
    assert times, output
    assert not any(map(int, statuses.groups()[1:])), output
    # The CPU time is of the warm-up too, so it is divided by all that was done.
    done = float(rate[1]) * (seconds + WARM_UP_S)
    unit = {"us": 1e-3, "ms": 1.0, "s": 1e3}[times[2]]
    return Load(
        float(rate[1]),
        float(times[1]) * unit,
        {name: 1e6 * (after[name] - before[name]) / done for name in processes},
        other,
    )


def cpu_s(pid: int) -> float:
    """Of a process and its living children: Triton's model runs in one."""
    process = psutil.Process(pid)
    times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def all_cpu_s() -> float:
    times = psutil.cpu_times()
    return times.user + times.nice + times.system


def own_cpu_s(servers: dict[str, float]) -> float:
    """Of the servers, of this process, and of every h2load that has ended."""
    own = psutil.Process().cpu_times()
    h2load = resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(servers.values()) + own.user + own.system + h2load.ru_utime + h2load.ru_stime


def report(rounds: list[dict[str, Load]], in_flight: int) -> None:
    other = other_cores(rounds[-1])
    line(f"cores of other work@{in_flight}", other, f"at most {OTHER_CORES_MAX} for a fair round")
    for name in rounds[0]:
        loads = [each[name] for each in rounds]
        what = f"{name}@{in_flight}"
        line(f"{what} requests/s", statistics.median(each.requests_per_s for each in loads), "")
        line(
            f"{what} latency ms, mean",
            statistics.median(each.latency_ms_mean for each in loads),
            "",
        )
        for process in loads[0].cpu_us:
            used = statistics.median(each.cpu_us[process] for each in loads)
            if used >= 1:
                line(f"{what} CPU µs a request, {process}", used, "")
        if name != "raw" and "raw" in rounds[0]:
            ratios = [each[name].requests_per_s / each["raw"].requests_per_s for each in rounds]
            aim = AIMS.get(what)
            compared = f"raw Triton = 1 ({min(ratios):.2f} to {max(ratios):.2f})"
            line(
                f"{what} RATIO",
                statistics.median(ratios),
                compared + (f"; aim {aim}" if aim else ""),
            )


def line(what: str, value: float, compared: str) -> None:
    print(f"{what:44} {value:12,.2f}  {compared}".rstrip(), flush=True)


def envoy_config(port: int, socket: Path, key: Ed25519PrivateKey) -> dict[str, object]:
    """A door with its guards on: token, claims to headers, rate limit."""
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    jwks = {"keys": [{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": "bench",
                      "use": "sig", "x": base64url(public)}]}  # fmt: skip
    filters = "type.googleapis.com/envoy.extensions.filters.http"
    jwt = {
        "@type": f"{filters}.jwt_authn.v3.JwtAuthentication",
        "providers": {
            "basalt": {
                "issuer": "basalt",
                "audiences": ["basalt"],
                "local_jwks": {"inline_string": json.dumps(jwks)},
                "claim_to_headers": [
                    {"header_name": "x-basalt-tenant", "claim_name": "tenant"},
                    {"header_name": "x-basalt-subject", "claim_name": "sub"},
                ],
                "jwt_cache_config": {"jwt_cache_size": 1_000},
            }
        },
        "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "basalt"}}],
    }
    bucket = {"max_tokens": 1_000_000, "tokens_per_fill": 1_000_000, "fill_interval": "1s"}
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    rate_limit = {
        "@type": f"{filters}.local_ratelimit.v3.LocalRateLimit",
        "stat_prefix": "calls",
        "token_bucket": bucket,
        "filter_enabled": always,
        "filter_enforced": always,
    }
    http = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network."
        "http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "door",
        "codec_type": "HTTP2",
        "generate_request_id": False,
        # Each timer of a stream costs Envoy about 3 µs a request; the dispatcher keeps deadlines.
        "stream_idle_timeout": "0s",
        "server_header_transformation": "PASS_THROUGH",
        "http2_protocol_options": {"max_concurrent_streams": 1_024},
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {
                            "match": {"path": PATH},
                            "route": {"cluster": "dispatcher", "timeout": "0s"},
                        }
                    ],
                }
            ],
        },
        "http_filters": [
            {"name": "jwt", "typed_config": jwt},
            {"name": "limit", "typed_config": rate_limit},
            {
                "name": "router",
                "typed_config": {
                    "@type": f"{filters}.router.v3.Router",
                    "suppress_envoy_headers": True,
                    "dynamic_stats": False,
                },
            },
        ],
    }
    cluster = {
        "name": "dispatcher",
        "type": "STATIC",
        "connect_timeout": "1s",
        "circuit_breakers": {
            "thresholds": [{"max_requests": 4_096, "max_pending_requests": 4_096}]
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3."
                "HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "load_assignment": {
            "cluster_name": "dispatcher",
            "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": str(socket)}}}}]}
            ],
        },
    }
    listener = {
        "name": "door",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": http}]}],
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


if __name__ == "__main__":
    main()
