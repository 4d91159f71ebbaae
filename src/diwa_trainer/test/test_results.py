"""What a pipeline found: counts, the paired comparison on the same starts, and what the data hold."""

import dataclasses
import json

import numpy as np
import pytest
from toy import DEMONSTRATION_ROWS, DEMONSTRATIONS, PLAY, PLAY_ROWS, TASK, tiny_model

from diwa_runtime.errors import InputError
from diwa_trainer.dataset import Dataset
from diwa_trainer.evaluation.results import print_table, sum_up
from diwa_trainer.evaluation.statistics import mcnemar
from diwa_trainer.world.data_summary import summarise_dataset

BASE = [True, True, False, False, False, True]
TUNED = [True, False, True, True, True, True]


def write(path, **data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))


def write_evaluation(folder, successes, first_seed=0):
    details = [{"seed": i, "success": success, "length": 20} for i, success in enumerate(successes, first_seed)]
    counts = {"successes": sum(successes), "episodes": len(successes), "interval95": [0.1, 0.9], "mean_length": 20.0}
    seeds = list(range(first_seed, first_seed + len(successes)))
    about = {"format_version": 1, "environment": {"id": "a:B-v0", "kwargs": {}}, "bundle": None}
    write(folder / "evaluation.json", **about, **counts, seeds=seeds, episodes_detail=details)


@pytest.fixture
def pipeline(tmp_path):
    write(tmp_path / "world_model" / "summary.json", seconds=100)
    for stage in ("pretrained", "reward"):
        write(tmp_path / TASK / stage / "summary.json", seconds=5)
    for policy, seconds in (("finetuned", 30), ("anchored", 40)):
        summary = {"seconds": seconds, "env_steps": 0, "imagined_steps": 1000, "judged_success_decoded": 0.75}
        write(tmp_path / TASK / policy / "summary.json", **summary)
        write_evaluation(tmp_path / TASK / f"evaluation_{policy}", TUNED)
    write_evaluation(tmp_path / TASK / "evaluation_base", BASE)
    return tmp_path


def test_before_and_after_are_compared_start_by_start(pipeline):
    results = sum_up(pipeline, [TASK], ["finetuned", "anchored"])

    tuned = results["tasks"][TASK]["finetuned"]
    assert (tuned["gained"], tuned["lost"]) == (3, 1)
    assert tuned["mcnemar_p"] == mcnemar(BASE, TUNED)
    assert (tuned["successes"], tuned["episodes"]) == (5, 6)
    assert results["tasks"][TASK]["base"]["successes"] == 3
    assert tuned["imagined_success"] == {"decoded": 0.75}


def test_the_verdict_stands_beside_what_came(pipeline, capsys):
    base, kept = ({"iteration": n, "success": share, "outside": 0.1, "kl": 1.0} for n, share in ((0, 0.5), (20, 0.9)))
    said = {"decision": "accept", "why": "0.5 to 0.9", "chosen": kept, "candidates": [base, kept]}
    write(pipeline / TASK / "finetuned" / "verdict.json", **said)

    results = sum_up(pipeline, [TASK], ["finetuned", "anchored"])

    verdict = results["tasks"][TASK]["finetuned"]["verdict"]
    assert (verdict["decision"], verdict["iteration"], verdict["imagined"]) == ("accept", 20, 0.9)
    assert verdict["rate"] == pytest.approx(0.9), "half of the base policy's episodes succeeded, as imagined"
    assert verdict["interval95"][0] < 0.9 < verdict["interval95"][1]
    assert "verdict" not in results["tasks"][TASK]["anchored"]
    print_table(results)
    assert "accept, 90 %" in capsys.readouterr().out


def test_time_and_imagined_steps_are_told_by_stage(pipeline):
    results = sum_up(pipeline, [TASK], ["finetuned", "anchored"])

    assert results["env_steps_during_finetune"] == 0
    assert results["seconds"] == {"world_model": 100}
    assert results["tasks"][TASK]["imagined_steps"] == 1000
    assert results["tasks"][TASK]["seconds"] == {
        "pretrain": 5, "train_reward": 5, "finetune": 30, "finetune anchored": 40,
    }  # fmt: skip


def test_policies_evaluated_on_other_starts_are_not_compared(pipeline):
    write_evaluation(pipeline / TASK / "evaluation_finetuned", TUNED, first_seed=7)

    with pytest.raises(InputError, match=r"evaluation_base/.* and .*evaluation_finetuned/.* cannot be compared"):
        sum_up(pipeline, [TASK], ["finetuned"])


def test_a_stage_that_is_missing_is_named(pipeline):
    (pipeline / TASK / "reward" / "summary.json").unlink()

    with pytest.raises(InputError, match=r"reward/summary.json: cannot be read"):
        sum_up(pipeline, [TASK], ["finetuned"])


def change(path, **changes):
    """Change keys of a JSON object; None takes a key out."""
    data = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in data.items() if key not in changes or value is not None}))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("evaluation_base/evaluation.json", {"format_version": 2}, "format 2, this DiWA reads 1"),
        ("evaluation_base/evaluation.json", {"seeds": None}, "lacks 'seeds'"),
        (
            "evaluation_finetuned/evaluation.json",
            {"episodes_detail": [{"seed": 0}]},
            "lacks 'episodes_detail.*.success'",
        ),
        ("evaluation_finetuned/evaluation.json", {"episodes_detail": 3}, "lacks 'episodes_detail.*.seed'"),
        ("finetuned/summary.json", {"env_steps": None}, "lacks 'env_steps'"),
        ("reward/summary.json", {"seconds": None}, "lacks 'seconds'"),
    ],
)
def test_a_result_that_is_old_or_incomplete_is_named(pipeline, name, changes, message):
    path = pipeline / TASK / name
    change(path, **changes)

    with pytest.raises(InputError) as refused:
        sum_up(pipeline, [TASK], ["finetuned"])

    assert str(refused.value).startswith(f"{path}: {message}")
    assert str(refused.value).endswith(f"delete {path.parent} and make it anew")


def test_the_table_tells_rates_gain_and_that_no_step_was_taken(pipeline, capsys):
    print_table(sum_up(pipeline, [TASK], ["finetuned"]))

    table = capsys.readouterr().out
    assert "50 % [" in table
    assert "83 % [" in table
    assert "3/1" in table
    assert "mean gain +33.3 points, in 0 environment steps" in table


def test_the_summary_of_the_data_counts_episodes_and_shows_outliers(toy_data):
    data = Dataset.open(toy_data)
    data.arrays["scene"][5, data.spec.scene.index("red_x")] = -7.0
    data.spec = dataclasses.replace(data.spec, rate_hz=15.0)
    model = tiny_model()
    model.fit_features(data)

    summary = summarise_dataset(data, model)

    counted = {(e["kind"], e["task"], e["outcome"]): (e["episodes"], e["rows"]) for e in summary["episodes"]}
    assert counted == {
        ("play", "", ""): (PLAY, PLAY * PLAY_ROWS),
        ("demonstration", TASK, "success"): (DEMONSTRATIONS, DEMONSTRATIONS * DEMONSTRATION_ROWS),
    }
    features = {feature["name"]: feature for feature in summary["features"]}
    assert features["red_x"]["largest_standardised"] > 20  # beyond the clamp, which is why it is shown
    assert features["tcp_x"]["mean"] == pytest.approx(np.mean(data.proprio[:, 0]), abs=1e-5)
    assert summary["hours"] == pytest.approx(len(data) / 15 / 3600)
