"""One goal's record: its log, and the figures that sum it up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from diwa_policy_node.skills.goal import Decision, Ended, Goal, RunLimits
from diwa_runtime.bundle import Bundle
from diwa_runtime.errors import StorageError
from diwa_runtime.logs.divergence import DivergenceSum
from diwa_runtime.logs.run_log import RunLog
from diwa_runtime.logs.seams import Seams, joined_seams, measure_seams
from diwa_runtime.rows.streams import NANOSECONDS


class RunRecord:
    """One goal's record: its log, and the figures that sum it up.

    Attributes:
        trouble: why there is no log, or no more of it; "" = there is.
    """

    def __init__(self, folder: Path | None, goal: Goal, skills: Mapping[str, Bundle], limits: RunLimits) -> None:
        """Begin a record in `folder`; None = keep no log."""
        self._spec, self._shadow = skills[goal.skills[0]].spec, limits.shadow
        self._stretches: list[list[Decision]] = []
        self._inference_s: list[float] = []
        self.trouble = ""
        self._log: RunLog | None = None
        if folder is not None:
            with self._noting_trouble():
                self._log = RunLog(folder, goal.skills[0], self._header(goal, skills, limits))

    def decided(self, decision: Decision) -> None:
        """Take in a control tick."""
        self._continue_stretch(decision)
        self._inference_s.append(decision.inference_s)
        if self._log is not None:
            with self._noting_trouble():
                self._log.step(decision.to_json())

    def ended(self, ended: Ended, late: int, dropped: Mapping[str, int], divergence: DivergenceSum) -> dict[str, Any]:
        """Close the log with how the goal ended; return what was written."""
        inference = np.array(self._inference_s or [0.0])
        summary = {
            "outcome": ended.outcome.name,
            "reason": ended.reason,
            "steps": ended.steps,
            "skill": ended.skill,
            "probability": ended.probability,
            "late": late,
            "dropped": dict(dropped),
            "inference_s": {"median": float(np.median(inference)), "largest": float(inference.max())},
            "seams": joined_seams(self._seams_of(stretch) for stretch in self._stretches).to_json(),
            "divergence": asdict(divergence) if divergence.ticks else None,
        }
        if self._log is not None:
            with self._noting_trouble():
                self._log.end(summary)
        return summary

    def _continue_stretch(self, decision: Decision) -> None:
        """Add to the stretch of ticks that were answered one after the other, or begin one.

        Between two of them the arm stood still, and nothing was handed over. In shadow mode nothing is sent, and what
        would have been counts.
        """
        if not decision.send and not self._shadow:
            return
        last = self._stretches[-1][-1] if self._stretches else None
        gap_s = (decision.stamp_ns - last.stamp_ns) / NANOSECONDS if last is not None else 0.0
        if last is None or last.skill != decision.skill or gap_s * self._spec.rate_hz > 1.5:
            self._stretches.append([])
        self._stretches[-1].append(decision)

    def _seams_of(self, stretch: list[Decision]) -> Seams:
        actions, begins = ([getattr(d, name) for d in stretch] for name in ("action", "begins_chunk"))
        return measure_seams(np.array(actions), np.array(begins), self._spec)

    @contextmanager
    def _noting_trouble(self) -> Iterator[None]:
        """A full disk ends the log, not the motion."""
        try:
            yield
        except StorageError as error:
            self.trouble, self._log = str(error), None

    def _header(self, goal: Goal, skills: Mapping[str, Bundle], limits: RunLimits) -> dict[str, Any]:
        return {
            "skills": list(goal.skills),
            "timeout_s": goal.timeout_s,
            "seed": goal.seed,
            "bundles": {name: skills[name].sha256 for name in goal.skills},
            "thresholds": {name: skills[name].manifest.success_threshold for name in goal.skills},
            "rate_hz": self._spec.rate_hz,
            "action_scale": asdict(self._spec.action_scale),
            "limits": asdict(limits),
        }
