"""Measure what the project claims: `make bench`, or `python benchmarks/run.py [--only NAME ...] [--quick]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import data
import learning
import live
import robot
import simulation
import torch
from measuring import Benchmark, Effort, machine
from rows import Row, figure, load_rows, merged, write_rows

from diwa_runtime.cli import run_verb
from diwa_runtime.config import load_config
from diwa_runtime.errors import ConfigError, nearest

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        *learning.BENCHMARKS,
        *data.BENCHMARKS,
        *simulation.BENCHMARKS,
        *robot.BENCHMARKS,
        *live.BENCHMARKS,
    )
}


@dataclass(frozen=True)
class BenchConfig:
    """Measure what the project claims, and write benchmarks/results.json and docs/performance.md."""

    only: tuple[str, ...] = field(default=(), metadata={"help": "measure these rows only; the others stay as they are"})
    quick: bool = field(default=False, metadata={"help": "see that all runs, in seconds; writes nothing"})
    repeats: int = field(default=9, metadata={"help": "how often each side is measured; the median counts"})

    def __post_init__(self) -> None:
        for name in self.only:
            if name not in BENCHMARKS:
                raise ConfigError(
                    f"no benchmark {name!r}{nearest(name, BENCHMARKS)} (there are {', '.join(BENCHMARKS)})"
                )
        if self.repeats < 1:
            raise ConfigError(f"repeats must be at least 1, not {self.repeats}")


def run(config: BenchConfig, results: Path, page: Path) -> None:
    """Measure, print a line a row, and write both files unless it is only a trial."""
    torch.set_num_threads(1)
    before = [] if config.quick else load_rows(results)
    measured = []
    for name in config.only or BENCHMARKS:
        row = measure(BENCHMARKS[name], Effort(config.repeats, config.quick))
        measured.append(row)
        target = "" if row.target is None or config.quick else f"   target {row.target:g}x: {row.verdict}"
        print(
            f"{row.name:26} {figure(row.value):>9} against {figure(row.reference):>9} {row.unit:18}"
            f"{row.ratio:8.1f}x{target}",
            flush=True,
        )
    if config.quick:
        print("quick: sizes too small to mean anything; nothing was written")
        return
    write_rows(merged(before, measured, tuple(BENCHMARKS)), results, page)


def measure(benchmark: Benchmark, effort: Effort) -> Row:
    """Measure one row."""
    ours, reference = benchmark.measure(effort)
    return Row(
        benchmark.name,
        float(f"{ours:.4g}"),
        benchmark.unit,
        float(f"{reference:.4g}"),
        round(benchmark.ratio(ours, reference), 2),
        benchmark.target,
        benchmark.what,
        benchmark.reference,
        effort.repeats,
        machine(),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Return the process's exit code."""
    return run_verb(
        lambda arguments: run(
            load_config(BenchConfig, arguments), ROOT / "benchmarks" / "results.json", ROOT / "docs" / "performance.md"
        ),
        argv,
    )


if __name__ == "__main__":
    sys.exit(main())
