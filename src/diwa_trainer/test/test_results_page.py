"""docs/results.md: a record for each finished pipeline, and the page of all records."""

import dataclasses
import importlib
import json
import math
import shutil
from pathlib import Path

import pytest
from synthetic_runs import TASKS, write_runs

from diwa_runtime.errors import ConfigError, DiwaError, InputError
from diwa_trainer.evaluation.comparison import Paired, successes_of
from diwa_trainer.runs.result_files import read_result

TASK, EPISODES = TASKS[0], 40
TUNED_WITH = "ppo: {bc_weight: 0.0}\njudged_episodes: 256\nseed: 3\n"


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Folder of a finished pipeline; read only."""
    folder = tmp_path_factory.mktemp("runs") / "seed_3"
    write_runs(folder, episodes=EPISODES, videos=0)
    for task in TASKS:
        (folder / task / "finetuned" / "config.yaml").write_text(TUNED_WITH)
    return folder


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """The script, writing into a folder of its own."""
    module = importlib.import_module("write_results")  # draws, and so loads matplotlib
    monkeypatch.setattr(module, "DOCS", tmp_path / "docs")
    return module


def recorded(scripts, folder: Path, name: str, *more: str):
    """Record a run; return its record as it is read."""
    scripts.main(["record", str(folder), "--name", name, "--simulator", "play table", *more])
    return read_record(scripts.DOCS / "results" / f"{name}.json")


def read_record(path: Path):
    return importlib.import_module("results_page.records").read_record(path)


def test_a_record_keeps_every_outcome_and_what_imagination_said(scripts, runs, tmp_path):
    record = recorded(scripts, runs, "seed_3", "--machine", "two cores", "--design", TASK)

    base, tuned, early = (
        read_result(runs / TASK / f"evaluation_{name}" / "evaluation.json")
        for name in ("base", "finetuned", "finetuned_0020")
    )
    task, paired = record.tasks[TASK], Paired.of(successes_of(base), successes_of(tuned))
    assert (record.seed, record.updates, record.machine, record.design) == (3, 4000, "two cores", (TASK,))
    assert list(record.tasks) == sorted(TASKS)
    assert list(task.base.outcomes) == successes_of(base)
    assert list(task.tuned.real.outcomes) == successes_of(tuned)
    assert (task.tuned.gained, task.tuned.lost, task.tuned.p) == (paired.won, paired.lost, pytest.approx(paired.p))
    assert list(task.tuned.checkpoints[20].starts) == early["seeds"]
    assert [one.iteration for one in task.tuned.judged] == [0, 20, 40, 60]
    points = task.tuned.points(task.base)
    assert {iteration: real.rate for iteration, (_, real) in points.items()} == {
        0: task.base.rate, 20: early["successes"] / EPISODES, 40: task.tuned.real.rate,
    }  # fmt: skip
    assert (tmp_path / "docs" / "results" / "seed_3.json").stat().st_size < 60_000


@pytest.mark.parametrize(("shift", "starts", "said"), [(0, EPISODES, True), (1000, 2 * EPISODES, False)])
def test_the_page_pools_training_seeds_and_says_how_many_different_starts_there_were(
    scripts, runs, tmp_path, shift, starts, said
):
    shutil.copytree(runs, tmp_path / "other")
    for path in (tmp_path / "other").glob("*/evaluation_*/evaluation.json"):
        data = json.loads(path.read_text())
        data["seeds"] = [seed + shift for seed in data["seeds"]]
        for one in data["episodes_detail"]:
            one["seed"] += shift
        path.write_text(json.dumps(data))
    for path in (tmp_path / "other").glob("*/finetuned/config.yaml"):
        path.write_text(TUNED_WITH.replace("seed: 3", "seed: 4"))
    first, _ = recorded(scripts, runs, "first"), recorded(scripts, tmp_path / "other", "other")

    scripts.main([])

    page = (scripts.DOCS / "results.md").read_text()
    assert f"from {starts} different starts" in page
    assert ("(training seeds met the same ones)" in page) == said
    (row,) = [line for line in page.splitlines() if line.startswith(f"| {TASK} |") and "; " in line]
    counts = f"{first.tasks[TASK].base.successes} to {first.tasks[TASK].tuned.real.successes} (p = "
    assert row.count(counts) == 2
    assert f"| {100 * first.tasks[TASK].base.rate:.0f} % [" in row
    for absent in ("LIBERO-90's", "Other models", "How near", "Success against compute"):
        assert f"## {absent}" not in page
    pictures = {path.name for path in (scripts.DOCS / "images").iterdir()}
    assert pictures == {"imagined_against_real.svg", "fine_tuning.svg"}


def test_each_kind_of_record_has_its_own_part(scripts, runs, tmp_path):
    shutil.copytree(runs, tmp_path / "varied")
    for part in ("{}", "evaluation_{}"):
        shutil.copytree(runs / TASK / part.format("finetuned"), tmp_path / "varied" / TASK / part.format("bc_02"))
    settings = tmp_path / "varied" / TASK / "bc_02" / "config.yaml"
    settings.write_text(TUNED_WITH.replace("0.0", "0.2"))
    recorded(scripts, tmp_path / "varied", "varied")
    recorded(scripts, runs, "tenth", "--condition", "a tenth of the play")
    recorded(scripts, runs, "short", "--condition", "world model of 4000 updates")
    recorded(scripts, runs, "kitchen", "--simulator", "LIBERO-90")

    scripts.main([])

    page = (scripts.DOCS / "results.md").read_text()
    parts = {part.split("\n", 1)[0]: part for part in page.split("## ")[1:]}
    assert "| task | base | BC 0 | BC 0.2 |" in parts["How near to the base policy"]
    assert "| play table: a tenth of the play | open_drawer |" in parts["Other models and rewards"]
    line = next(line for line in page.splitlines() if line.startswith("- play table, a tenth of the play: "))
    own, usual = line.removeprefix("- play table, a tenth of the play: ").split("; by the defaults ")
    assert own == usual, "the same runs are both"
    assert own.endswith(f" % over {len(TASKS)} tasks")
    assert "world model of" not in parts["Other models and rewards"]
    assert "| open_drawer | 4000 | 10 | 3 |" in parts["Success against compute"]
    assert "| the paper |" in parts["LIBERO-90's kitchens by the same defaults"]
    assert (scripts.DOCS / "images" / "success_against_compute.svg").exists()


def test_one_training_is_not_counted_twice(scripts, runs):
    recorded(scripts, runs, "first")
    recorded(scripts, runs, "second", "--machine", "another")

    with pytest.raises(
        InputError, match=rf"second\.json: tells of {min(TASKS)} and training seed 3, as first\.json does"
    ):
        scripts.main([])


def test_a_kept_checkpoint_has_both_its_evaluations_and_a_rejected_one_none(scripts, runs, tmp_path):
    shutil.copytree(runs, tmp_path / "run")
    folder = tmp_path / "run" / TASK
    (folder / "evaluation_finetuned_0020").rename(folder / "evaluation_finetuned_0040")
    rejected = tmp_path / "run" / TASKS[1] / "finetuned" / "verdict.json"
    said = json.loads(rejected.read_text())
    rejected.write_text(json.dumps(said | {"decision": "reject", "chosen": said["candidates"][0]}))

    record = recorded(scripts, tmp_path / "run", "run")
    scripts.main([])

    points = {task: found.tuned.points(found.base) for task, found in record.tasks.items()}
    assert {iteration: real.episodes for iteration, (_, real) in points[TASK].items()} == {0: 40, 40: 80}
    assert {iteration: real.episodes for iteration, (_, real) in points[TASKS[1]].items()} == {0: 40, 20: 40}
    assert f"| {TASKS[1]} | run | reject | 0 |" in (scripts.DOCS / "results.md").read_text()


def test_a_checkpoint_that_was_not_judged_is_not_recorded(scripts, runs, tmp_path):
    shutil.copytree(runs, tmp_path / "run")
    folder = tmp_path / "run" / TASK
    (folder / "evaluation_finetuned_0020").rename(folder / "evaluation_finetuned_0030")

    with pytest.raises(InputError, match=r"run: 'finetuned' of 'open_drawer': iteration 30 was not judged"):
        recorded(scripts, tmp_path / "run", "run")


def change(data: dict, where: str, value) -> None:
    """Put a value into plain data, at a place written by dots."""
    *around, last = [int(key) if key.isdigit() else key for key in where.split(".")]
    for key in around:
        data = data[key]
    data[last] = value


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("format_version", 2, "'format_version' is 2"),
        ("tasks", {}, "'tasks' are none"),
        ("design", ["no_task"], "'design' names 'no_task'"),
        (f"tasks.{TASK}.base.outcomes.0", 2, "'tasks.*.base.outcomes' is"),
        (f"tasks.{TASK}.base.successes", 1, "'outcomes' are not as many"),
        (f"tasks.{TASK}.policies.finetuned.first_seed", 7, "on other starts"),
        (f"tasks.{TASK}.policies.finetuned.verdict.iteration", 30, "iteration 30 was not judged"),
        (f"tasks.{TASK}.policies.finetuned.judged.0.iteration", 1, "must begin with iteration 0"),
        (f"tasks.{TASK}.policies", {}, "has no policy 'finetuned'"),
    ],
)
def test_a_damaged_record_is_refused_in_one_line_that_names_it(scripts, runs, where, value, message):
    recorded(scripts, runs, "seed_3")
    path = scripts.DOCS / "results" / "seed_3.json"
    data = json.loads(path.read_text())
    change(data, where, value)
    path.write_text(json.dumps(data))

    with pytest.raises(InputError) as refused:
        scripts.main([])

    assert str(refused.value).startswith(f"{path}: ")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_record_without_outcomes_says_itself_what_was_gained_and_lost(scripts, runs):
    before = recorded(scripts, runs, "seed_3").tasks[TASK].tuned
    path = scripts.DOCS / "results" / "seed_3.json"
    data = json.loads(path.read_text())
    base, tuned = data["tasks"][TASK]["base"], data["tasks"][TASK]["policies"]["finetuned"]
    del base["outcomes"], tuned["outcomes"]
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match="has neither 'outcomes' nor 'gained' and 'lost'"):
        scripts.main([])

    tuned |= {"gained": before.gained, "lost": before.lost}
    path.write_text(json.dumps(data))
    scripts.main([])

    assert read_record(path).tasks[TASK].tuned.p == before.p


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (f"{TASK}/finetuned/config.yaml", "ppo: 3", "lacks 'ppo.bc_weight'"),
        (f"{TASK}/finetuned/config.yaml", "ppo: {bc_weight: .nan}", "expected a number"),
        (f"{TASK}/finetuned/config.yaml", "{", "cannot be read"),
        (f"{TASK}/finetuned/verdict.json", None, "verdict"),
        (f"{TASK}/evaluation_base/evaluation.json", "3", "must hold a JSON object"),
        (f"{TASK}/evaluation_finetuned/evaluation.json", None, "has no evaluated fine-tuned policy"),
        (f"{TASK}/finetuned/summary.json", '{"seconds": "long"}', "'seconds' is 'long', expected a number from 0"),
        ("world_model/summary.json", "{}", "lacks 'seconds'"),
    ],
)
def test_what_cannot_be_read_of_a_run_is_named_and_no_record_is_written(scripts, runs, tmp_path, name, text, message):
    folder = tmp_path / "run"
    shutil.copytree(runs, folder)
    (folder / name).unlink() if text is None else (folder / name).write_text(text)

    with pytest.raises(DiwaError, match=message) as refused:
        recorded(scripts, folder, "broken")

    assert str(folder) in str(refused.value)
    assert not (scripts.DOCS / "results").exists()


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["recrd"], ConfigError),
        (["record", "--name", "a", "--simulator", "b"], ConfigError),
        (["record", "nowhere", "--name", "a", "--simulator", "b"], InputError),
        (["record", "nowhere", "--name", "../a", "--simulator", "b"], ConfigError),
        ([], InputError),
    ],
)
def test_words_that_cannot_be_are_refused(scripts, words, error):
    with pytest.raises(error):
        scripts.main(words)


def test_tasks_that_choices_were_made_on_must_be_the_run_s(scripts, runs):
    with pytest.raises(ConfigError, match="design: 'no_task' is no task of"):
        recorded(scripts, runs, "seed_3", "--design", "no_task")


def test_what_was_aimed_at_stands_beside_what_came(scripts, runs):
    goals = importlib.import_module("results_page.goals").goals
    record = recorded(scripts, runs, "seed_3")

    def with_successes(count: int):
        """As the record, but so many episodes of each fine-tuned policy succeed."""
        tasks = {}
        for name, task in record.tasks.items():
            real = dataclasses.replace(task.tuned.real, successes=count)
            won = count - task.base.successes
            tuned = dataclasses.replace(task.tuned, real=real, gained=max(won, 0), lost=max(-won, 0))
            tasks[name] = dataclasses.replace(task, policies={**task.policies, "finetuned": tuned})
        return dataclasses.replace(record, tasks=tasks)

    def rows(record) -> dict[str, list[str]]:
        cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in goals([record]) if line.startswith("| ")]
        return {goal: rest for goal, *rest in cells}

    base = 100 * sum(task.base.successes for task in record.tasks.values()) / len(TASKS) / EPISODES
    count, mean = len(TASKS), "play table: mean gain, points"
    all_of_them, none = rows(with_successes(EPISODES)), rows(with_successes(0))
    assert all_of_them[mean] == ["+35", f"{100 - base:+.1f}", "met" if 100 - base >= 35 else "**missed**"]
    assert none[mean] == ["+35", f"{-base:+.1f}", "**missed**"]
    reached = "play table: tasks that reach 90 %"
    assert all_of_them[reached] == [f"{count} of {count}", f"{count} of {count}", "met"]
    assert none[reached] == [f"{count} of {count}", f"0 of {count}", "**missed**"]
    seeds = "play table: training seeds of each task, at least"
    assert all_of_them[seeds] == none[seeds] == ["2", "1", "**missed**"]
    honest = "imagined success of the kept policies, less real, by the defaults"
    assert (all_of_them[honest][-1], none[honest][-1]) == ("met", "**missed**")
    assert "play table" not in str(rows(dataclasses.replace(record, condition="little play")))
    worse = next(goal for goal in none if goal.startswith(f"all {count} fine-tunings"))
    assert all_of_them[worse][-1] == "met"
    worst = min(-100 * task.base.rate for task in record.tasks.values())
    assert none[worse] == ["-3", f"{worst:+.0f}", "**missed**"]


@pytest.mark.parametrize(
    ("successes", "budget", "said"), [(EPISODES, None, True), (0, None, False), (EPISODES, 2.0, None)]
)
def test_the_defaults_stand_beside_the_best_fixed_weight(scripts, runs, successes, budget, said):
    goals = importlib.import_module("results_page.goals").goals
    record = recorded(scripts, runs, "seed_3")
    task = record.tasks[TASK]
    real = dataclasses.replace(task.tuned.real, successes=successes)
    other = dataclasses.replace(task.tuned, real=real, bc_weight=0.1, kl_budget=budget)
    tried = dataclasses.replace(task, policies={**task.policies, "other": other})
    lines = goals([dataclasses.replace(record, tasks={**record.tasks, TASK: tried})])

    rows = [line for line in lines if "best fixed BC weight" in line]
    below = 100 * (successes / EPISODES - task.tuned.real.rate)
    assert len(rows) == (said is not None)
    if rows:
        assert rows == [
            f"| the defaults below the best fixed BC weight at most, points, 1 run | 3 | {max(below, 0):.0f} | "
            + ("**missed** |" if said else "met |")
        ]
    found = [*record.tasks.values(), tried]
    gains = [100 * (one.real.rate - task.base.rate) for task in found for one in task.policies.values()]
    counted = len({*record.tasks, TASK}) + 1
    (worst,) = (line for line in lines if line.startswith(f"| all {counted} fine-tunings"))
    assert f"| {min(gains):+.0f} |" in worst, "anchored ones too"


def test_ranks_of_ties_are_their_mean():
    spearman = importlib.import_module("results_page.checkpoints").spearman

    assert spearman([1, 2, 3, 4], [10, 20, 30, 45]) == pytest.approx(1)
    assert spearman([1, 2, 2, 3], [1, 3, 2, 4]) == pytest.approx(0.9487, abs=1e-4)  # scipy.stats.spearmanr
    assert math.isnan(spearman([1, 1], [1, 2])), "no order, no number"


def test_checkpoints_are_held_against_the_base_policy_and_the_best(scripts, runs):
    """Of the synthetic task: real .42, .68 at iteration 20, .94 of 40, which is kept; imagined .55, .80, .93."""
    checkpoints = importlib.import_module("results_page.checkpoints")
    record = recorded(scripts, runs, "seed_3")
    (one,) = [tuning for tuning in checkpoints.tunings([record]) if tuning.task == TASK]

    assert checkpoints.decided([one]) == checkpoints.Decided(good=2, good_refused=0, bad=0, bad_accepted=0)
    assert one.below_best == 0
    assert len(checkpoints.points_of([one])) == 3
    found = checkpoints.foreseen([one])
    assert found.checkpoints == 2
    assert found.counted > found.with_both, "all of the first 20 succeed"
    assert found.ranks[0] == pytest.approx(1), "the better of the two was imagined better"
    assert math.isnan(found.ranks[3]), "its first 20 say the same of both"


def test_the_best_of_equals_is_best_by_luck_alone(scripts, runs):
    """The best by every other episode is judged by those between: what was luck does not carry over."""
    checkpoints = importlib.import_module("results_page.checkpoints")
    record = recorded(scripts, runs, "seed_3")

    def apart(**outcomes: list[int]) -> tuple[float, float]:
        """Distances of the kept policy to the best, judged by the same episodes and by others."""
        task = record.tasks[TASK]
        base, early, kept = (
            dataclasses.replace(real, outcomes=tuple(each), successes=sum(each))
            for real, each in zip(
                (task.base, task.tuned.checkpoints[20], task.tuned.real), outcomes.values(), strict=True
            )
        )
        tuned = dataclasses.replace(task.tuned, real=kept, checkpoints={20: early})
        tasks = {TASK: dataclasses.replace(task, base=base, policies={"finetuned": tuned})}
        (one,) = checkpoints.tunings([dataclasses.replace(record, tasks=tasks)])
        return one.below_best, one.below_best_judged_apart

    none, half, lucky = [0] * EPISODES, [1, 1, 0, 0] * (EPISODES // 4), [1, 0] * (EPISODES // 2)
    lucky[1] = 1
    # By the even episodes `lucky` is best and has 1 in 20 of the odd ones, by the odd ones `half`, which was kept.
    assert apart(base=none, early=lucky, kept=half) == pytest.approx((0.025, (0.05 - 0.5) / 2))
    # A better one is better by either half.
    assert apart(base=none, early=[1] * EPISODES, kept=half) == pytest.approx((0.5, 0.5))
    without = dataclasses.replace(record.tasks[TASK].base, outcomes=None)
    tasks = {TASK: dataclasses.replace(record.tasks[TASK], base=without)}
    (one,) = checkpoints.tunings([dataclasses.replace(record, tasks=tasks)])
    assert one.below_best_judged_apart is None


def test_the_kept_page_is_what_the_kept_records_say(scripts):
    docs = scripts.ROOT / "docs"

    assert scripts.page(scripts.read_records(docs / "results")) == (docs / "results.md").read_text()
