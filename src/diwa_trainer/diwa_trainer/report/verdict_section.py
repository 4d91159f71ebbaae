"""What fine-tuning says of the policies that it could keep, beside what real episodes say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diwa_trainer.policy.verdict import Calibrated, Tally, calibrated
from diwa_trainer.report.gather import BASE, RunFolder, TaskRuns
from diwa_trainer.report.html import Html, element, join, missing, table
from diwa_trainer.report.scales import percent
from diwa_trainer.runs.result_files import VERDICT

_NOTE = (
    "Imagined episodes of each policy as deployed, from the same starts and draws. Kept is the earliest iteration that "
    "is within a standard error of the best and clearly beats the base policy. What is to be expected of it on the "
    "robot is imagined success, corrected by how wrong imagination was about the base policy where that was tried."
)


def verdict(task: TaskRuns, name: str, run: RunFolder) -> Html:
    """Return the verdict on a fine-tuning: what is kept and why, and what was expected of it and came of it."""
    said = run.json(VERDICT)
    if said is None:
        return missing(f"{task.name}/{name}/{VERDICT}", "finetune")
    base_real, real = task.evaluations.get(BASE), task.evaluations.get(name)
    base, chosen = said["candidates"][0], said["chosen"]
    expected = calibrated(said, None, Tally.of(base_real.data) if base_real else None)
    line = element(
        "p", f"Verdict: {said['decision']}; {said['why']}.", css="" if said["decision"] == "accept" else "warning"
    )
    warnings = [element("p", warning, css="warning") for warning in expected.warnings]
    header = ("iteration", "imagined success", "left the recordings", "KL to the base policy, nats a chunk", "")
    rows = [_row(one, chosen["iteration"]) for one in said["candidates"]]
    outcome = [
        ("imagined, base policy", percent(base["success"])),
        ("imagined, kept policy", percent(chosen["success"])),
        ("to be expected of it", _expected(expected)),
        ("real, kept policy", percent(real.rate) if real else "–"),
    ]
    return join(
        [
            line,
            *warnings,
            table(("success", ""), outcome),
            table(header, rows, "Policies that could be kept"),
            element("p", _NOTE, css="note"),
        ]
    )


def _row(candidate: Mapping[str, Any], chosen: int) -> tuple[str, ...]:
    iteration = candidate["iteration"]
    shares = (percent(candidate[name]) for name in ("success", "outside"))
    return (str(iteration or "base"), *shares, f"{candidate['kl']:.1f}", "kept" if iteration == chosen else "")


def _expected(expected: Calibrated) -> str:
    low, high = expected.interval95
    return f"{percent(expected.rate)} [{100 * low:.0f}, {100 * high:.0f}]"
