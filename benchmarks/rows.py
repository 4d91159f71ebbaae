"""What was measured: `results.json`, and the page made from it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from diwa_runtime.errors import InputError
from diwa_runtime.files import written_whole

HEADLINES = (
    ("a deployed chunk", "policy_sampling"),
    ("imagined episodes", "imagination"),
    ("a PPO update", "ppo_update_steps"),
    ("one with the BC term", "ppo_update_bc_steps"),
    ("an update of the world model", "world_model_training_state"),
    ("one that codes pictures", "world_model_training"),
)
"""What the page sums up, and the row that each figure is of: where there are two, the one kinder to the reference."""
PEERS = Path(__file__).with_name("peers.md")
"""The page's section on peers' own code, written by hand: no command here runs that code."""
DEMO = Path(__file__).with_name("demo.md")
"""The page's section on where the demo's time goes: what `make demo` and its report said."""


@dataclass(frozen=True)
class Row:
    """One measured claim.

    Attributes:
        name: of the benchmark.
        value: ours, in `unit`.
        unit: of value and reference.
        reference: what ours is compared with, measured in the same run, or a fixed rate.
        ratio: how many times better ours is, not rounded: the verdict is judged on it.
        target: the least ratio that the project claims; None where it claims none.
        what: what was measured.
        against: what the reference is.
        repeats: how often each was measured, the figures are medians; 1 = taken from one run.
        machine: processor, cores, versions, threads.
    """

    name: str
    value: float
    unit: str
    reference: float
    ratio: float
    target: float | None
    what: str
    against: str
    repeats: int
    machine: str

    @property
    def verdict(self) -> str:
        """Say whether the target is reached."""
        if self.target is None:
            return ""
        return "reached" if self.ratio >= self.target else "missed"


def load_rows(path: Path) -> list[Row]:
    """Read rows; none when the file is not there.

    Raises:
        InputError: it holds something else.
    """
    if not path.exists():
        return []
    try:
        return [Row(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: no benchmark results ({error}); delete it and run `make bench`") from None


def merged(before: Iterable[Row], measured: Iterable[Row], order: Sequence[str]) -> list[Row]:
    """Return the rows of the benchmarks in `order`, those measured now in place of older ones."""
    newest = {row.name: row for row in (*before, *measured)}
    return [newest[name] for name in order if name in newest]


def write_rows(rows: Sequence[Row], results: Path, page: Path) -> None:
    """Write `results.json` and the page, each whole or not at all."""
    text = json.dumps([asdict(row) for row in rows], indent=1)
    for path, content in ((results, f"{text}\n"), (page, page_text(rows))):
        with written_whole(path) as temporary:
            temporary.write_text(content, encoding="utf-8")


def page_text(rows: Sequence[Row]) -> str:
    """Return `docs/performance.md`."""
    table = ["| name | ours | reference | unit | ratio | target | |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        target = "" if row.target is None else f">= {row.target:g}x"
        table.append(
            f"| `{row.name}` | {figure(row.value)} | {figure(row.reference)} | {row.unit} | {row.ratio:.1f}x "
            f"| {target} | {row.verdict} |"
        )
    meaning = [f"| `{row.name}` | {row.what} | {row.against} | {row.repeats} |" for row in rows]
    machines = [f"- {machine}: {', '.join(names)}" for machine, names in _by_machine(rows).items()]
    return "\n".join(
        [
            "# Performance",
            "",
            'Made by `make bench` from `benchmarks/results.json`; `make bench ARGS="--only ppo_update"` measures one',
            "row anew. Ratios, not times, are what is claimed. Beside a plain version or another library, both sides",
            "are measured in one process, in turn, on one thread, each several times, and the medians are compared;",
            "times are CPU time, so that other work on the machine counts for neither side. Beside real time or a",
            "limit, ours alone is measured, in CPU time too unless its line says otherwise; where repeats are 1, the",
            "row's figures are those of one run. The plain versions stand in",
            "[`benchmarks/`](../benchmarks/README.md) and are the oracles of the tests: with the same weights they",
            "give the same numbers.",
            "",
            *headline(rows),
            *table,
            "",
            "## What was measured",
            "| name | ours | reference | repeats |",
            "|---|---|---|---|",
            *meaning,
            "",
            DEMO.read_text(encoding="utf-8"),
            PEERS.read_text(encoding="utf-8"),
            "## On which machine",
            *machines,
            "",
        ]
    )


def headline(rows: Iterable[Row]) -> list[str]:
    """Sum the rows up in a paragraph; nothing of those that are not there."""
    ratios = {row.name: row.ratio for row in rows}
    said = [f"{what} {ratios[name]:.1f}x" for what, name in HEADLINES if name in ratios]
    if not said:
        return []
    return [
        f"In short, beside plain versions: {', '.join(said)}.",
        "PPO is summed up by the rows `*_steps`: much of `ppo_update_bc` is that DPPO draws the frozen policy's chains",
        "anew for each pair of env step and denoising step.",
        "",
    ]


def figure(value: float) -> str:
    """Write a number with three significant digits, thousands apart."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _by_machine(rows: Sequence[Row]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for row in rows:
        names.setdefault(row.machine, []).append(f"`{row.name}`")
    return names
