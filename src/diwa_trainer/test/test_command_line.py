"""The command line: what a person got wrong is one line on stderr and exit code 2, and nothing is left half-written."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from toy import SPEC, TASK, TRAINERS, tiny_configs, write_toy

from diwa_runtime.config import to_yaml
from diwa_runtime.spec import ActionScale
from diwa_trainer.__main__ import VERBS, main
from diwa_trainer.runs.trained import load_classifier

TRAINING = list(TRAINERS)


@pytest.fixture
def refused(capsys, tmp_path):
    """Run a command that must be refused; return its one line. Nothing may appear in the test's folder."""

    def run(*argv: str) -> str:
        before = sorted(tmp_path.rglob("*"))
        capsys.readouterr()
        code = main([str(word) for word in argv])
        said = capsys.readouterr()
        assert code == 2
        assert said.err.startswith("error: ")
        assert said.err.count("\n") == 1
        assert said.out == ""
        assert sorted(tmp_path.rglob("*")) == before
        return said.err

    return run


def flags(verb: str, data: Path, runs: Path, output: Path, **changes) -> list[str]:
    """The command line of a verb on the toy data, with settings from a file."""
    config = dataclasses.replace(tiny_configs(data, runs)[verb], output=output, **changes)
    path = output.parent / f"{verb}.yaml"
    path.write_text(to_yaml(config))
    return [verb, "--config", str(path)]


def damage_header(path: Path, **about) -> None:
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["diwa"])
    save_file(load_file(path), path, {"diwa": json.dumps({**header, "about": {**header["about"], **about}})})


# --- verbs and flags --------------------------------------------------------------------------------------------


def test_an_unknown_verb_gives_the_nearest(refused):
    assert "no verb 'finetun'; did you mean 'finetune'" in refused("finetun")


def test_verbs_are_spelled_with_dashes_too(refused):
    assert "unknown flag --updatse; did you mean '--updates'" in refused("train-world-model", "--updatse", "3")


@pytest.mark.parametrize("verb", VERBS)
def test_an_unknown_flag_gives_the_nearest(refused, verb):
    assert "unknown flag --outptu; did you mean '--output'" in refused(verb, "--outptu", "x")


@pytest.mark.parametrize("verb", VERBS)
def test_help_lists_every_setting(capsys, verb):
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])

    assert ended.value.code in (0, None)
    assert "--output" in capsys.readouterr().out


def test_without_a_verb_they_are_listed(capsys):
    assert main([]) == 2
    assert main(["--help"]) == 0
    assert capsys.readouterr().out.count("train_world_model, pretrain") == 2


@pytest.mark.parametrize("verb", VERBS)
def test_a_missing_setting_is_named(refused, verb):
    assert "is missing; give --" in refused(verb)


@pytest.mark.parametrize(
    ("verb", "setting", "value"),
    [
        ("train_world_model", "batch", 0),
        ("train_world_model", "validation", 1.5),
        ("train_world_model", "save_every", 0),
        ("pretrain", "demonstrations", 0),
        ("pretrain", "encodings", -1),
        ("train_reward", "threads", 0),
        ("finetune", "iterations", 0),
        ("train_world_model", "model.rssm.classes", 1),
        ("train_world_model", "model.kl_balance", 1.5),
        ("pretrain", "policy.chunk", 0),
        ("pretrain", "policy.finetuned_steps", 9),
        ("train_reward", "classifier.embedding", 0),
        ("finetune", "ppo.minibatch", 0),
        ("finetune", "ppo.gamma", 1.1),
        ("finetune", "ppo.clip_rate", 1000.0),
        ("train_world_model", "gradient_clip", 0.0),
        ("train_world_model", "validation", 0.0),
        ("pretrain", "weight_decay", -0.1),
        *[(verb, "seed", -1) for verb in TRAINING],
        ("train_world_model", "seed", 2**64),
        ("train_world_model", "split_seed", -1),
        ("train_reward", "split_seed", -1),
        *[(verb, "learning_rate", -0.1) for verb in TRAINING if verb != "finetune"],
        ("train_world_model", "final_learning_rate", -0.1),
        ("pretrain", "final_learning_rate", -0.1),
        ("finetune", "ppo.actor_learning_rate", -0.1),
        ("finetune", "ppo.critic_learning_rate", -0.1),
    ],
)
def test_a_number_that_cannot_be_is_refused_with_its_bound(refused, tmp_path, toy_data, toy_runs, verb, setting, value):
    argv = flags(verb, toy_data, toy_runs, tmp_path / "run")

    assert f"{setting.rpartition('.')[2]} is {value}, must be at " in refused(*argv, f"--{setting}", value)


@pytest.mark.parametrize("threshold", [0.0, 1.0, 1.1, -0.1])
@pytest.mark.parametrize("verb", ["train_reward", "finetune"])
def test_a_threshold_is_a_probability_that_can_be_passed(refused, tmp_path, toy_data, toy_runs, verb, threshold):
    argv = flags(verb, toy_data, toy_runs, tmp_path / "run")

    assert f"threshold is {threshold}, must be above 0 and below 1" in refused(*argv, "--threshold", threshold)


def test_a_time_embedding_of_halves_that_differ_is_refused(refused, tmp_path, toy_data, toy_runs):
    argv = flags("pretrain", toy_data, toy_runs, tmp_path / "run")

    assert "time_embedding is 7, must be even" in refused(*argv, "--policy.time-embedding", 7)


@pytest.mark.parametrize(
    ("flag", "message"), [("--rate-hz", "rate_hz"), ("--workers", "workers is 0"), ("--image-size", "image_size is 0")]
)
def test_ingest_refuses_a_zero(refused, tmp_path, flag, message):
    assert message in refused("ingest", "--bags", tmp_path / "nowhere", "--output", tmp_path / "data", flag, 0)


# --- inputs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", TRAINING)
def test_a_missing_dataset_is_said(refused, tmp_path, toy_data, toy_runs, verb):
    argv = flags(verb, toy_data, toy_runs, tmp_path / "run")

    assert f"{tmp_path}/nowhere: no dataset" in refused(*argv, "--dataset", tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("verb", "needs", "made_by"),
    [
        ("pretrain", "world-model", "train_world_model"),
        ("train_reward", "world-model", "train_world_model"),
        ("finetune", "world-model", "train_world_model"),
        ("finetune", "policy", "pretrain"),
        ("finetune", "reward", "train_reward"),
    ],
)
def test_a_run_that_is_not_done_is_said_with_the_verb_that_makes_it(
    refused, tmp_path, toy_data, toy_runs, verb, needs, made_by
):
    argv = flags(verb, toy_data, toy_runs, tmp_path / "run")

    line = refused(*argv, f"--{needs}", tmp_path / "nowhere")

    assert f"{tmp_path}/nowhere/" in line
    assert f"not there; make it with `{made_by}`" in line


@pytest.mark.parametrize("verb", ["pretrain", "train_reward"])
def test_fewer_than_ten_demonstrations_are_said(refused, tmp_path, toy_runs, verb):
    data = write_toy(tmp_path / "data", play=3, demonstrations=9)
    argv = flags(verb, data, toy_runs, tmp_path / "run")

    assert "has 9 successful demonstrations of open_drawer, needs 10" in refused(*argv)


def test_episodes_too_short_to_measure_by_are_said_before_the_training(refused, tmp_path, toy_runs):
    data = write_toy(tmp_path / "data", play=1, demonstrations=12)
    argv = flags("train_world_model", data, toy_runs, tmp_path / "run")

    line = refused(*argv)

    assert "needs at least two episodes of 60 rows, one to train on and one held out to measure by" in line
    assert "of its 13 1 is as long, 0 of them held out" in line
    assert "record more episodes, or mark" in line


def test_rows_that_show_no_success_are_said_before_the_training(refused, tmp_path, toy_data, toy_runs):
    argv = flags("train_reward", toy_data, toy_runs, tmp_path / "run")

    line = refused(*argv, "--task", "turn_on_led")

    assert "has 0 successful demonstrations of turn_on_led, needs 10" in line


def test_an_unknown_task_gives_the_nearest(refused, tmp_path, toy_data, toy_runs):
    argv = flags("pretrain", toy_data, toy_runs, tmp_path / "run")

    assert "has 0 successful demonstrations of open_draw" in refused(*argv, "--task", "open_draw")


@pytest.mark.parametrize("verb", ["pretrain", "train_reward", "finetune"])
def test_specs_that_disagree_are_refused_by_field(refused, tmp_path, toy_runs, verb):
    other = dataclasses.replace(SPEC, action_scale=ActionScale(translation_m=0.01))
    data = write_toy(tmp_path / "data", spec=other)
    argv = flags(verb, data, toy_runs, tmp_path / "run")

    assert "disagree in 'action_scale.translation_m' (0.01 against 0.02)" in refused(*argv)


@pytest.fixture
def other_world_model(tmp_path_factory, toy_data) -> Path:
    """A world model of another seed."""
    folder = tmp_path_factory.mktemp("other")
    assert main(flags("train_world_model", toy_data, folder, folder / "world_model", seed=5, updates=1)) == 0
    return folder / "world_model"


def test_parts_of_another_world_model_are_refused(refused, tmp_path, toy_data, toy_runs, other_world_model):
    argv = flags("finetune", toy_data, toy_runs, tmp_path / "run")

    line = refused(*argv, "--world-model", other_world_model)

    assert "pretrained/policy.safetensors: was trained on another world model" in line


def export(data: Path, runs: Path, output: Path, **changes) -> list[str]:
    parts = {"world-model": "world_model", "policy": "pretrained", "reward": "reward", "finetuned": "finetuned"}
    paths = {"dataset": data, "output": output, **{flag: runs / name for flag, name in parts.items()}, **changes}
    return ["export", *(str(word) for flag, path in paths.items() for word in (f"--{flag}", path))]


def test_export_refuses_parts_of_another_world_model(refused, tmp_path, toy_data, toy_runs, other_world_model):
    line = refused(*export(toy_data, toy_runs, tmp_path / "bundle", **{"world-model": other_world_model}))

    assert "was trained on another world model than" in line


def test_export_refuses_a_policy_that_came_from_another(refused, tmp_path, tmp_path_factory, toy_data, toy_runs):
    other = tmp_path_factory.mktemp("other")
    argv = flags("pretrain", toy_data, toy_runs, other / "pretrained", seed=5)
    assert main(argv) == 0

    line = refused(*export(toy_data, toy_runs, tmp_path / "bundle", policy=other / "pretrained"))

    assert "finetuned/policy.safetensors: was not fine-tuned from" in line


def test_export_refuses_an_iteration_that_was_not_kept(refused, tmp_path, toy_data, toy_runs):
    argv = export(toy_data, toy_runs, tmp_path / "bundle")

    assert "iteration_0003/policy.safetensors: not there; make it with `finetune`" in refused(*argv, "--iteration", "3")


def test_export_never_replaces_what_is_no_bundle(refused, tmp_path, toy_data, toy_runs):
    (tmp_path / "thesis.txt").write_text("years of work")

    assert "is not empty and no bundle" in refused(*export(toy_data, toy_runs, tmp_path))


def test_what_export_writes_is_a_bundle_of_these_parts(tmp_path, toy_data, toy_runs, capsys):
    assert main(export(toy_data, toy_runs, tmp_path / "bundle")) == 0
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    assert manifest["skill"] == TASK
    written = (tmp_path / "bundle" / "manifest.json").stat().st_mtime_ns

    assert main(export(toy_data, toy_runs, tmp_path / "bundle")) == 0
    assert (tmp_path / "bundle" / "manifest.json").stat().st_mtime_ns == written
    assert "is done already" in capsys.readouterr().out

    spec = {**manifest["spec"], "mode": "of another version"}
    (tmp_path / "bundle" / "manifest.json").write_text(json.dumps({**manifest, "spec": spec}))
    assert main(export(toy_data, toy_runs, tmp_path / "bundle")) == 0
    assert json.loads((tmp_path / "bundle" / "manifest.json").read_text()) == manifest

    dead = subprocess.Popen(["true"])
    dead.wait()
    (tmp_path / "bundle").rename(
        tmp_path / f".bundle.{dead.pid}.old.partial"
    )  # as a kill while it was replaced leaves it
    capsys.readouterr()
    assert main(export(toy_data, toy_runs, tmp_path / "bundle")) == 0
    assert "is done already" in capsys.readouterr().out

    base = export(toy_data, toy_runs, tmp_path / "bundle")[:-2]
    assert main(base) == 0
    assert json.loads((tmp_path / "bundle" / "manifest.json").read_text())["provenance"]["finetuned"] is None


def test_a_policy_is_deployed_with_the_threshold_that_it_was_tuned_for(tmp_path, tmp_path_factory, toy_data, toy_runs):
    """And every threshold in use is among those that were measured."""
    tuned = tmp_path_factory.mktemp("tuned") / "finetuned"
    assert main([*flags("finetune", toy_data, toy_runs, tuned), "--threshold", "0.85"]) == 0
    assert main(export(toy_data, toy_runs, tmp_path / "tuned", finetuned=tuned)) == 0
    assert main(export(toy_data, toy_runs, tmp_path / "base")[:-2]) == 0

    thresholds = [
        json.loads((tmp_path / name / "manifest.json").read_text())["success_threshold"] for name in ("tuned", "base")
    ]
    assert thresholds == [0.85, 0.97]
    preflight = json.loads((tuned / "preflight.json").read_text())
    assert [row["threshold"] for row in preflight["by_threshold"]] == [0.5, 0.85, 0.9, 0.97, 0.99]


def test_the_threshold_of_a_reward_is_among_those_that_it_is_judged_at(tmp_path, toy_data, toy_runs):
    assert main([*flags("train_reward", toy_data, toy_runs, tmp_path / "reward"), "--threshold", "0.95"]) == 0

    report = json.loads((tmp_path / "reward" / "reward.json").read_text())
    assert [row["threshold"] for row in report["held_out"]["play"]["by_threshold"]] == [0.5, 0.9, 0.95, 0.97, 0.99]
    assert report["threshold"] == load_classifier(tmp_path / "reward")[1].about["threshold"] == 0.95


@pytest.mark.parametrize("fact", ["task", "latent_size", "threshold"])
def test_a_reward_that_says_nothing_of_itself_is_refused(refused, tmp_path, tmp_path_factory, toy_data, toy_runs, fact):
    folder = tmp_path_factory.mktemp("reward")
    (folder / "reward.safetensors").write_bytes((toy_runs / "reward" / "reward.safetensors").read_bytes())
    with safe_open(folder / "reward.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()["diwa"])
    del header["about"][fact]
    save_file(load_file(folder / "reward.safetensors"), folder / "reward.safetensors", {"diwa": json.dumps(header)})
    argv = flags("finetune", toy_data, toy_runs, tmp_path / "run")

    assert f"its header does not state '{fact}'" in refused(*argv, "--reward", folder)


def test_a_reward_for_latents_of_another_size_is_refused(refused, tmp_path, tmp_path_factory, toy_data, toy_runs):
    folder = tmp_path_factory.mktemp("reward")
    (folder / "reward.safetensors").write_bytes((toy_runs / "reward" / "reward.safetensors").read_bytes())
    damage_header(folder / "reward.safetensors", latent_size=99)
    argv = flags("finetune", toy_data, toy_runs, tmp_path / "run")

    assert "config and weights make no network" in refused(*argv, "--reward", folder)


def test_report_of_a_folder_without_runs_is_refused(refused, tmp_path):
    refused("report", "--runs", tmp_path, "--output", tmp_path / "report.html")


def test_ingest_of_a_bag_that_is_not_there_is_refused(refused, tmp_path):
    assert "nowhere" in refused("ingest", "--bags", tmp_path / "nowhere", "--output", tmp_path / "data")


def test_evaluate_without_a_bundle_there_is_refused(refused, tmp_path):
    assert "nowhere" in refused("evaluate", "--bundle", tmp_path / "nowhere", "--output", tmp_path / "run")


def test_pipeline_of_a_typo_is_refused(refused, tmp_path):
    path = tmp_path / "pipeline.yaml"
    path.write_text(yaml.safe_dump({"output": str(tmp_path / "out"), "bags": ["x"], "taks": [TASK]}))

    assert "unknown setting 'taks'; did you mean 'tasks'" in refused("pipeline", "--config", path)


# --- Ctrl-C -----------------------------------------------------------------------------------------------------


def test_ctrl_c_keeps_a_checkpoint_ends_with_130_and_the_same_command_goes_on(tmp_path, toy_data, toy_runs):
    """A real process, a real signal."""
    argv = flags("train_world_model", toy_data, toy_runs, tmp_path / "run", updates=10**6, save_every=10**6)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1"}
    steps = []
    for begins in (" 1/", "goes on at step "):
        process = subprocess.Popen(
            [sys.executable, "-m", "diwa_trainer", *argv],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        line = next(line for line in process.stdout if begins in line)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
        assert process.returncode == 130, said
        assert "Traceback" not in said
        assert said.splitlines()[-1].startswith("interrupted: step ")
        (checkpoint,) = (tmp_path / "run").glob("checkpoint_*")
        steps.append(int(checkpoint.name.rpartition("_")[2]))

    assert line.endswith(f"goes on at step {steps[0]}\n")
    assert steps[1] >= steps[0] >= 1


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "10000"), ({"OMP_WAIT_POLICY": "active"}, "30000000000"), ({"GOMP_SPINCOUNT": "7"}, "7")],
)
def test_threads_of_a_verb_spin_only_shortly_while_they_wait_unless_told_otherwise(given, spins):
    """Threads that spin take from a busy machine what the one that they wait for would need."""
    ours = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    environment |= {"OMP_DISPLAY_ENV": "verbose", "PYTHONPATH": os.pathsep.join(sys.path), **given}
    program = "import diwa_trainer.__main__, torch; torch.ones(1)"
    said = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert f"GOMP_SPINCOUNT = '{spins}'" in said.stderr
