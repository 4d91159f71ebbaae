"""A run: the folder of one verb, with its config, metrics, checkpoints and summary.

``config.yaml`` as resolved, ``metrics.jsonl`` (one JSON object a line), ``tensorboard/``, ``checkpoint/`` and, once
done, ``summary.json``. The same command goes on where it was; a finished run is not done twice; a run of other settings
in the same folder is refused.
"""

from __future__ import annotations

import contextlib
import json
import math
import pickle
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from diwa_runtime.config import to_plain, to_yaml
from diwa_runtime.errors import ConfigError, InputError, StorageError
from diwa_runtime.files import remove_orphans, written_whole

CONFIG, METRICS, SUMMARY, CHECKPOINT = "config.yaml", "metrics.jsonl", "summary.json", "checkpoint"


@dataclass
class TrainState:
    """All that must survive a crash: named networks, optimisers, generators and the step."""

    modules: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]
    generator: torch.Generator
    numpy_rng: np.random.Generator
    step: int = 0
    extra: dict[str, Any] = field(default_factory=dict)


class Run:
    """The folder of one verb while it runs; use as a context manager.

    Attributes:
        interrupted: Ctrl-C was pressed; the loop ends at the next whole step.
    """

    def __init__(self, folder: Path, config: Any, inputs: Mapping[str, str] | None = None) -> None:
        """Open or make the run.

        Args:
            folder: the run folder.
            config: the verb's config, kept in ``config.yaml``.
            inputs: sha256 or other fingerprints of what the run is made from, by name; part of the run's identity.

        Raises:
            ConfigError: the folder holds a run of other settings; names the first that differs.
        """
        self.folder = Path(folder)
        self.config = config
        self.inputs = dict(inputs or {})
        self.interrupted = False
        self._started = time.monotonic()

    def __enter__(self) -> Run:
        self._check_same_run()
        remove_orphans(self.folder)
        if not (self.folder / CONFIG).exists():
            text = to_yaml(self.config)
            write_json(self.folder / "inputs.json", self.inputs)
            with written_whole(self.folder / CONFIG) as temporary:
                temporary.write_text(text)
        self._handler = signal.signal(signal.SIGINT, self._on_interrupt)
        self._tensorboard = SummaryWriter(str(self.folder / "tensorboard"))
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._handler)
        self._tensorboard.close()

    @property
    def is_done(self) -> bool:
        """Whether the run has ended well before."""
        return (self.folder / SUMMARY).exists()

    @property
    def seconds(self) -> float:
        """Seconds since this process opened the run."""
        return time.monotonic() - self._started

    def log(self, step: int, metrics: Mapping[str, float], *, show: str = "") -> None:
        """Append a line of metrics; `show` is printed beside the step for the person who waits.

        Raises:
            StorageError: the disk is full.
        """
        line = {"step": step} | {k: (v if math.isfinite(v) else None) for k, v in metrics.items()}
        try:
            with (self.folder / METRICS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise StorageError(
                f"{self.folder / METRICS}: could not be written ({error.strerror}); free some disk"
            ) from error
        for name, value in metrics.items():
            self._tensorboard.add_scalar(name, value, step)
        if show:
            print(f"[{self.folder.name}] {show}", flush=True)

    def save(self, state: TrainState) -> None:
        """Write a checkpoint whole or not at all; the one before it stays until the new one stands."""
        weights = {
            f"{name}/{key}": value.detach().clone().contiguous()
            for name, module in state.modules.items()
            for key, value in module.state_dict().items()
        }
        rest = {
            "step": state.step,
            "optimizers": {name: optimizer.state_dict() for name, optimizer in state.optimizers.items()},
            "generator": state.generator.get_state(),
            "numpy_rng": json.dumps(state.numpy_rng.bit_generator.state),
            "extra": state.extra,
            "metrics_bytes": self._metrics_bytes(),
        }
        with written_whole(self.folder / f"{CHECKPOINT}_{state.step}") as temporary:
            temporary.mkdir(parents=True)
            save_file(weights, temporary / "weights.safetensors")
            torch.save(rest, temporary / "state.pt")
        for older in self._checkpoints()[:-1]:
            shutil.rmtree(older)

    def restore(self, state: TrainState) -> bool:
        """Bring `state` to the newest checkpoint; False when there is none. Metrics logged after it are cut off.

        Raises:
            InputError: the checkpoint is damaged or of another network.
        """
        checkpoints = self._checkpoints()
        if not checkpoints:
            self._cut_metrics(0)
            return False
        folder = checkpoints[-1]
        try:
            weights = load_file(folder / "weights.safetensors")
            rest = torch.load(folder / "state.pt", weights_only=True)
            for name, module in state.modules.items():
                prefix = f"{name}/"
                own = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
                module.load_state_dict(own)
            for name, optimizer in state.optimizers.items():
                optimizer.load_state_dict(rest["optimizers"][name])
            state.generator.set_state(rest["generator"])
            state.numpy_rng.bit_generator.state = json.loads(rest["numpy_rng"])
            state.step, state.extra = rest["step"], rest["extra"]
        except (
            SafetensorError,
            pickle.UnpicklingError,
            RuntimeError,
            OSError,
            KeyError,
            ValueError,
            EOFError,
        ) as error:
            reason = str(error).splitlines()[0][:120]
            raise InputError(f"{folder}: cannot be resumed from ({reason}); delete that folder to start over") from None
        self._cut_metrics(rest["metrics_bytes"])
        print(f"[{self.folder.name}] goes on at step {state.step}", flush=True)
        return True

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the summary: from now on the run is done. Drop the checkpoint, which has served."""
        write_json(self.folder / SUMMARY, dict(summary))
        for folder in self._checkpoints():
            shutil.rmtree(folder)

    def summary(self) -> dict[str, Any]:
        """Return what `finish` wrote."""
        return json.loads((self.folder / SUMMARY).read_text())

    def stop_if_interrupted(self, state: TrainState) -> None:
        """End the process's work at a whole step after Ctrl-C, with a checkpoint.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed.
        """
        if self.interrupted:
            self.save(state)
            raise KeyboardInterrupt(f"step {state.step} is saved in {self.folder}; the same command goes on from it")

    def _on_interrupt(self, _signal: int, _frame: FrameType | None) -> None:
        if self.interrupted:
            raise KeyboardInterrupt("interrupted twice; the last checkpoint stands")
        self.interrupted = True
        print("interrupted: saving at the end of this step (again to stop at once)", file=sys.stderr, flush=True)

    def _check_same_run(self) -> None:
        path = self.folder / CONFIG
        if not path.exists():
            return
        try:
            before = yaml.safe_load(path.read_text())
            inputs = json.loads((self.folder / "inputs.json").read_text())
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise InputError(f"{path}: cannot be read ({error}); delete {self.folder} to start over") from None
        for name, value in _flat(to_plain(self.config)).items():
            if name != "output" and _flat(before).get(name) != value:
                raise ConfigError(
                    f"{self.folder}: holds a run with {name} = {_flat(before).get(name)!r}, now it is {value!r}; "
                    "choose another output folder or delete this one"
                )
        for name, value in self.inputs.items():
            if inputs.get(name) != value:
                raise ConfigError(f"{self.folder}: was made from another {name}; choose another output or delete it")

    def _checkpoints(self) -> list[Path]:
        found = [path for path in self.folder.glob(f"{CHECKPOINT}_*") if path.name.rpartition("_")[2].isdigit()]
        return sorted(found, key=lambda path: int(path.name.rpartition("_")[2]))

    def _metrics_bytes(self) -> int:
        path = self.folder / METRICS
        return path.stat().st_size if path.exists() else 0

    def _cut_metrics(self, size: int) -> None:
        path = self.folder / METRICS
        if path.exists():
            with path.open("r+b") as file:
                file.truncate(min(size, path.stat().st_size))


@contextlib.contextmanager
def intra_op_threads(threads: int) -> Iterator[None]:
    """Use that many intra-op threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def make_state(modules: dict[str, nn.Module], optimizers: dict[str, torch.optim.Optimizer], seed: int) -> TrainState:
    """Build a `TrainState` with both generators seeded."""
    return TrainState(modules, optimizers, torch.Generator().manual_seed(seed), np.random.default_rng(seed))


def cosine(start: float, final_fraction: float, progress: float) -> float:
    """Fall from `start` to `start * final_fraction` along half a cosine as `progress` goes from 0 to 1."""
    return start * (final_fraction + (1 - final_fraction) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


def write_json(path: Path, data: Any) -> None:
    """Write plain data as JSON, whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def _flat(data: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(data, dict):
        return {prefix: data}
    out: dict[str, Any] = {}
    for key, value in data.items():
        out |= _flat(value, f"{prefix}.{key}".lstrip("."))
    return out
