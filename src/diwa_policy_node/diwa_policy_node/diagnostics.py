"""What `/diagnostics` says of the policy: how the skill goes, which streams live, how fast it thinks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus

from diwa_policy_node.skills.goal import Ended
from diwa_policy_node.skills.runner import SkillRunner
from diwa_ros.diagnostics import diagnostic
from diwa_runtime.robot import RunState

HELD_SHARE, HELD_LEAST = 0.05, 5
"""So large a share of the observations, and so many, may be repeated before it is said."""


def statuses(
    node: str,
    runner: SkillRunner | None,
    active: bool,
    last: Ended | None,
    inference_s: Iterable[float],
    rivals: str,
    now_ns: int,
) -> list[DiagnosticStatus]:
    """Return the statuses of a node.

    Args:
        node: its full name.
        runner: None before `configure`.
        active: whether goals are taken.
        last: how the last goal ended.
        inference_s: of the newest decisions.
        rivals: who publish a topic that one robot alone is to publish; "" = nobody does.
        now_ns: on the clock of receipts.
    """
    if runner is None:
        return [diagnostic(node, "skill", DiagnosticStatus.WARN, "not configured", {"active": active})]
    return [
        _skill(node, runner, active, last, now_ns),
        _streams(node, runner, rivals, now_ns),
        _inference(node, runner, inference_s),
    ]


def _skill(node: str, runner: SkillRunner, active: bool, last: Ended | None, now_ns: int) -> DiagnosticStatus:
    state = runner.state(now_ns)
    values: dict[str, Any] = {"state": state.name.lower(), "active": active, "skill": runner.running}
    values |= {"skills": ", ".join(sorted(runner.skills))} | runner.observations.dropped
    if runner.limits.shadow:
        values |= {f"shadow_{name}": value for name, value in vars(runner.divergence).items()}
    if last is not None:
        values |= {"last_outcome": last.outcome.name, "last_reason": last.reason}
    if state is RunState.FAULT and last is not None:
        return diagnostic(node, "skill", DiagnosticStatus.ERROR, last.reason, values)
    level = DiagnosticStatus.WARN if state is RunState.HOLDING or not active else DiagnosticStatus.OK
    return diagnostic(node, "skill", level, state.name.lower() if active else "not active", values)


def _streams(node: str, runner: SkillRunner, rivals: str, now_ns: int) -> DiagnosticStatus:
    seen = runner.observations
    silent = seen.watch.silent(now_ns, runner.limits.give_up_after_s)
    values = {f"{topic} rate_hz": rate for topic, rate in seen.watch.rates_hz(now_ns).items()}
    values |= {f"{topic} age_s": seen.watch.age_s(topic, now_ns) for topic in seen.topics}
    if rivals or silent:
        return diagnostic(node, "streams", DiagnosticStatus.ERROR, rivals or "; ".join(silent), values)
    degraded = _degraded(runner)
    level = DiagnosticStatus.WARN if degraded else DiagnosticStatus.OK
    return diagnostic(node, "streams", level, degraded or "all live", values)


def _degraded(runner: SkillRunner) -> str:
    """Say what makes the policy run worse than it was trained, though nothing fails; "" = nothing does."""
    held, slow = runner.observations.dropped["held"], runner.observations.too_slow(1 - HELD_SHARE)
    repeated = held >= HELD_LEAST and held > HELD_SHARE * runner.steps
    said = [f"{held} of {runner.steps} observations were repeated, for nothing new came in time"] if repeated else []
    return "; ".join([*([slow] if slow else []), *said])


def _inference(node: str, runner: SkillRunner, inference_s: Iterable[float]) -> DiagnosticStatus:
    times_ms = sorted(1e3 * seconds for seconds in inference_s) or [0.0]
    values = {"median_ms": times_ms[len(times_ms) // 2], "largest_ms": times_ms[-1], "late": runner.late}
    level, text = (DiagnosticStatus.WARN, "late") if runner.late else (DiagnosticStatus.OK, "in time")
    return diagnostic(node, "inference", level, text, values)
