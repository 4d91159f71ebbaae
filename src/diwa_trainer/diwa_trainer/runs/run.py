"""A run: the folder of one verb, with its config, metrics, checkpoints and summary.

``config.yaml`` as resolved, ``inputs.json``, ``metrics.jsonl`` (one JSON object a line), ``tensorboard/``,
``checkpoint_STEP/`` and, once done, ``summary.json``. The same command goes on where it was; a finished run is not done
twice; a run of other settings, or a second process, in the same folder is refused.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import io
import json
import math
import os
import pickle
import re
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save as to_safetensors
from torch import nn

from diwa_runtime.config import read_yaml, to_plain, to_yaml
from diwa_runtime.config.values import choices_of, fields_of
from diwa_runtime.errors import ConfigError, DiwaError, InputError, StorageError, one_line
from diwa_runtime.files import contents, make_folder, remove_orphans, written_whole
from diwa_runtime.reading import read_bytes, read_json, reason_of
from diwa_trainer.devices.ranks import ALONE, Share
from diwa_trainer.runs.artifacts import WEIGHTS_LIMIT_BYTES, from_safetensors
from diwa_trainer.runs.event_file import EventFile
from diwa_trainer.runs.finite import not_finite
from diwa_trainer.runs.result_files import FORMAT_VERSION, METRICS, SUMMARY, read_result

CONFIG, INPUTS = "config.yaml", "inputs.json"
TENSORBOARD = "tensorboard"
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
CHECKPOINT, WEIGHTS, STATE = "checkpoint", "weights.safetensors", "state.pt"
_WRITTEN_WHOLE = re.compile(
    rf"{CHECKPOINT}_\d+|{re.escape(CONFIG)}|"
    r"(inputs|summary|data|eyes|open_loop|reward|preflight|verdict|evaluation|comparison)\.json|"
    r"(eyes|world_model|policy|reward)\.safetensors|seen\.npy|worst_\d+\.png|open_loop\.mp4|seed_\d+\.mp4"
)
"""Names of what a run writes under a temporary name first."""
_SUBFOLDER = re.compile(r"videos|iteration_\d+")
SEEDS = (0, 2**32 - 1)
"""Bounds of a seed: what every generator of random numbers takes."""

# What the readers of damaged or hostile bytes raise. None of them runs what it reads.
_UNREADABLE = (
    SafetensorError, pickle.UnpicklingError, OSError, EOFError, RuntimeError, MemoryError, RecursionError,
    LookupError, TypeError, ValueError, AttributeError, AssertionError, OverflowError,
)  # fmt: skip


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
        interrupted: Ctrl-C was pressed, or SIGTERM came; the loop ends at the next whole step.
    """

    def __init__(
        self, folder: Path, config: Any, inputs: Mapping[str, str] | None = None, share: Share = ALONE
    ) -> None:
        """Open or make the run.

        Args:
            folder: the run folder.
            config: the verb's config, kept in ``config.yaml``.
            inputs: sha256 or other fingerprints of what the run is made from, by name; part of the run's identity.
            share: this process's, where many learn as one: the first writes, all of them read and end together.

        Raises:
            ConfigError: the folder holds a run of other settings; names the first that differs.
            InputError: it holds anything else; nothing in it is touched.
        """
        self.folder = Path(folder)
        self.config = config
        self.inputs = dict(inputs or {})
        self.interrupted = False
        self.share = share
        self._started = time.monotonic()
        self._seconds_before = 0.0
        self._lock: int | None = None
        self._events: EventFile | None = None

    def __enter__(self) -> Run:
        self._check_ours()
        if self.is_done:
            read_result(self.folder / SUMMARY)  # what cannot be read is not to be taken for done
        if self.is_done or self._checkpoints():
            self._check_same_run()
        done = self.is_done
        self.share.wait()  # until every process has looked
        if not done and self.share.is_first:
            try:
                self._begin()
            except BaseException:
                self._release()
                raise
        self.share.wait()
        self._handlers = {number: signal.signal(number, self._on_interrupt) for number in STOP_SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.share.wait()  # the first is the last to be done
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._release()
        if self._events is not None:
            self._events.close()
        if self.interrupted and error is None:
            raise KeyboardInterrupt(f"{self.folder} is done; the same command goes on after it")

    @property
    def is_done(self) -> bool:
        """Whether the run has ended well before."""
        return (self.folder / SUMMARY).exists()

    @property
    def seconds(self) -> float:
        """Seconds that went into the run, those before a resumed checkpoint included."""
        return self._seconds_before + time.monotonic() - self._started

    def check_finite(self, verb: str, step: int, metrics: Mapping[str, float]) -> None:
        """Refuse to go on from an update whose loss or gradient is no number; the last checkpoint stands.

        Raises:
            DiwaError: one of `metrics` is not finite; names verb, update and metric.
        """
        if (name := not_finite(metrics)) is not None:
            raise DiwaError(
                f"{self.folder}: {verb} has diverged, {name} of update {step} is {metrics[name]}; "
                "lower the learning rate, and choose another output folder or delete this one"
            )

    def log(self, step: int, metrics: Mapping[str, float], *, show: str = "") -> None:
        """Append a line of metrics; `show` is printed beside the step for the person who waits.

        Raises:
            StorageError: the disk is full.
        """
        if not self.share.is_first:
            return
        line = {"step": step} | {k: (v if math.isfinite(v) else None) for k, v in metrics.items()}
        try:
            with (self.folder / METRICS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            if self._events is None:
                self._events = EventFile(self.folder / TENSORBOARD, step)
            self._events.write(step, metrics)
        except OSError as error:
            raise _disk_refused(self.folder / METRICS, error) from error
        if show:
            tell(self.folder, show)

    def save(self, state: TrainState) -> None:
        """Write a checkpoint whole or not at all; the one before it stays until the new one stands.

        Raises:
            DiwaError: the training has diverged, a weight is no number.
            StorageError: the disk is full.
        """
        folder = self._checkpoint(state.step)
        if not self.share.is_first or folder.exists():
            return  # of this very step: what it holds is what would be written
        weights = {
            f"{name}/{key}": value.detach().clone().contiguous()
            for name, module in state.modules.items()
            for key, value in module.state_dict().items()
        }
        if (name := not_finite(weights)) is not None:
            raise DiwaError(
                f"{self.folder}: has diverged, weights {name} after update {state.step} are not finite; "
                "lower the learning rate, and choose another output folder or delete this one"
            )
        rest = {
            "step": state.step,
            "optimizers": {name: optimizer.state_dict() for name, optimizer in state.optimizers.items()},
            "generator": state.generator.get_state(),
            "numpy_rng": json.dumps(state.numpy_rng.bit_generator.state),
            "extra": state.extra,
            "metrics_bytes": self._metrics_bytes(),
            "seconds": self.seconds,
        }
        # Through memory, since neither library says of a full disk that it is full.
        state_bytes = io.BytesIO()
        torch.save(rest, state_bytes)
        with written_whole(folder) as temporary:
            temporary.mkdir(parents=True)
            (temporary / WEIGHTS).write_bytes(to_safetensors(weights))
            (temporary / STATE).write_bytes(state_bytes.getvalue())  # a view, kept by an error, ends older Pythons
        for older in self._checkpoints()[:-1]:
            _delete_checkpoint(older)

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
            weights, _ = from_safetensors(read_bytes(folder / WEIGHTS, WEIGHTS_LIMIT_BYTES))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what torch warns of in a damaged file, the error below says
                rest = torch.load(folder / STATE, map_location="cpu", weights_only=True)
            for name, module in state.modules.items():
                prefix = f"{name}/"
                own = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
                module.load_state_dict(own)
            for name, optimizer in state.optimizers.items():
                optimizer.load_state_dict(rest["optimizers"][name])
            state.generator.set_state(rest["generator"])
            state.numpy_rng.bit_generator.state = json.loads(rest["numpy_rng"])
            state.step, state.extra = int(rest["step"]), dict(rest["extra"])
            self._seconds_before = float(rest["seconds"])
            self._cut_metrics(int(rest["metrics_bytes"]))
        except _UNREADABLE as error:
            reason = one_line(error)[:120] or type(error).__name__
            raise InputError(f"{folder}: cannot be resumed from ({reason}); delete that folder to start over") from None
        self.share.wait()  # so that none of it is deleted for a newer one yet
        if self.share.is_first:
            tell(self.folder, f"goes on at step {state.step}")
        return True

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the summary: from now on the run is done. Drop the checkpoint, which has served.

        Raises:
            StorageError: the disk is full.
        """
        write_json(self.folder / SUMMARY, {"format_version": FORMAT_VERSION, **summary})
        for folder in self._checkpoints():
            _delete_checkpoint(folder)

    def stop_if_interrupted(self, state: TrainState) -> None:
        """End the process's work at a whole step after Ctrl-C or SIGTERM, with a checkpoint.

        Raises:
            KeyboardInterrupt: it was asked to stop.
        """
        if self.share.any(self.interrupted):  # all of them end at the same step
            self.save(state)
            self.share.wait()
            raise KeyboardInterrupt(f"step {state.step} is saved in {self.folder}; the same command goes on from it")

    def _on_interrupt(self, _signal: int, _frame: FrameType | None) -> None:
        if self.interrupted:
            raise KeyboardInterrupt("interrupted twice; the last checkpoint stands")
        self.interrupted = True
        if self.share.is_first:
            print("interrupted: saving at the end of this step (again to stop at once)", file=sys.stderr, flush=True)

    def _check_ours(self) -> None:
        """Refuse a folder in which a run would write over, or delete, what no run has written.

        Raises:
            InputError: names the first thing that is not a run's.
            ConfigError: it is the run of another verb, or of another version of this one.
        """
        if not self.folder.is_dir():
            if self.folder.exists():
                raise InputError(f"{self.folder}: is a file, not a folder; choose another output folder")
            return
        try:
            entries = {name: entry for name, entry in contents(self.folder).items() if not name.startswith(".")}
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be read ({reason_of(error)}); choose another output") from None
        if not entries:
            return
        if CONFIG not in entries:
            raise InputError(
                f"{self.folder}: holds {min(entries)} and no run, so nothing is written there; "
                "choose another output folder"
            )
        for name in (CONFIG, INPUTS, METRICS, SUMMARY):
            if name in entries and not entries[name].is_file(follow_symlinks=False):
                raise InputError(f"{self.folder / name}: is not a file; choose another output folder")
        found, ours = set(self._settings_before()), set(to_plain(self.config))
        if odd := sorted(map(str, found ^ ours)):
            raise ConfigError(
                f"{self.folder / CONFIG}: {'lacks' if odd[0] in ours else 'has'} the setting {odd[0]!r}, so it is of "
                "something else; choose another output folder or delete this one"
            )
        for checkpoint in self._checkpoints():
            _check_checkpoint(checkpoint)

    def _settings_before(self) -> dict[str, Any]:
        path = self.folder / CONFIG
        try:
            data = read_yaml(path)
            if not isinstance(data, dict):
                raise ValueError("it holds no settings")
            return data
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read ({reason_of(error)}); choose another output folder") from None

    def _check_same_run(self) -> None:
        """See that settings and the content of all inputs are the same; where they lie is not looked at."""
        before, now = _flat(self._settings_before()), _flat(to_plain(self.config))
        places = set(_places(self.config))
        for name in dict.fromkeys([*now, *before]):
            if name not in places and before.get(name) != now.get(name):
                raise ConfigError(
                    f"{self.folder}: holds a run with {name} = {before.get(name)!r}, now it is {now.get(name)!r}; "
                    "choose another output folder or delete this one"
                )
        path = self.folder / INPUTS
        try:
            inputs = read_json(path)
            if not isinstance(inputs, dict):
                raise ValueError("it holds no inputs")
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path}: cannot be read ({reason_of(error)}); delete {self.folder} to start over"
            ) from None
        for name in dict.fromkeys([*self.inputs, *inputs]):
            if inputs.get(name) != self.inputs.get(name):
                raise ConfigError(f"{self.folder}: was made from another {name}; choose another output or delete it")

    def _begin(self) -> None:
        """Make the folder this process's own, clean up what killed ones left, and say in it what the run is."""
        make_folder(self.folder)
        try:
            self._lock = os.open(self.folder, os.O_RDONLY)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{self.folder}: another process is at work in it; wait, or name another") from None
        except OSError as error:
            raise _disk_refused(self.folder, error) from error
        inner = [path for path in self.folder.iterdir() if _SUBFOLDER.fullmatch(path.name) and path.is_dir()]
        for folder in (self.folder, *inner):
            remove_orphans(folder, _WRITTEN_WHOLE.fullmatch)
        # What says that the folder is a run comes first.
        with written_whole(self.folder / CONFIG) as temporary:
            temporary.write_text(to_yaml(self.config), encoding="utf-8")
        write_json(self.folder / INPUTS, self.inputs)

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _checkpoint(self, step: int) -> Path:
        return self.folder / f"{CHECKPOINT}_{step}"

    def _checkpoints(self) -> list[Path]:
        found = [path for path in self.folder.glob(f"{CHECKPOINT}_*") if path.name.rpartition("_")[2].isdigit()]
        return sorted(found, key=lambda path: int(path.name.rpartition("_")[2]))

    def _metrics_bytes(self) -> int:
        path = self.folder / METRICS
        return path.stat().st_size if path.exists() else 0

    def _cut_metrics(self, size: int) -> None:
        path = self.folder / METRICS
        if self.share.is_first and path.exists():
            with path.open("r+b") as file:
                file.truncate(min(size, path.stat().st_size))


def _check_checkpoint(folder: Path) -> None:
    """Refuse what has a checkpoint's name and is none: it would be deleted for an older one.

    Raises:
        InputError: names the first thing in it that is not a checkpoint's.
    """
    if folder.is_symlink() or not folder.is_dir():
        raise InputError(f"{folder}: is no checkpoint of a run, which would take its place; move it away")
    for name, entry in sorted(contents(folder).items()):
        if name not in (WEIGHTS, STATE) or not entry.is_file(follow_symlinks=False):
            raise InputError(f"{folder / name}: is no part of a checkpoint, which is deleted in time; move it away")


def _delete_checkpoint(folder: Path) -> None:
    """Delete a checkpoint's own files, and the folder if nothing else is in it."""
    for name in (STATE, WEIGHTS):
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


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


def tell(folder: Path, line: str) -> None:
    """Print a line of progress under the folder's last two names: of tasks side by side, one would not say of which."""
    print(f"[{'/'.join(folder.absolute().parts[-2:])}] {line}", flush=True)


def write_json(path: Path, data: Any) -> None:
    """Write plain data as JSON, whole or not at all; a number that is none becomes null."""
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(_with_null(data), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _with_null(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {key: _with_null(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_with_null(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def _disk_refused(path: Path, error: OSError) -> StorageError:
    return StorageError(f"{path}: could not be written ({error.strerror or error}); free some disk or choose another")


def _places(config: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of the settings that say where something lies or is computed."""
    own = {field.name: field.metadata.get("identity", True) for field in dataclasses.fields(config)}
    for name, annotation in fields_of(type(config)).items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            yield from _places(value, f"{prefix}{name}.")
        elif Path in choices_of(annotation) or not own[name]:
            yield f"{prefix}{name}"


def _flat(data: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(data, dict):
        return {prefix: data}
    out: dict[str, Any] = {}
    for key, value in data.items():
        out |= _flat(value, f"{prefix}.{key}".lstrip("."))
    return out
