"""The pipeline: every verb in order from one YAML, done once, stopped and resumed, and nothing found too late."""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from planned_settings import check_settings_fit
from test_ingest import START, messages_of, with_episode, write_bag
from toy import (
    TASK,
    TINY_MODEL,
    TINY_POLICY,
    TINY_PPO,
    Table,
    demonstration_action,
    episode,
    keep_the_last,
    play_action,
)

from diwa_runtime.config import load_config, to_plain
from diwa_runtime.errors import ConfigError, DiwaError, InputError
from diwa_runtime.spec import Spec
from diwa_trainer.__main__ import main
from diwa_trainer.evaluation.env_steps import env_steps_taken
from diwa_trainer.runs.run import Run
from diwa_trainer.verbs import finetune, pipeline
from diwa_trainer.verbs.pipeline import PipelineConfig

SECOND_NS = 1_000_000_000
DEMONSTRATIONS = 12
EVERY = {"log_every": 2, "save_every": 2}


class Recorded:
    """Rows of the toy table as messages of a robot."""

    def __init__(self, rows: dict[str, np.ndarray]) -> None:
        self.proprio, self.scene = rows["proprio"], rows["scene"]
        hold = np.zeros((1, 6), np.float32)
        self.accepted = np.concatenate([hold, rows["action"][:-1, :6]])
        self.gripper = rows["proprio"][:, 14]


def write_toy_bags(folder: Path, demonstrations: int = DEMONSTRATIONS) -> list[Path]:
    """Write a bag of play and one of demonstrations, each of several episodes a minute apart."""
    rng = np.random.default_rng(0)
    play, shown = [], []
    for number in range(3):
        rows = episode(Table(rng, 0.02), play_action, 70, rng)
        play += with_episode(messages_of(Recorded(rows), START + 60 * number * SECOND_NS))
    for number in range(demonstrations):
        rows = episode(Table(rng), demonstration_action, 20, rng)
        done = int(np.argmax(rows["scene"][:, 1] > 0.12))
        messages = messages_of(Recorded(rows), START + (1000 + 60 * number) * SECOND_NS)
        shown += with_episode(messages, TASK, number, done)
    return [write_bag(folder / "play", play), write_bag(folder / "demonstrations", shown)]


@pytest.fixture(scope="module")
def bags(tmp_path_factory) -> list[Path]:
    return write_toy_bags(tmp_path_factory.mktemp("bags"))


def settings(folder: Path, bags: list[Path], **changes) -> dict:
    """What a YAML of a tiny pipeline says."""
    return {
        "output": str(folder / "pipeline"),
        "bags": [str(bag) for bag in bags],
        "tasks": [TASK],
        "workers": 1,
        "stages": {
            "train_world_model": {"model": to_plain(TINY_MODEL), "updates": 4, "batch": 4, "length": 12, **EVERY},
            "pretrain": {"demonstrations": 10, "policy": to_plain(TINY_POLICY), "updates": 4, "batch": 16, **EVERY},
            "train_reward": {"play": 6, "updates": 4, "batch": 16, **EVERY},
            "finetune": {
                "ppo": to_plain(TINY_PPO), "iterations": 4, "episodes": 8, "chunks": 3, "play_starts": 4,
                "judged_episodes": 8, "save_every": 2, "judge_every": 2, "patience": 0, "support": {"kind": "none"},
            },
            "evaluate": {"environment": "toy:ToyTable-v0", "episodes": 3, "max_steps": 8, "workers": 1, "videos": 1},
        },
        **changes,
    }  # fmt: skip


def config(folder: Path, bags: list[Path], **changes) -> PipelineConfig:
    path = folder / "pipeline.yaml"
    path.write_text(yaml.safe_dump(settings(folder, bags, **changes)))
    return load_config(PipelineConfig, ["--config", str(path)])


def with_stage(folder: Path, bags: list[Path], stage: str, **changes) -> dict:
    stages = settings(folder, bags)["stages"]
    return {"stages": {**stages, stage: {**stages.get(stage, {}), **changes}}}


@pytest.fixture(scope="module")
def done(tmp_path_factory, bags) -> Path:
    """Folder of a finished pipeline with a variant and a kept iteration, its evaluations in this process; read only."""
    folder = tmp_path_factory.mktemp("done")
    variants = {"anchored": {"ppo": {"bc_weight": 0.2}}}
    before = env_steps_taken()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune, "choose", keep_the_last)
        pipeline.run(config(folder, bags, variants=variants, iterations_evaluated=[2]))
    assert env_steps_taken() > before, "evaluations take steps, before and between the fine-tunings"
    return folder / "pipeline"


def test_it_ends_with_results_in_the_agreed_form_and_a_report(done):
    results = json.loads((done / "results.json").read_text())

    assert results["env_steps_during_finetune"] == 0
    task = results["tasks"][TASK]
    for policy in ("base", "finetuned", "anchored"):
        assert task[policy]["episodes"] == 3
        assert 0 <= task[policy]["successes"] <= 3
    assert task["imagined_steps"] > 0
    assert task["seconds"].keys() >= {"pretrain", "train_reward", "finetune"}
    assert (done / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_what_is_handed_on_is_what_came_before(done):
    """The data's rows, the variant's own settings, and the kept iteration on seeds after the final ones."""
    config_of = lambda name: yaml.safe_load((done / name / "config.yaml").read_text())  # noqa: E731
    evaluation = json.loads((done / TASK / "evaluation_finetuned_0002" / "evaluation.json").read_text())

    assert len(json.loads((done / "dataset" / "dataset.json").read_text())["episodes"]) == 3 + DEMONSTRATIONS
    assert config_of(f"{TASK}/anchored")["ppo"] == {**to_plain(TINY_PPO), "bc_weight": 0.2}
    assert config_of(f"{TASK}/finetuned")["ppo"] == to_plain(TINY_PPO)
    assert evaluation["seeds"] == [100_003, 100_004, 100_005]
    assert not list((done / TASK).rglob("*.partial"))


def test_a_record_can_be_kept_of_it(done, tmp_path):
    records, runs = (importlib.import_module(f"results_page.{name}") for name in ("records", "runs"))

    records.write_record(tmp_path / "toy.json", runs.record_of(runs.RecordConfig(done, "toy", "toy")))

    task = records.read_record(tmp_path / "toy.json").tasks[TASK]
    assert {name: policy.label for name, policy in task.policies.items()} == {"finetuned": "BC 0", "anchored": "BC 0.2"}
    assert list(task.tuned.points(task.base)) == [0, 2, 4]


def test_an_iteration_that_was_not_reached_is_left_out_and_said_in_one_line(tmp_path, bags, monkeypatch, capsys):
    monkeypatch.setattr(finetune, "_stands_still", lambda _, state: state.step >= 2)

    pipeline.run(config(tmp_path, bags, iterations_evaluated=[2, 4]))

    folder = tmp_path / "pipeline" / TASK
    assert (folder / "evaluation_finetuned_0002" / "evaluation.json").exists()
    assert not list(folder.glob("*_0004"))
    said = [line for line in capsys.readouterr().out.splitlines() if "left out" in line]
    assert said == [f"[{TASK}/bundle_finetuned_0004] left out: finetune ended before that iteration"]


def test_any_name_of_a_folder_will_do_and_what_was_moved_goes_on(tmp_path, bags, monkeypatch):
    """Brackets, commas, quotes, a line break and bytes that are no text: copies have such names."""
    folder = tmp_path / os.fsdecode(b"[old], 'am' (copy)*\n#: \xff")
    shutil.copytree(bags[0].parent, folder / "bags")
    pipeline.run(config(folder, [folder / "bags" / bag.name for bag in bags]))
    moved = folder.rename(tmp_path / "moved")
    monkeypatch.setattr(Run, "save", lambda *_: pytest.fail("trained again"))

    pipeline.run(config(moved, [moved / "bags" / bag.name for bag in bags]))

    assert (moved / "pipeline" / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("name", ["results.json", "report.html", f"{TASK}/pipeline.yaml", "dataset/notes.md"])
def test_what_is_not_the_pipeline_s_is_found_before_anything_is_made(tmp_path, bags, name):
    path = tmp_path / "pipeline" / name
    path.parent.mkdir(parents=True)
    path.write_text("years of work")

    with pytest.raises(InputError, match=path.name):
        pipeline.run(config(tmp_path, bags))

    assert path.read_text() == "years of work"
    assert [one for one in (tmp_path / "pipeline").rglob("*") if one.is_file()] == [path]


def test_a_second_call_does_nothing_again(done, bags, monkeypatch):
    def work(*_):
        raise AssertionError("worked again")

    before = {path: path.stat().st_mtime_ns for path in done.rglob("*") if path.parent != done}
    monkeypatch.setattr(Run, "log", work)
    monkeypatch.setattr("diwa_trainer.verbs.export.write_bundle", work)
    monkeypatch.setattr("diwa_trainer.verbs.evaluate.evaluate", work)

    variants = {"anchored": {"ppo": {"bc_weight": 0.2}}}
    pipeline.run(config(done.parent, bags, variants=variants, iterations_evaluated=[2]))

    assert {path: path.stat().st_mtime_ns for path in done.rglob("*") if path.parent != done} == before


def test_a_policy_that_was_trained_anew_is_exported_anew_and_not_taken_for_the_one_evaluated(
    tmp_path, done, bags, monkeypatch
):
    monkeypatch.setattr(finetune, "choose", keep_the_last)
    shutil.copytree(done, tmp_path / "pipeline")
    for name in ("anchored", "bundle_anchored", "evaluation_anchored"):
        shutil.rmtree(tmp_path / "pipeline" / TASK / name)
    for name in ("finetuned", "bundle_finetuned_0002", "evaluation_finetuned_0002"):
        shutil.rmtree(tmp_path / "pipeline" / TASK / name)
    manifest = tmp_path / "pipeline" / TASK / "bundle_finetuned" / "manifest.json"
    before = json.loads(manifest.read_text())["provenance"]["finetuned"]
    changed = with_stage(tmp_path, bags, "finetune", seed=7)

    with pytest.raises(ConfigError, match=r"evaluation_finetuned: (holds a run with bundle|was made from another)"):
        run_in_place(done, tmp_path, bags, changed)

    assert json.loads(manifest.read_text())["provenance"]["finetuned"] != before


def run_in_place(done: Path, folder: Path, bags: list[Path], changes: dict) -> None:
    """Run on a copy of `done`, whose settings name the paths of the original."""
    for path in (folder / "pipeline").rglob("config.yaml"):
        path.write_text(path.read_text().replace(str(done), str(folder / "pipeline")))
    pipeline.run(config(folder, bags, **changes))


# --- nothing is found too late ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        ("finetune", {"iteratons": 3}, "settings of finetune: unknown setting 'iteratons'; did you mean 'iterations'"),
        ("finetune", {"ppo": {"clipp": 1}}, "unknown setting 'ppo.clipp'; did you mean 'ppo.clip'|'clip'"),
        ("evaluate", {"episodes": 0}, "episodes is 0"),
        ("train_reward", {"batch": 0}, "batch is 0, must be at least 4"),
        ("evaluation", {}, "no stage 'evaluation'; did you mean 'evaluate'"),
    ],
)
def test_a_setting_that_cannot_be_is_found_before_anything_is_made(tmp_path, bags, stage, changes, message):
    with pytest.raises(ConfigError, match=message):
        pipeline.run(config(tmp_path, bags, **with_stage(tmp_path, bags, stage, **changes)))

    assert not (tmp_path / "pipeline").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": []}, "tasks must name at least one"),
        ({"tasks": [TASK, TASK]}, "none twice"),
        ({"variants": {"base": {}}}, "variants: 'base' cannot name a folder"),
        ({"variants": {"../x": {}}}, "variants: '../x' cannot name a folder"),
        ({"iterations_evaluated": [3]}, "names 3, but of 4 iterations finetune keeps every 2th"),
        ({"iterations_evaluated": [6]}, "names 6, but of 4 iterations"),
        ({"workers": 0}, "workers is 0"),
    ],
)
def test_a_plan_that_cannot_be_is_found_before_anything_is_made(tmp_path, bags, changes, message):
    with pytest.raises(ConfigError, match=message):
        pipeline.run(config(tmp_path, bags, **changes))

    assert not (tmp_path / "pipeline").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ["open_draw"]}, "no task 'open_draw' in the Spec; did you mean 'open_drawer'"),
        ({"task_stages": {"open_draw": {}}}, "no task 'open_draw' in the Spec; did you mean 'open_drawer'"),
        ({"tasks": [TASK, "turn_on_led"]}, "has 0 successful demonstrations of turn_on_led, needs 10"),
    ],
)
def test_a_task_that_cannot_be_learned_is_found_before_the_world_model_is(tmp_path, bags, changes, message):
    with pytest.raises(InputError, match=message):
        pipeline.run(config(tmp_path, bags, **changes))

    assert not (tmp_path / "pipeline" / "world_model").exists()


def test_starts_that_were_recorded_judge_no_policy(tmp_path, bags):
    asked = config(tmp_path, bags)
    asked.stages["evaluate"]["first_seed"] = 9  # the demonstrations have 0 to 11
    with pytest.raises(ConfigError, match=r"first_seed 9 and episodes 3 include seed 9, from which .*dataset holds a"):
        pipeline.run(asked)
    assert not (tmp_path / "pipeline" / "world_model").exists()


def test_without_resuming_a_folder_in_which_one_has_begun_is_refused(done, bags):
    with pytest.raises(ConfigError, match="a pipeline has begun there"):
        pipeline.run(config(done.parent, bags, resume=False))


# --- stopped and resumed ----------------------------------------------------------------------------------------


def test_ctrl_c_in_any_verb_stops_the_pipeline_and_the_same_command_goes_on(tmp_path, bags, monkeypatch, capsys):
    path = tmp_path / "pipeline.yaml"
    path.write_text(yaml.safe_dump(settings(tmp_path, bags)))
    log = Run.log
    interrupted: list[str] = []

    def log_and_interrupt(run, step, metrics, **shown):
        log(run, step, metrics, **shown)
        if step == 2 and run.folder.name not in interrupted:
            interrupted.append(run.folder.name)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Run, "log", log_and_interrupt)
    codes = [main(["pipeline", "--config", str(path)]) for _ in range(5)]

    assert codes == [130, 130, 130, 130, 0]
    assert interrupted == ["world_model", "pretrained", "reward", "finetuned"]
    assert capsys.readouterr().err.count("the same command goes on from it") == 4
    assert (tmp_path / "pipeline" / "results.json").exists()


def fake_tasks(monkeypatch, tmp_path, script: str) -> None:
    """Let each task be a process that runs `script`, which knows its task as argv[1]."""
    path = tmp_path / "task.py"
    path.write_text(script)
    command = lambda config, task: [sys.executable, str(path), task]  # noqa: ARG005, E731
    monkeypatch.setattr(pipeline, "_task_command", command)


def test_tasks_run_as_processes_and_the_one_that_fails_is_named(tmp_path, bags, done, monkeypatch):
    fake_tasks(monkeypatch, tmp_path, "import sys; sys.exit(2 if sys.argv[1] == 'turn_on_led' else 0)")
    setup = config(tmp_path, bags, tasks=[TASK, "turn_on_led"], workers=2, shared=False, output=str(done))

    with pytest.raises(DiwaError, match=r"^turn_on_led failed, see above"):
        pipeline.run(setup)


def test_ctrl_c_reaches_each_task_through_its_parent_alone(tmp_path, bags, monkeypatch):
    """A process asked twice stops without a checkpoint: none may be in the group that a terminal's Ctrl-C reaches."""
    os.mkfifo(tmp_path / "ready")
    script = f"""
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
with open({str(tmp_path / "ready")!r}, "w") as ready:
    ready.write(str(os.getpgid(0)) + "\\n")
signal.sigwait([signal.SIGINT])
open(os.path.join({str(tmp_path)!r}, "asked_" + sys.argv[1]), "w").close()
sys.exit(130)
"""
    fake_tasks(monkeypatch, tmp_path, script)
    setup = config(tmp_path, bags, tasks=[TASK, "turn_on_led"], workers=2, shared=False)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.open(tmp_path / "ready", os.O_WRONLY)  # so that the reader meets the end when this process ends
            pipeline.run(setup)
        except KeyboardInterrupt:
            code = 77
        finally:
            os._exit(code)
    with open(tmp_path / "ready", "rb") as ready:
        groups = [int(ready.readline()) for _ in range(2)]
    os.kill(child, signal.SIGINT)
    _, status = os.waitpid(child, 0)

    assert os.WEXITSTATUS(status) == 77
    assert {path.name for path in tmp_path.glob("asked_*")} == {f"asked_{TASK}", "asked_turn_on_led"}
    assert os.getpgid(0) not in groups
    assert groups[0] != groups[1]


def test_a_task_as_a_process_finds_what_is_shared_done(done, bags):
    """The command that the parent gives is the same program, and skips all that is there."""
    variants = {"anchored": {"ppo": {"bc_weight": 0.2}}}
    setup = config(done.parent, bags, variants=variants, iterations_evaluated=[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])}

    ended = subprocess.run(
        pipeline._task_command(setup, TASK), env=environment, capture_output=True, text=True, check=False
    )

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("is done already") >= 6
    assert all(line.startswith(f"[{TASK}/") for line in ended.stdout.splitlines()), "lines of tasks side by side mix"
    assert ended.stderr == ""


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"environment": "toy:Nowhere-v0"}, ConfigError, "environment 'toy:Nowhere-v0' cannot be made"),
        ({"environment": "no_such_module:Table-v0"}, ConfigError, "No module named 'no_such_module'"),
        ({"environment_kwargs": {"rate_hz": 20.0}}, DiwaError, "disagree in 'rate_hz'"),
        ({"environment_kwargs": {"draws": False}, "videos": 1}, InputError, "use --videos 0"),
        ({"environment_kwargs": {"fails_at": 0}}, InputError, "reset of the episode with seed 100000 failed"),
    ],
)
def test_an_environment_that_will_not_do_is_found_before_the_world_model_learns(tmp_path, bags, changes, error, said):
    usual = {"environment": "point_environment:Point-v0", "videos": 0}
    setup = config(tmp_path, bags, **with_stage(tmp_path, bags, "evaluate", **{**usual, **changes}))
    with pytest.raises(error, match=said):
        pipeline.run(setup)
    assert [path.name for path in setup.output.iterdir()] == ["dataset"]


def test_one_success_for_several_tasks_is_refused_before_the_world_model_learns(tmp_path, bags):
    """`Plain` is not told which task it is to judge; with arguments of their own each task may have its own success."""
    usual = {"environment": "point_environment:Plain-v0", "videos": 0}
    setup = config(tmp_path, bags, **with_stage(tmp_path, bags, "evaluate", **usual))
    plans = {task: pipeline.plan_task(setup, task) for task in (TASK, "close_drawer")}
    data = SimpleNamespace(spec=Spec(), folder=tmp_path)

    with pytest.raises(
        ConfigError, match=f"takes no argument `task`, so {TASK} and close_drawer would be judged by one"
    ):
        pipeline._try_environments(plans, data)
    pipeline._try_environments({TASK: plans[TASK]}, data)


def test_a_task_s_folder_is_never_a_recording(tmp_path, bags):
    """Folders of recordings are often named like the task that they show."""
    shutil.copytree(bags[1], tmp_path / "bags" / TASK)
    setup = config(tmp_path, [tmp_path / "bags"], output=str(tmp_path / "bags"))

    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=f"{TASK}: what is trained of {TASK} would lie in the bag"):
        pipeline.run(setup)
    assert sorted(tmp_path.rglob("*")) == before


CONDITIONS = ("bad_reward_seed_1", "hand", "little_play", "untouched", "updates")


@pytest.mark.parametrize(
    ("collected", "files"),
    [
        ("demo_collect.yaml", ["demo.yaml"]),
        ("results_collect.yaml", ["results.yaml"]),
        ("results_collect.yaml", ["results.yaml", "results_anchor.yaml"]),
        *(("results_collect.yaml", ["results.yaml", f"results_{name}.yaml"]) for name in CONDITIONS),
    ],
)
def test_the_project_s_own_settings_can_be_planned(collected: str, files: list[str]) -> None:
    """What `make demo` and `make results` run for hours is seen in a second to fit together."""
    folder = Path(__file__).parents[3] / "config"
    recorded = yaml.safe_load((folder / collected).read_text())
    planned = load_config(PipelineConfig, [word for file in files for word in ("--config", str(folder / file))])
    check_settings_fit(planned, recorded)
