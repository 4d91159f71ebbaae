"""`twin_episodes`: many seeded episodes of one skill through ROS against the simulator, and how many succeeded.

The simulator says which seed runs and whether the task is achieved; the policy's noise has the same seed, as in
`evaluate`. So the figure can be laid beside the offline evaluator's on the same seeds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from std_srvs.srv import Trigger

from diwa_msgs.action import RunSkill
from diwa_msgs.msg import EpisodeEvent
from diwa_policy_node.client import DURATIONS_S, SkillClient
from diwa_ros.process import ros_process, spin_until
from diwa_ros.qos import ALL_MARKS
from diwa_runtime.cli import run_verb
from diwa_runtime.config import check_bounds, load_config
from diwa_runtime.errors import InputError
from diwa_runtime.events import TOPIC, EventKind
from diwa_runtime.files import check_overwritable, written_whole
from diwa_runtime.kinds import COUNT, FLAG, MAPPING, SHARE, WHOLE, fault_in, list_of
from diwa_runtime.reading import read_json, reason_of
from diwa_runtime.robot import Outcome

ANSWER_S = 10.0
EVALUATION = {
    "seeds": list_of(WHOLE, 1), "interval95": list_of(SHARE, 2, 2), "successes": COUNT, "episodes": COUNT,
    "episodes_detail.*.success": FLAG, "episodes_detail": list_of(MAPPING),
}  # fmt: skip
"""What is read of an `evaluation.json`."""


@dataclass(frozen=True)
class TwinEpisodesConfig:
    """Run one skill from many seeded starts of the simulator, through ROS, and count.

    Attributes:
        skill: of the policy node, and the simulator's task.
        output: JSON file to write.
        episodes: how many.
        timeout: limit of an episode, simulated s; 0 = the bundle's own.
        against: `evaluation.json` of the offline evaluator, to lay beside.
    """

    skill: str
    output: Path
    episodes: int = 50
    timeout: float = 0.0
    against: Path | None = field(default=None)

    def __post_init__(self) -> None:
        check_bounds(self, episodes=(1, 100_000), timeout=DURATIONS_S)


@dataclass(frozen=True)
class Episode:
    """What came of one: `success` is the simulator's word, `outcome` the policy node's."""

    seed: int
    success: bool
    outcome: str
    reason: str
    steps: int


class TwinClient(SkillClient):
    """Asks for skills, resets the simulator, and hears what it says about episodes."""

    def __init__(self, **options: Any) -> None:
        """Make a client; `options` are rclpy's."""
        super().__init__(**options)
        self._reset = self.create_client(Trigger, "sim/reset")
        self.create_subscription(EpisodeEvent, TOPIC, self._on_event, ALL_MARKS)
        self.seed: int | None = None
        self.achieved: set[int] = set()

    def _on_event(self, event: EpisodeEvent) -> None:
        if event.kind == EventKind.START:
            self.seed = event.seed
        elif event.kind == EventKind.SUCCESS:
            self.achieved.add(event.seed)

    def running_seed(self, other_than: int | None = None) -> int:
        """Wait for an episode's START and return its seed.

        Raises:
            InputError: none came.
        """
        if not spin_until(self, lambda: self.seed not in (None, other_than), ANSWER_S) or self.seed is None:
            raise InputError("no episode began; is the simulator's node alive?")
        return self.seed

    def reset(self) -> None:
        """Begin the next episode.

        Raises:
            InputError: the simulator does not answer, or cannot.
        """
        if not spin_until(self, self._reset.service_is_ready, ANSWER_S):
            raise InputError("nobody serves sim/reset; start the simulator's node")
        answer = self._reset.call_async(Trigger.Request())
        spin_until(self, answer.done, ANSWER_S)
        response = answer.result() if answer.done() else None
        if response is None or not response.success:
            raise InputError(f"sim/reset: {response.message if response else 'no answer'}")

    def episode(self, config: TwinEpisodesConfig) -> Episode:
        """Run the skill in the episode that has begun, and begin the next.

        Marks come in order: once the next START is there, no SUCCESS of this episode can still be on its way.
        """
        seed = self.running_seed()
        result = self.run(RunSkill.Goal(skill=config.skill, timeout=config.timeout, seed=seed))
        self.reset()
        self.running_seed(other_than=seed)
        return Episode(seed, seed in self.achieved, Outcome(result.outcome).name, result.reason, result.steps)


def run(argv: Sequence[str]) -> None:
    """Run all episodes and write what came of them.

    Raises:
        InputError: simulator or policy node are not there.
    """
    config = load_config(TwinEpisodesConfig, argv)
    check_overwritable(config.output, "result of twin_episodes", lambda head: b'"skill":' in head)
    offline = None if config.against is None else _read_evaluation(config.against)
    episodes: list[Episode] = []
    with ros_process(args=[]):
        client = TwinClient()
        client.wait(ANSWER_S)
        for _ in range(config.episodes):
            episodes.append(client.episode(config))
            successes = sum(episode.success for episode in episodes)
            print(f"seed {episodes[-1].seed}: {episodes[-1].outcome}; {successes} of {len(episodes)}", flush=True)
        client.destroy_node()
    report = {
        "skill": config.skill,
        "successes": successes,
        "episodes": len(episodes),
        "seeds": [episode.seed for episode in episodes],
        "episodes_detail": [asdict(episode) for episode in episodes],
    }
    with written_whole(config.output) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"{config.skill} through ROS: {successes} of {len(episodes)}{_beside(offline, report)}")


def _read_evaluation(path: Path) -> dict[str, Any]:
    try:
        data: dict[str, Any] = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({reason_of(error)}); name what `evaluate` wrote") from None
    if (fault := fault_in(data, EVALUATION)) is not None:
        raise InputError(f"{path}: {fault}; name what `evaluate` wrote")
    if len(data["seeds"]) != len(data["episodes_detail"]):
        raise InputError(f"{path}: 'seeds' and 'episodes_detail' tell of other episodes; name what `evaluate` wrote")
    return data


def _beside(offline: dict[str, Any] | None, report: dict[str, Any]) -> str:
    """Say what the offline evaluator found on the same seeds."""
    if offline is None:
        return ""
    if offline["seeds"] != report["seeds"]:
        raise InputError("--against has other seeds than the simulator gave; run `evaluate` from the same first seed")
    low, high = offline["interval95"]
    inside = low <= report["successes"] / report["episodes"] <= high
    same = sum(
        a["success"] == b["success"] for a, b in zip(offline["episodes_detail"], report["episodes_detail"], strict=True)
    )
    return (
        f"; offline {offline['successes']} of {offline['episodes']} [{100 * low:.0f}, {100 * high:.0f}] %: "
        f"{'within' if inside else 'outside'}; {same} of {report['episodes']} episodes ended alike"
    )


def main() -> None:
    """Run `twin_episodes` with the process's arguments."""
    sys.exit(run_verb(run))
