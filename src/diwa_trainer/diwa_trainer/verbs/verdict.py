"""`verdict`: what to expect of a fine-tuned policy on the robot, from imagination and a few real episodes.

Without real episodes it says what `finetune` said. With some, of an evaluation or counted by hand, a rate with its 95 %
interval, and whether imagination is to be trusted: where it is wrong about the base policy, it is about the rest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from diwa_runtime.errors import ConfigError, InputError
from diwa_runtime.files import check_overwritable
from diwa_trainer.evaluation.comparison import read_evaluation
from diwa_trainer.policy.verdict import Tally, calibrated
from diwa_trainer.runs.result_files import FORMAT_VERSION, VERDICT, read_result
from diwa_trainer.runs.run import write_json
from diwa_trainer.runs.trained import FINETUNED, load_policy


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
        InputError: a folder holds no verdict or no evaluation, it is damaged, or the evaluation is of another policy.
        ConfigError: a tally is none.
    """
    if config.output is not None:
        check_overwritable(config.output, "a verdict", lambda head: b"interval95" in head)
    said = expected_of(config.finetuned, _tally(config, "real"), _tally(config, "base_real"))
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


def _tally(config: VerdictConfig, name: Literal["real", "base_real"]) -> Tally | None:
    """Read ``14/20``, or the folder or file of an evaluation."""
    given: str | None = getattr(config, name)
    if given is None:
        return None
    if counted := re.fullmatch(r"(\d+)/(\d+)", given):
        successes, episodes = map(int, counted.groups())
        if not 0 < episodes <= 10**6 or successes > episodes:
            raise ConfigError(f"{name} is {given}: must be successes of at least one episode, such as 14/20")
        return Tally(successes, episodes)
    evaluation = read_evaluation(Path(given))
    _check_is_of(config.finetuned, name, given, evaluation)
    return Tally.of(evaluation)


def _check_is_of(finetuned: Path, name: str, given: str, evaluation: Mapping[str, Any]) -> None:
    """Refuse an evaluation whose bundle says that it holds another policy than is asked for."""
    if evaluation["bundle"] is None:
        who = evaluation.get("policy")
        raise InputError(f"{given}: is an evaluation of {who!r}, not of a bundle; name a bundle's as {name}")
    found = evaluation["bundle"].get("provenance", {})
    if "policy" not in found:
        return
    kept = load_policy(finetuned, FINETUNED, "finetune")[1]
    tuned = kept.sha256 if name == "real" else None
    if (found["policy"], found.get("finetuned")) != (kept.about["policy"], tuned):
        wanted = "the kept policy" if name == "real" else "the base policy"
        raise InputError(f"{given}: is no evaluation of {wanted} of {finetuned}; name that one as {name}")
