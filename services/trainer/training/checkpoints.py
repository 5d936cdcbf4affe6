"""Where training can go on from: weights, optimiser, random state and position, as safetensors.

A checkpoint is moved into place whole. It names the order that it belongs to; another's is ignored.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from services.trainer.training.report import Report


@dataclass(frozen=True, slots=True)
class Position:
    """The next batch to train on."""

    epoch: int = 0
    batch: int = 0


@dataclass(slots=True)
class Checkpoints:
    """`order` is a digest of everything that the result depends on."""

    folder: Path
    order: str
    every_s: float
    report: Report
    _saved_at: float = field(default_factory=time.monotonic)

    @property
    def due(self) -> bool:
        return time.monotonic() - self._saved_at >= self.every_s

    def save(
        self, step: str, network: nn.Module, optimizer: torch.optim.Optimizer, position: Position
    ) -> None:
        tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
        tensors["random"] = torch.get_rng_state()
        self._write(
            _progress_file(step), tensors, f"{self.order} {position.epoch} {position.batch}"
        )
        self._saved_at = time.monotonic()

    def restore(self, step: str, network: nn.Module, optimizer: torch.optim.Optimizer) -> Position:
        """Brings all back to where it was; the beginning when there is nothing to go on from."""
        found = self._read(_progress_file(step))
        if found is None:
            return Position()
        tensors, (_, epoch, batch) = found
        network.load_state_dict(_under("network.", tensors))
        groups = optimizer.state_dict()["param_groups"]
        state: dict[int, dict[str, Tensor]] = {}
        for path, value in _under("optimizer.", tensors).items():
            index, _, name = path.partition(".")
            state.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": state, "param_groups": groups})
        torch.set_rng_state(tensors["random"])
        self.report.log(f"{step}: going on from epoch {epoch}, batch {batch}.")
        return Position(int(epoch), int(batch))

    def save_fitted(self, step: str, network: nn.Module) -> None:
        """The final weights of a step. The progress towards them is of no more use."""
        self._write(fitted_file(step), network.state_dict(), f"{self.order} done done")

    def restore_fitted(self, step: str, network: nn.Module) -> bool:
        found = self._read(fitted_file(step))
        if found is None:
            return False
        network.load_state_dict(found[0])
        return True

    def _write(self, name: str, tensors: Mapping[str, Tensor], about: str) -> None:
        # One key only: with several, their order and so the file's digest would be by chance.
        content = save(
            {path: value.contiguous() for path, value in tensors.items()}, {"basalt": about}
        )
        partial = self.folder / f"{name}.writing"
        # Not synced: it has to outlive this process. To outlive the machine it goes to the objects.
        partial.write_bytes(content)
        partial.replace(self.folder / name)
        self.report.checkpoint(name)

    def _read(self, name: str) -> tuple[dict[str, Tensor], list[str]] | None:
        try:
            with safe_open(self.folder / name, framework="pt") as file:
                about = (file.metadata() or {}).get("basalt", "").split(" ")
                if about[0] != self.order:
                    self.report.log(f"{name} belongs to another order and is not used.")
                    return None
                return {path: file.get_tensor(path) for path in file.keys()}, about  # noqa: SIM118 - not a dict.
        except FileNotFoundError:
            return None
        except SafetensorError as error:
            self.report.log(f"{name} cannot be read ({error}): beginning anew.")
            return None


def fitted_file(step: str) -> str:
    return f"{step}.safetensors"


def _progress_file(step: str) -> str:
    return f"{step}.progress.safetensors"


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        path.removeprefix(prefix): value
        for path, value in tensors.items()
        if path.startswith(prefix)
    }
