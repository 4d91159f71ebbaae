"""Run logs of the policy node, written by its own record from decisions made up here."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from diwa_policy_node.skills.goal import Decision, Ended, Goal, RunLimits
from diwa_policy_node.skills.run_record import RunRecord
from diwa_runtime.logs.divergence import Divergence, DivergenceSum
from diwa_runtime.robot import Outcome
from diwa_runtime.spec import Spec

THRESHOLD = 0.9
NO_DROPS = {"held": 0, "missing": 0, "repeated": 0, "faulty": 0}
_BUNDLES: Any = {
    name: SimpleNamespace(spec=Spec(), sha256=digit * 64, manifest=SimpleNamespace(success_threshold=THRESHOLD))
    for name, digit in (("open_drawer", "a"), ("close_drawer", "b"))
}


def decision(tick: int, skill: str = "open_drawer", **changed: Any) -> Decision:
    """Return the decision of a control tick, from 1 on."""
    values: dict[str, Any] = {
        "stamp_ns": 10**18 + tick * 10**9 // 30,
        "skill": skill,
        "step": tick,
        "action": np.array([0.5, -0.5, 0.1 * (tick % 4), 0, 0.25, 0, 1], np.float32),
        "send": True,
        "begins_chunk": tick % 4 == 1,
        "probability": 0.01 * tick,
        "observation_age_s": 0.007,
        "inference_s": 0.004,
        "executed": np.zeros(7, np.float32),
        "latent_norm": 6.0,
        "latent_change": 3.0,
        "position": np.array([0.3, 0.01 * tick, 0.5], np.float32),
    }
    return Decision(**(values | changed))


def write_log(
    folder: Path,
    outcome: Outcome | None = Outcome.SUCCESS,
    *skills: str,
    decisions: list[Decision] | None = None,
    reason: str = "said so",
    shadow: bool = False,
    started: str = "20260131T120000.000000Z",
    late: int = 0,
    dropped: dict[str, int] | None = None,
) -> Path:
    """Write a run of 20 ticks, or of `decisions`; an `outcome` of None leaves out its end. Return the file."""
    before = set(folder.glob("*"))
    goal = Goal(skills or ("open_drawer",), seed=7)
    record = RunRecord(folder, goal, _BUNDLES, RunLimits(shadow=shadow))
    assert not record.trouble
    (path,), apart = set(folder.glob("*")) - before, DivergenceSum()
    made = [decision(tick, goal.skills[0]) for tick in range(1, 21)] if decisions is None else decisions
    for one in made:
        record.decided(one)
        if one.divergence is not None:
            apart.add(one.divergence, np.array([0.6, 0, 0, 0.2, 0, 0, 1]), Spec().action_scale)
    ended = Ended(outcome or Outcome.CANCELLED, reason, made[-1].step + 1 if made else 0)
    record.ended(ended, late, dropped or NO_DROPS, apart)
    if outcome is None:
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    return _restarted(path, started)


def shadow_decisions(count: int = 10) -> list[Decision]:
    """Decisions of shadow mode, 4 mm and 0.03 rad from what was executed, all but the first compared."""
    apart = Divergence(0, 0.004, 0.03, True)
    return [decision(tick, send=False, divergence=apart if tick > 1 else None) for tick in range(1, count + 1)]


def rewrite(path: Path, number: int, **changed: Any) -> None:
    """Change keys of a line, the first of which is 1; None takes a key out."""
    lines = path.read_text().splitlines()
    record = json.loads(lines[number - 1]) | changed
    lines[number - 1] = json.dumps({name: value for name, value in record.items() if value is not None})
    path.write_text("\n".join(lines) + "\n")


def _restarted(path: Path, started: str) -> Path:
    """Date a log as if it had been begun at `started`."""
    rewrite(path, 1, started=started)
    return path.rename(path.with_name(f"{started}_{path.name.split('_', 1)[1]}"))
