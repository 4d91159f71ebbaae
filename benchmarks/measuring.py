"""How things are measured: two candidates in turn, in one process on one thread, medians of CPU seconds."""

from __future__ import annotations

import importlib.util
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch


def nothing_lacks() -> str:
    """Say that a row can be measured wherever the others can."""
    return ""


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        repeats: how often each candidate is measured.
        quick: sizes that only show that everything runs; the figures mean nothing.
    """

    repeats: int = 9
    quick: bool = False


@dataclass(frozen=True)
class Benchmark:
    """Something that the project claims.

    Attributes:
        name: of the row.
        unit: of both figures; more is better where it ends in ``/s``, less is better else.
        target: least ratio of ours to the reference; None where nothing is claimed.
        what: what is measured, with its sizes.
        reference: what it is compared with.
        measure: return (ours, reference).
        one_run: both figures are taken from one run, however many repeats are asked for.
        lacks: say what the row needs and is not here, and what helps; "" where it can be measured.
    """

    name: str
    unit: str
    target: float | None
    what: str
    reference: str
    measure: Callable[[Effort], tuple[float, float]]
    one_run: bool = False
    lacks: Callable[[], str] = nothing_lacks

    def ratio(self, ours: float, reference: float) -> float:
        """Say how many times better ours is."""
        return ours / reference if self.unit.endswith("/s") else reference / ours


def alternate(ours: Callable[[], object], plain: Callable[[], object], effort: Effort) -> tuple[float, float]:
    """Return the median CPU seconds of a call of each, measured in turn so that a busy machine slows both.

    CPU time, not time on the wall: with one thread they are the same on an idle machine, and other work on the machine
    does not count as ours.
    """
    if not effort.quick:
        ours()
        plain()
    pairs = [(cpu_seconds(ours), cpu_seconds(plain)) for _ in range(1 if effort.quick else effort.repeats)]
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)


def median_seconds(call: Callable[[], object], effort: Effort, clock: Callable[[], float] = time.process_time) -> float:
    """Return the median seconds of a call: CPU seconds, or those of another clock."""
    if not effort.quick:
        call()
    times = []
    for _ in range(1 if effort.quick else effort.repeats):
        start = clock()
        call()
        times.append(clock() - start)
    return statistics.median(times)


def cpu_seconds(call: Callable[[], object]) -> float:
    """Return the CPU seconds of one call, all threads of the process counted."""
    start = time.process_time()
    call()
    return time.process_time() - start


def repeated(call: Callable[[], object], times: int) -> Callable[[], None]:
    """Return a call that is long enough for the clock."""

    def many() -> None:
        for _ in range(times):
            call()

    return many


def missing_modules(*names: str) -> list[str]:
    """Return the top-level modules that are not installed; none is imported."""
    return [name for name in names if importlib.util.find_spec(name) is None]


def machine() -> str:
    """Name the machine and what ran on it."""
    threads = torch.get_num_threads()
    return (
        f"{_cpu_model()}, {os.cpu_count()} cores; Python {platform.python_version()}, torch {torch.__version__}, "
        f"{threads} thread{'s' if threads > 1 else ''}"
    )


def _cpu_model() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
