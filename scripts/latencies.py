"""What the policy node's run logs say of time: from observation to decision, late answers, what could not be used.

usage: scripts/latencies.py FOLDER     the policy node's log_folder
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np

from diwa_trainer.report.run_logs import read_runs

EDGES_MS = (0, 1, 2, 3, 4, 6, 8, 12, 20, 33, 100, np.inf)
BAR = 50
"""Characters of the fullest line."""


def table(folder: Path) -> str:
    """Return the figures of all runs of a folder as text."""
    runs = read_runs(folder)
    steps = [step for run in runs for step in run.steps]
    if not steps:
        return f"{folder}: no run made a decision"
    lines = [f"{len(runs)} runs, {sum(run.ticks for run in runs)} control ticks, {len(steps)} decisions"]
    for what, seconds in (
        ("observation to decision", [step.observation_age_s for step in steps]),
        ("of that, inference", [step.inference_s for step in steps]),
    ):
        middle, high, largest = 1e3 * np.quantile(seconds, (0.5, 0.99, 1.0))
        lines.append(f"{what:<24} median {middle:6.2f} ms, 99th percentile {high:6.2f}, largest {largest:6.2f}")
    ages_ms = 1e3 * np.array([step.observation_age_s for step in steps])
    counts, _ = np.histogram(ages_ms, EDGES_MS)
    for low, high, count in zip(EDGES_MS, EDGES_MS[1:], counts, strict=False):
        if count:
            lines.append(f"{low:>6} to {high:<4g} ms {count:>7} {'#' * max(1, round(BAR * count / counts.max()))}")
    dropped = Counter[str]()
    for run in runs:
        dropped.update(run.end.dropped if run.end else {})
    lines.append(f"answers too late to be sent: {sum(run.late for run in runs)}; rows and messages: {dict(dropped)}")
    lines.append(f"ends: {dict(Counter(run.outcome.name if run.outcome else 'none' for run in runs))}")
    return "\n".join(lines)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__.rpartition("usage: ")[2] if __doc__ else 2)
    print(table(Path(sys.argv[1])))
