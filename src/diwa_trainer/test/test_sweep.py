"""Sweeps: pipelines times settings times seeds, each done once, compared start by start."""

import json
import os
import sys
from importlib.util import find_spec

import pytest
import yaml
from test_pipeline import bags, settings  # noqa: F401
from toy import TASK

from diwa_runtime.config import load_config
from diwa_runtime.errors import ConfigError, DiwaError
from diwa_trainer.evaluation.statistics import mcnemar, wilson_interval
from diwa_trainer.evaluation.sweep_results import sum_up_sweep
from diwa_trainer.verbs import sweep
from diwa_trainer.verbs.sweep import SweepConfig

FAKE = """
import json, os, sys, time, yaml
from pathlib import Path
config = yaml.safe_load(open(sys.argv[sys.argv.index("--config") + 1]))
output, iterations = Path(config["output"]), config["stages"]["finetune"]["iterations"]
print("learns", output)
if iterations == 13:
    time.sleep(0.5 * (1 - config["seed"]))  # the first named fails last
    sys.exit("thirteen cannot be")
for policy, good in (("base", 1), ("finetuned", iterations)):
    folder = output / config["tasks"][0] / f"evaluation_{policy}"
    folder.mkdir(parents=True)
    detail = [{"seed": s, "success": (s + config["seed"]) % 6 < good, "length": 3} for s in range(6)]
    count = sum(one["success"] for one in detail)
    (folder / "evaluation.json").write_text(json.dumps({
        "format_version": 1, "successes": count, "episodes": 6, "interval95": [0, 1], "mean_length": 3.0,
        "environment": {"id": "toy"}, "task": config["tasks"][0], "max_steps": 8, "seeds": list(range(6)),
        "bundle": None, "episodes_detail": detail,
    }))
(output / "report.html").write_text("done")
"""


@pytest.fixture
def toy(tmp_path, bags, monkeypatch):  # noqa: F811
    """Settings of a sweep over pipelines that a script plays: what is fine-tuned for k iterations wins k of six."""
    script = tmp_path / "fake.py"
    script.write_text(FAKE)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(settings(tmp_path, bags)))
    start = sweep.start_process
    monkeypatch.setattr(sweep, "start_process", lambda command, log: start([sys.executable, script, *command[2:]], log))

    def sweeping(**changes) -> SweepConfig:
        file = tmp_path / "sweep.yaml"
        settings_ = {"plain": {"stages.finetune.iterations": 2}, "long": {"stages.finetune.iterations": 4}}
        asked = {"output": str(tmp_path / "sweep"), "pipelines": [str(tmp_path / "tiny.yaml")], "seeds": [0, 1]}
        file.write_text(yaml.safe_dump({**asked, "settings": settings_, **changes}, sort_keys=False))
        return load_config(SweepConfig, ["--config", str(file)])

    return sweeping


def written(config: SweepConfig) -> dict:
    return json.loads((config.output / "sweep.json").read_text())


def test_every_setting_is_run_with_every_seed_and_compared_with_the_first(toy, capsys):
    config = toy()
    sweep.run(config)

    said = [yaml.safe_load(path.read_text()) for path in sorted(config.output.glob("tiny/*/*/pipeline.yaml"))]
    assert [(one["stages"]["finetune"]["iterations"], one["seed"]) for one in said] == [(4, 0), (4, 1), (2, 0), (2, 1)]
    found = written(config)["pipelines"]["tiny"][TASK]
    assert {name: (one["successes"], one["episodes"]) for name, one in found.items()} == {
        "plain": (4, 12),
        "long": (8, 12),
    }
    assert found["long"]["interval95"] == pytest.approx(wilson_interval(8, 12))
    assert found["long"]["by_seed"]["1"] == {"successes": 4, "episodes": 6}
    assert found["long"]["against_base"] == {"won": 4, "lost": 0, "mcnemar_p": mcnemar([False] * 4, [True] * 4)}
    assert found["plain"]["against_base"] is None
    assert "67 % [39, 86]" in capsys.readouterr().out


def test_what_is_done_is_skipped_and_one_that_fails_is_named_while_the_others_go_on(toy, capsys):
    odd = toy(settings={"plain": {"stages.finetune.iterations": 2}, "odd": {"stages.finetune.iterations": 13}})
    with pytest.raises(DiwaError, match=r"tiny/odd/seed_0, tiny/odd/seed_1 failed, see pipeline.log there"):
        sweep.run(odd)
    assert "tiny/odd/seed_0: failed, thirteen cannot be" in capsys.readouterr().out
    assert written(odd)["failed"] == ["tiny/odd/seed_0", "tiny/odd/seed_1"]
    assert set(written(odd)["pipelines"]["tiny"][TASK]) == {"plain"}

    more = toy(seeds=[0, 1, 2])
    sweep.run(more)

    assert "6 pipelines, 2 of them done" in capsys.readouterr().out
    assert (more.output / "tiny/plain/seed_0/pipeline.log").read_text().count("learns") == 1
    assert written(more)["pipelines"]["tiny"][TASK]["plain"]["episodes"] == 18


def test_a_pipeline_of_other_settings_is_not_taken_for_done(toy):
    sweep.run(toy())
    sweep.run(toy(workers=1))
    with pytest.raises(ConfigError, match=r"tiny.long.seed_0: holds a pipeline of other settings"):
        sweep.run(toy(settings={"plain": {"stages.finetune.iterations": 2}, "long": {"stages.finetune.iterations": 6}}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"a": {"stages.finetune.iteratons": 3}}}, "settings of finetune: unknown setting 'iteratons'"),
        ({"settings": {"a": {"stagez.finetune": 3}}}, "settings.a over .*tiny.yaml: unknown setting 'stagez'"),
        ({"settings": {"../a": {}}}, "'../a' cannot name a folder"),
        ({"seeds": [1, 1]}, "seeds must name at least one, and none twice"),
        ({"pipelines": []}, "pipelines must name at least one"),
        ({"base": "plane"}, "base: no setting 'plane'"),
        ({"policy": "anchored"}, "policy: tiny has no 'anchored'"),
        ({"workers": 0}, "workers is 0"),
    ],
)
def test_what_cannot_be_is_found_before_anything_is_run(toy, changes, message):
    with pytest.raises(ConfigError, match=message):
        sweep.run(toy(**changes))
    assert not (toy().output).exists()


def test_settings_whose_policies_did_not_start_alike_are_not_compared(toy):
    config = toy()
    sweep.run(config)
    file = config.output / "tiny/long/seed_1" / TASK / "evaluation_finetuned/evaluation.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "max_steps": 9}))
    folders = {
        name: {seed: config.output / f"tiny/{name}/seed_{seed}" for seed in (0, 1)} for name in ("plain", "long")
    }

    found = sum_up_sweep({"tiny": folders}, {"tiny": {"plain": [TASK], "long": [TASK]}}, "plain", "finetuned")[
        "pipelines"
    ]["tiny"][TASK]

    assert found["long"]["against_base"] is None
    assert found["long"]["successes"] == 8


def test_a_setting_with_tasks_of_its_own_has_its_place_under_them_alone(toy):
    config = toy()
    sweep.run(config)
    runs = {"tiny": {name: {0: config.output / f"tiny/{name}/seed_0"} for name in ("plain", "long")}}

    found = sum_up_sweep(runs, {"tiny": {"plain": [], "long": [TASK]}}, "plain", "finetuned")

    assert list(found["pipelines"]["tiny"][TASK]) == ["long"]
    assert found["pipelines"]["tiny"][TASK]["long"]["against_base"] is None


def test_without_ray_its_engine_is_one_line(toy, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match="engine 'ray' needs Ray: pip install"):
        sweep.run(toy(engine="ray"))


@pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray (requirements/ray.txt)")
def test_on_ray_pipelines_end_as_they_do_here(tmp_path, bags, monkeypatch):  # noqa: F811
    """Two whole tiny pipelines: what a task of Ray starts is no script of ours."""
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(settings(tmp_path, bags)))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))  # the toy table is there
    monkeypatch.setenv("RAY_worker_niceness", "0")  # by default 15: hardly a turn on a busy machine
    asked = SweepConfig(tmp_path / "sweep", (tmp_path / "tiny.yaml",), (0, 1), engine="ray", address="local", cpus=0.5)

    sweep.run(asked)

    assert written(asked)["failed"] == []
    assert written(asked)["pipelines"]["tiny"][TASK]["plain"]["episodes"] == 2 * 3
    assert all(member.is_done for member in sweep.plan(asked))
