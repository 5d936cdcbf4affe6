"""How fast the door is: raw Triton against Envoy, the dispatcher and Triton in a chain.

    python -m bench.gateway                 three rounds, about three minutes
    python -m bench.gateway --rounds 1 --seconds 4 --paths raw,dispatcher

One line a figure: what, its value, what it is compared with. Only ratios within a round count: the
speed of a shared machine drifts. h2load counts HTTP 200s, so the answers are checked apart, and the
dispatcher's own count of errors has to be zero.
"""

import argparse
import asyncio
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
from joserfc import jwt
from joserfc.jwk import OKPKey
from onnx import TensorProto, helper, numpy_helper
from tritonclient.grpc import InferenceServerClient

from libs.common.identity import AUDIENCE, ISSUER, TokenAlgorithms
from libs.common.pb.inference.grpc_inference_service_pb2 import ModelInferRequest
from libs.common.pb.inference.grpc_inference_service_pb2_grpc import GRPCInferenceServiceStub
from libs.common.policy import Policy
from services.gateway import dispatcher
from services.gateway.core.envoy.clusters import DISPATCHER_SOCKET
from services.gateway.core.envoy.configuration import render
from services.gateway.core.envoy.inputs import Access, Inputs
from services.gateway.core.limits import Limits
from services.gateway.core.site import SERVICES, site
from services.gateway.dispatcher import Dispatcher, Route, RoutingTable, Variant
from tools.servers import Envoy, Triton
from tools.servers.ports import free_ports

FEATURES, HIDDEN, CLASSES = 30, 64, 2
BATCH_SIZE_MAX = 64
TENANT = "acme"
MODEL, MODEL_UNMERGED, MODEL_INTERNAL = "mlp", "mlp-unmerged", "mlp"
CONTROL_KEY = "bench"
CONNECTIONS = 8
WARM_UP_S = 2
REQUESTS_PER_S_MAX = 1_000_000
IN_FLIGHT_MAX = 4_096
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
    running = Dispatcher(
        triton_address, limits=dispatcher.Limits(tenant_concurrency_max=IN_FLIGHT_MAX)
    )
    variants = (Variant(MODEL_INTERNAL, "1", "sha256:" + 64 * "0", 1),)
    running.use(
        RoutingTable.of(
            [
                Route(TENANT, MODEL, variants, batch_size_max=BATCH_SIZE_MAX, sample=0.01),
                Route(TENANT, MODEL_UNMERGED, variants, merge=False, sample=0.01),
            ]
        )
    )
    await running.start(socket)
    gc.collect()
    gc.freeze()
    print("ready", flush=True)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    await running.close(grace_s=5.0)
    snapshot = running.snapshot()
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
    key = OKPKey.generate_key("Ed25519", {"kid": "bench", "alg": "EdDSA", "use": "sig"})
    token = signed_token(key)
    triton = Triton(folder / "triton", control_key=CONTROL_KEY, repository=folder / "models")
    socket = folder / DISPATCHER_SOCKET
    with triton, dispatcher_process(socket, triton.grpc_address) as dispatching:
        with InferenceServerClient(triton.grpc_address) as client:
            client.load_model(MODEL_INTERNAL, headers={triton.control_header: CONTROL_KEY})
        port = free_ports(1)[0]
        config = folder / "envoy.json"
        config.write_text(door_config(folder, port, key))
        with Envoy(config, folder / "envoy") as envoy:
            check_answers(triton.grpc_address, f"127.0.0.1:{port}", token)
            processes = {"triton": triton.pid, "dispatcher": dispatching.pid, "envoy": envoy.pid}
            authorization = ["-H", f"authorization: Bearer {token}"]
            targets = {
                "raw": [f"http://triton{PATH}", "-B", triton.grpc_address, "-d",
                        str(folder / "raw")],
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
                for name, target in chosen.items():
                    report_latency(name, target, in_flight, arguments.seconds, folder / "log")


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


def signed_token(key: OKPKey) -> str:
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "bench",
        "tenant": TENANT,
        "roles": ["application"],
        "use": "user",
        "jti": "bench",
        "exp": int(time.time()) + 3_600,
    }
    return jwt.encode({"alg": "EdDSA", "kid": "bench"}, claims, key, registry=TokenAlgorithms())


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
    output = h2load(target, in_flight, seconds)
    after = {name: cpu_s(pid) for name, pid in processes.items()}
    others_s = (all_cpu_s() - all_before) - (own_cpu_s(after) - own_before)
    other = max(others_s / (time.monotonic() - began), 0.0)
    rate = re.search(r"finished in [\d.]+\w+, ([\d.]+) req/s", output)
    times = re.search(r"time for request: +\S+ +\S+ +([\d.]+)(\w+)", output)
    assert rate, output
    assert times, output
    # The CPU time is of the warm-up too, so it is divided by all that was done.
    done = float(rate[1]) * (seconds + WARM_UP_S)
    unit = {"us": 1e-3, "ms": 1.0, "s": 1e3}[times[2]]
    return Load(
        float(rate[1]),
        float(times[1]) * unit,
        {name: 1e6 * (after[name] - before[name]) / done for name in processes},
        other,
    )


def report_latency(name: str, target: list[str], in_flight: int, seconds: int, log: Path) -> None:
    """Of every request of one more run: writing them down takes time, so the rates are above."""
    began_us = (time.time() + WARM_UP_S) * 1e6
    log.unlink(missing_ok=True)
    h2load(target, in_flight, seconds, f"--log-file={log}")
    starts_us, _, taken_us = np.loadtxt(log, delimiter="\t", usecols=(0, 1, 2)).T
    measured = taken_us[starts_us >= began_us] / 1e3
    for percentile in (50, 99):
        value = float(np.percentile(measured, percentile))
        line(f"{name}@{in_flight} latency ms, p{percentile}", value, f"of {len(measured)} requests")


def h2load(target: list[str], in_flight: int, seconds: int, *options: str) -> str:
    """What it prints. Fails when an answer was no HTTP 200."""
    command = [
        "h2load", "-D", str(seconds), "--warm-up-time", str(WARM_UP_S), "-c", str(CONNECTIONS),
        "-m", str(in_flight // CONNECTIONS), "-H", "content-type: application/grpc",
        "-H", "te: trailers", *options, *target,
    ]  # fmt: skip
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    statuses = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", output)
    assert statuses, output
    assert not any(map(int, statuses.groups()[1:])), output
    return output


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


def door_config(folder: Path, port: int, key: OKPKey) -> str:
    """The gateway's own, whole: token, revocations, roles, rate limit, routes of every service."""
    nowhere = "127.0.0.1:9"
    public = {name: str(value) for name, value in key.as_dict(private=False).items()}
    limits = Limits(requests_per_second=REQUESTS_PER_S_MAX, requests_in_flight_max=IN_FLIGHT_MAX)
    inputs = Inputs(
        site=site(
            listen=f"127.0.0.1:{port}",
            folder=str(folder),
            slow_grpc=nowhere,
            slow_rest=nowhere,
            peers=dict.fromkeys(SERVICES.values(), nowhere),
            policy=Policy.load(),
            tls=None,
            mutual_tls="",
        ),
        access=Access(version=1, keys=(public,), tenants=(TENANT,)),
        limits={TENANT: limits.effective()},
    )
    return render(inputs).whole


if __name__ == "__main__":
    main()
