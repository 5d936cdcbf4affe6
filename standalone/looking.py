"""What of an installation answers, seen from outside: for when the platform itself cannot tell."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from libs.common.history import read
from standalone.home import Home
from standalone.processes import Process, lay_out
from tools.servers.errors import ServerError


def problems(root: Path) -> dict[str, str]:
    """Each process of the installation with what is wrong with it; "" when it answers."""
    home = Home(root)
    if not home.has_ports():
        return {}
    try:
        processes = lay_out(home).processes
    except ServerError as error:
        return {"installation": f"{error.what}. Next: {error.next_step}."}
    with ThreadPoolExecutor(len(processes)) as pool:
        return dict(
            zip(
                (process.name for process in processes),
                pool.map(_problem, processes),
                strict=True,
            )
        )


def happened(root: Path, count_max: int) -> list[dict[str, Any]]:
    """What happened to the installation, newest first, whether or not it runs; for the client."""
    return [asdict(each) for each in read(Home(root).history, count_max)]


def _problem(process: Process) -> str:
    return "" if process.answers() else f"It does not answer; its log: {process.log}."
