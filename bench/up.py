"""From nothing to the first prediction, and what each process holds in memory.

    python -m bench.up                       three rounds, about three minutes
    python -m bench.up --rounds 1

One line a figure: name, value, what it is compared with. Seconds are by the clock, from the start
of the command `basalt up` on, its Python included; the servers it is compared with are started
side by side, in turns with it. The model in service is the hospital's, trained before.

    new            the folder is empty: Kafka formats its storage, keys and secrets are made
    again          the folder is there, with a deployed model, which Triton loads again
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from apps.hospital import measurements
from apps.hospital.chapters import records, release, training
from apps.hospital.people import introduced
from apps.hospital.stage import Stage
from apps.hospital.story import MODEL, Story
from basalt import connect
from basalt.errors import BasaltError
from tools.servers import Envoy, Kafka, Server, Triton
from tools.servers.ports import free_ports

ROUNDS = 3
STOP_S_MAX = 30.0
FIRST_PREDICTION_S_MAX = 120.0
TRY_AGAIN_S = 0.02
MIB = 1024 * 1024


@dataclass
class Platform:
    """A running `basalt up`; `began` is when the command was started."""

    process: subprocess.Popen[str]
    said: dict[str, Any]
    began: float
    ready_s: float


@contextmanager
def up(home: Path, *options: str) -> Iterator[Platform]:
    basalt = str(Path(sys.executable).with_name("basalt"))
    began = time.perf_counter()
    with subprocess.Popen(
        [basalt, "up", "--json", "--home", str(home), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"The platform did not come up; its logs lie in {home / 'logs'}.")
        try:
            yield Platform(process, json.loads(line), began, time.perf_counter() - began)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(STOP_S_MAX)


def servers_alone(folder: Path) -> float:
    """Seconds until Kafka, Triton and Envoy serve, without anything of ours."""
    folder.mkdir(exist_ok=True)
    config = folder / "envoy.json"
    config.write_text("{}")
    began = time.perf_counter()
    servers: list[Server] = [
        Kafka(folder / "kafka"),
        Triton(folder / "triton"),
        Envoy(config, folder / "envoy"),
    ]
    with ThreadPoolExecutor(len(servers)) as pool:
        list(pool.map(Server.start, servers))
        took = time.perf_counter() - began
        list(pool.map(Server.stop, servers))
    return took


async def put_in_service(platform: Platform) -> str:
    """The story up to its release. Returns the application's key."""
    stage = Stage(Console(quiet=True))
    patients, held_out = measurements.load()
    door, kafka = platform.said["door"], platform.said["kafka"]
    async with introduced(door, Path(platform.said["first_login"])) as people:
        story = Story(stage, people, door, kafka, patients, held_out)
        for chapter in (records, training, release):
            await chapter.tell(story)
        return people.application_key


def first_prediction_s(platform: Platform, key: str) -> float:
    """Seconds from the start of `basalt up` to the first answer of the model."""
    _, held_out = measurements.load()
    with connect(platform.said["door"], token=key, timeout_s=FIRST_PREDICTION_S_MAX) as client:
        while True:
            try:
                client.load_model(MODEL).predict(held_out.values[0])
            except BasaltError as error:
                # A model that is still being loaded is not in service yet.
                if time.perf_counter() - platform.began > FIRST_PREDICTION_S_MAX:
                    raise SystemExit(f"No prediction: {error}") from error
                time.sleep(TRY_AGAIN_S)
            else:
                return time.perf_counter() - platform.began


def memory(platform: Platform) -> dict[str, tuple[float, float]]:
    """MiB of each process, with its own children: resident, and its share of what is shared."""
    supervisor = psutil.Process(platform.process.pid)
    held = {"basalt up": _held(supervisor)}
    for child in supervisor.children():
        family = [child, *child.children(recursive=True)]
        sizes = [_held(each) for each in family]
        held[_name(child)] = (sum(rss for rss, _ in sizes), sum(pss for _, pss in sizes))
    return held


def _held(process: psutil.Process) -> tuple[float, float]:
    sizes = process.memory_full_info()
    return sizes.rss / MIB, sizes.pss / MIB


def _name(process: psutil.Process) -> str:
    words = process.cmdline()
    if "-m" in words:
        module = words[words.index("-m") + 1]
        return module.rpartition(".")[2]
    return "kafka" if "kafka.Kafka" in words else Path(words[0]).name.removesuffix("server")


def measure(rounds: int, folder: Path) -> None:
    alone, new, again, predicted = [], [], [], []
    home = folder / "home"
    door, kafka = free_ports(2)
    with up(home, "--port", str(door), "--kafka-port", str(kafka)) as platform:
        new.append(platform.ready_s)
        key = asyncio.run(put_in_service(platform))
        held = memory(platform)
    for number in range(rounds):
        alone.append(servers_alone(folder / f"servers-{number}"))
        with up(home) as platform:
            again.append(platform.ready_s)
            predicted.append(first_prediction_s(platform, key))
        if number:
            door, kafka = free_ports(2)
            fresh = folder / f"new-{number}"
            with up(fresh, "--port", str(door), "--kafka-port", str(kafka)) as platform:
                new.append(platform.ready_s)
    report(alone, new, again, predicted, held)


def report(
    alone: list[float],
    new: list[float],
    again: list[float],
    predicted: list[float],
    held: dict[str, tuple[float, float]],
) -> None:
    servers_s = statistics.median(alone)
    for name, values in (
        ("basalt up → ready, new           ", new),
        ("basalt up → ready, again         ", again),
        ("basalt up → first prediction     ", predicted),
    ):
        ours_s = statistics.median(values)
        print(
            f"{name} {ours_s:6.1f} s"
            f"   Kafka, Triton and Envoy alone {servers_s:.1f} s   ratio {ours_s / servers_s:.2f}"
        )
    total_rss = sum(rss for rss, _ in held.values())
    total_pss = sum(pss for _, pss in held.values())
    for name, (rss, pss) in sorted(held.items(), key=lambda each: -each[1][1]):
        share = f"its share of all {pss / total_pss:4.0%}"
        print(f"memory of {name:<23} {rss:6.0f} MiB   proportional {pss:.0f} MiB, {share}")
    machine = psutil.virtual_memory().total / MIB
    print(
        f"memory of everything              {total_rss:6.0f} MiB"
        f"   proportional {total_pss:.0f} MiB, of this machine's {machine:.0f} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="From nothing to the first prediction.")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="basalt-bench-") as folder:
        measure(options.rounds, Path(folder))


if __name__ == "__main__":
    main()
