"""Two evaluations are compared start by start, if they are of the same starts and terms; else what differs is named."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from diwa_runtime.config import load_config
from diwa_runtime.errors import ConfigError, InputError
from diwa_trainer.evaluation.settings import EvaluateConfig
from diwa_trainer.evaluation.statistics import mcnemar, wilson_interval
from diwa_trainer.verbs import evaluate as verb

POINT = "point_environment:Point-v0"


@pytest.fixture(autouse=True)
def _point_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def standing(folder: Path, **changes: Any) -> EvaluateConfig:
    """Settings of an evaluation in which nothing moves: who starts near zero succeeds."""
    settings = {"policy": "zero", "environment": POINT, "episodes": 30, "max_steps": 3, "workers": 1, "videos": 0}
    return EvaluateConfig(output=folder, **{**settings, **changes})


@pytest.fixture
def other(tmp_path: Path) -> Path:
    verb.run(standing(tmp_path / "other"))
    return tmp_path / "other"


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**read(path), **changes}))


def test_an_evaluation_is_compared_with_another_one_when_it_is_done(tmp_path, other, capsys):
    solved = standing(tmp_path / "solved", policy="random", compare=other, first_seed=100_000)
    capsys.readouterr()

    verb.run(solved)

    ours, theirs = read(tmp_path / "solved" / "evaluation.json"), read(other / "evaluation.json")
    new, before = ([one["success"] for one in e["episodes_detail"]] for e in (ours, theirs))
    assert new != before
    found = read(tmp_path / "solved" / "comparison.json")
    assert found["won"] == [100_000 + i for i in range(30) if new[i] and not before[i]]
    assert found["lost"] == [100_000 + i for i in range(30) if before[i] and not new[i]]
    assert found["mcnemar_p"] == mcnemar(before, new)
    assert found["ours"]["interval95"] == list(wilson_interval(sum(new), 30))
    assert (found["theirs"]["successes"], found["theirs"]["evaluation"]) == (sum(before), str(other))
    said = capsys.readouterr().out.splitlines()[-1]
    assert f"{100 * sum(new) / 30:.0f} % [" in said
    assert f"won {len(found['won'])}, lost {len(found['lost'])} starts, McNemar p = " in said


@pytest.mark.parametrize("named", ["folder", "file"])
def test_two_that_are_done_are_compared_without_running_anything(tmp_path, other, named, monkeypatch):
    verb.run(standing(tmp_path / "ours", policy="random"))
    monkeypatch.setattr(verb, "evaluate", pytest.fail)
    place = other if named == "folder" else other / "evaluation.json"

    verb.run(load_config(EvaluateConfig, ["--output", str(tmp_path / "ours"), "--compare", str(place)]))

    assert read(tmp_path / "ours" / "comparison.json")["theirs"]["evaluation"] == str(place)


def test_the_same_command_compares_a_run_that_is_done(tmp_path, other):
    settings = standing(tmp_path / "ours", policy="random")
    verb.run(settings)

    verb.run(dataclasses.replace(settings, compare=other))

    assert (tmp_path / "ours" / "comparison.json").exists()


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"first_seed": 7}, r"'seeds' \(\"7 to 36\" against \"100000 to 100029\"\)"),
        ({"episodes": 29}, r"'seeds' \(\"100000 to 100028\" against"),
        ({"max_steps": 4}, r"'max_steps' \(4 against 3\)"),
        ({"task": "turn_on_led"}, r"'task' \(\"turn_on_led\" against null\)"),
        ({"environment_kwargs": {"draws": False}}, r"'environment.kwargs.draws' \(false against null\)"),
        (
            {"environment": "point_environment:Plain-v0", "max_steps": 4},
            r"'environment.id' \(.*Plain.*\), 'max_steps' \(",
        ),
    ],
)
def test_what_was_not_run_on_the_same_terms_is_refused_before_anything_runs(
    tmp_path, other, changes, differs, monkeypatch
):
    monkeypatch.setattr(verb, "evaluate", pytest.fail)
    with pytest.raises(InputError, match=differs):
        verb.run(standing(tmp_path / "ours", compare=other, **changes))
    assert not (tmp_path / "ours").exists()


def test_two_that_are_done_and_of_other_terms_are_refused_too(tmp_path, other):
    shutil.copytree(other, tmp_path / "ours")
    change(tmp_path / "ours" / "evaluation.json", max_steps=99)
    with pytest.raises(InputError, match=r"'max_steps' \(99 against 3\); evaluate both with the same settings"):
        verb.run(EvaluateConfig(output=tmp_path / "ours", compare=other))
    assert not (tmp_path / "ours" / "comparison.json").exists()


def test_an_evaluation_from_before_steps_after_success_is_still_compared(tmp_path, other):
    shutil.copytree(other, tmp_path / "old")
    path = tmp_path / "old" / "evaluation.json"
    data = read(path)
    del data["steps_after_success"]
    for episode in data["episodes_detail"]:
        del episode["watched"]
    path.write_text(json.dumps(data))

    verb.run(EvaluateConfig(output=tmp_path / "old", compare=other))

    assert read(tmp_path / "old" / "comparison.json")["mcnemar_p"] == 1


def test_what_is_no_evaluation_is_one_line(tmp_path, other):
    for place in (tmp_path / "nowhere", tmp_path, other / "summary.json"):
        with pytest.raises(InputError, match=r": no evaluation there; name the folder of one that is done"):
            verb.run(EvaluateConfig(output=other, compare=place))
    with pytest.raises(ConfigError, match="policy 'bundle' needs a --bundle"):
        EvaluateConfig(output=other)
