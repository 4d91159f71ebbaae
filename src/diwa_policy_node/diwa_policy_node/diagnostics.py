"""What `/diagnostics` says of the policy: how the skill goes, which streams live, how fast it thinks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus

from diwa_policy_node.skills.goal import Ended
from diwa_policy_node.skills.runner import SkillRunner
from diwa_ros.diagnostics import diagnostic
from diwa_runtime.robot import RunState

NODE = "diwa_policy"


def statuses(
    runner: SkillRunner | None, active: bool, last: Ended | None, inference_s: Iterable[float], now_ns: int
) -> list[DiagnosticStatus]:
    """Return the statuses of a node.

    Args:
        runner: None before `configure`.
        active: whether goals are taken.
        last: how the last goal ended.
        inference_s: of the newest decisions.
        now_ns: on the clock of receipts.
    """
    if runner is None:
        return [diagnostic(NODE, "skill", DiagnosticStatus.WARN, "not configured", {"active": active})]
    return [_skill(runner, active, last, now_ns), _streams(runner, now_ns), _inference(runner, inference_s)]


def _skill(runner: SkillRunner, active: bool, last: Ended | None, now_ns: int) -> DiagnosticStatus:
    state = runner.state(now_ns)
    values: dict[str, Any] = {"state": state.name.lower(), "active": active, "skill": runner.running}
    values |= {"skills": ", ".join(sorted(runner.skills))} | runner.observations.dropped
    if runner.limits.shadow:
        values |= {f"shadow_{name}": value for name, value in vars(runner.divergence).items()}
    if last is not None:
        values |= {"last_outcome": last.outcome.name, "last_reason": last.reason}
    if state is RunState.FAULT and last is not None:
        return diagnostic(NODE, "skill", DiagnosticStatus.ERROR, last.reason, values)
    level = DiagnosticStatus.WARN if state is RunState.HOLDING or not active else DiagnosticStatus.OK
    return diagnostic(NODE, "skill", level, state.name.lower() if active else "not active", values)


def _streams(runner: SkillRunner, now_ns: int) -> DiagnosticStatus:
    silent = runner.observations.watch.silent(now_ns, runner.limits.give_up_after_s)
    values = {f"{topic} rate_hz": rate for topic, rate in runner.observations.watch.rates_hz(now_ns).items()}
    values |= {f"{topic} age_s": runner.observations.watch.age_s(topic, now_ns) for topic in runner.observations.topics}
    level = DiagnosticStatus.ERROR if silent else DiagnosticStatus.OK
    return diagnostic(NODE, "streams", level, "; ".join(silent) or "all live", values)


def _inference(runner: SkillRunner, inference_s: Iterable[float]) -> DiagnosticStatus:
    times_ms = sorted(1e3 * seconds for seconds in inference_s) or [0.0]
    values = {"median_ms": times_ms[len(times_ms) // 2], "largest_ms": times_ms[-1], "late": runner.late}
    level, text = (DiagnosticStatus.WARN, "late") if runner.late else (DiagnosticStatus.OK, "in time")
    return diagnostic(NODE, "inference", level, text, values)
