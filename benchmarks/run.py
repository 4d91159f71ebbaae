"""Measure what the project claims: `make bench`, or `scripts/bench [--only NAME ...] [--quick]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import data
import learning
import live
import robot
import seeing
import simulation
import torch
import training
from measuring import Benchmark, Effort, machine
from rows import Row, figure, load_rows, merged, write_rows

from diwa_runtime.cli import run_verb
from diwa_runtime.config import check_bounds, load_config
from diwa_runtime.errors import ConfigError, DiwaError, nearest

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        *learning.BENCHMARKS,
        *training.BENCHMARKS,
        *seeing.BENCHMARKS,
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
        check_bounds(self, repeats=(1, 1000))


def run(config: BenchConfig, results: Path, page: Path) -> None:
    """Measure, print a line a row, and write both files after each unless it is only a trial."""
    torch.set_num_threads(1)
    rows = [] if config.quick else load_rows(results)
    for benchmark in measurable(config.only):
        row = measure(benchmark, Effort(config.repeats, config.quick))
        target = "" if row.target is None or config.quick else f"   target {row.target:g}x: {row.verdict}"
        print(
            f"{row.name:26} {figure(row.value):>9} against {figure(row.reference):>9} {row.unit:18}"
            f"{row.ratio:8.1f}x{target}",
            flush=True,
        )
        if not config.quick:  # at once: a later row may fail, and the last ones take ten minutes
            rows = merged(rows, [row], tuple(BENCHMARKS))
            write_rows(rows, results, page)
    if config.quick:
        print("quick: sizes too small to mean anything; nothing was written")


class NothingMeasuredError(DiwaError):
    """A benchmark ran and measured nothing."""


def measurable(names: Sequence[str]) -> list[Benchmark]:
    """Return the benchmarks of these names; of all when there are none, without those that this machine cannot measure.

    Raises:
        ConfigError: one that was named cannot be measured here; says what it needs.
    """
    chosen = [BENCHMARKS[name] for name in names or BENCHMARKS]
    lacking: dict[str, list[str]] = {}
    for benchmark in chosen:
        if reason := benchmark.lacks():
            lacking.setdefault(reason, []).append(benchmark.name)
    if not lacking:
        return chosen
    line = "; ".join(f"{', '.join(those)} ({reason})" for reason, those in lacking.items())
    if names:
        raise ConfigError(f"cannot be measured here: {line}")
    print(f"left out, cannot be measured here: {line}", file=sys.stderr)
    unmeasurable = {name for those in lacking.values() for name in those}
    return [benchmark for benchmark in chosen if benchmark.name not in unmeasurable]


def measure(benchmark: Benchmark, effort: Effort) -> Row:
    """Measure one row.

    Raises:
        NothingMeasuredError: a figure is no more than zero, as where a simulated arm did not move in time.
    """
    ours, reference = benchmark.measure(effort)
    if not (ours > 0 and reference > 0):
        raise NothingMeasuredError(
            f"{benchmark.name}: {ours:g} against {reference:g} {benchmark.unit} is no measurement; measure it again "
            "with nothing else running"
        )
    return Row(
        benchmark.name,
        float(f"{ours:.4g}"),
        benchmark.unit,
        float(f"{reference:.4g}"),
        benchmark.ratio(ours, reference),
        benchmark.target,
        benchmark.what,
        benchmark.reference,
        1 if benchmark.one_run else effort.repeats,
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
