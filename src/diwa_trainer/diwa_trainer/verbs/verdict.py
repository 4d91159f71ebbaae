"""`verdict`: what to expect of a fine-tuned policy on the robot, from imagination and a few real episodes.

Without real episodes it says what `finetune` said. With some, of an evaluation or counted by hand, a rate with its 95 %
interval, and whether imagination is to be trusted: where it is wrong about the base policy, it is about the rest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diwa_runtime.errors import ConfigError
from diwa_runtime.files import check_overwritable
from diwa_trainer.evaluation.comparison import read_evaluation
from diwa_trainer.policy.verdict import Tally, calibrated
from diwa_trainer.runs.result_files import FORMAT_VERSION, VERDICT, read_result
from diwa_trainer.runs.run import write_json


@dataclass(frozen=True)
class VerdictConfig:
    """Say what to expect of a fine-tuned policy, from imagination and a few real episodes."""

    finetuned: Path = field(metadata={"help": "run folder of finetune"})
    real: str | None = field(
        default=None, metadata={"help": "real episodes of the kept policy: 14/20, or an evaluation's folder"}
    )
    base_real: str | None = field(default=None, metadata={"help": "the same of the base policy"})
    output: Path | None = field(default=None, metadata={"help": "JSON file; none: it is printed alone"})


def run(config: VerdictConfig) -> None:
    """Print the verdict, and write it where it is wanted.

    Raises:
        InputError: a folder holds no verdict or no evaluation, or it is damaged.
        ConfigError: a tally is none.
    """
    if config.output is not None:
        check_overwritable(config.output, "a verdict", lambda head: b"interval95" in head)
    said = expected_of(config.finetuned, _tally("real", config.real), _tally("base_real", config.base_real))
    low, high = said["interval95"]
    print(f"verdict: {said['decision']}; {said['why']}")
    print(f"expected success: {said['rate']:.0%} [{low:.0%}, {high:.0%}]")
    for warning in said["warnings"]:
        print(f"warning: {warning}")
    if config.output is not None:
        write_json(config.output, said)


def expected_of(finetuned: Path, real: Tally | None, base_real: Tally | None) -> dict[str, Any]:
    """Return the verdict of a run folder of finetune, and what to expect of its policy given real episodes."""
    verdict = read_result(finetuned / VERDICT)
    found = calibrated(verdict, real, base_real)
    said = {name: verdict[name] for name in ("decision", "why")}
    return {"format_version": FORMAT_VERSION, "interval95": list(found.interval95), **said, **found.to_json()}


def _tally(name: str, given: str | None) -> Tally | None:
    """Read ``14/20``, or the folder or file of an evaluation."""
    if given is None:
        return None
    if counted := re.fullmatch(r"(\d+)/(\d+)", given):
        successes, episodes = map(int, counted.groups())
        if not 0 < episodes <= 10**6 or successes > episodes:
            raise ConfigError(f"{name} is {given}: must be successes of at least one episode, such as 14/20")
        return Tally(successes, episodes)
    return Tally.of(read_evaluation(Path(given)))
