"""docs/your_simulator.md: its code is run as it stands there, as somebody would who copies it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from diwa_runtime.config import load_config
from diwa_trainer.dataset import Dataset
from diwa_trainer.verbs import pipeline
from diwa_trainer.verbs.pipeline import PipelineConfig

PAGE = Path(__file__).parents[3] / "docs" / "your_simulator.md"


@pytest.fixture
def written(tmp_path, monkeypatch) -> Path:
    """A folder with the page's files, some episodes recorded by them."""
    blocks = re.findall(r"```(?:python|yaml)\n# (\w+\.\w+)(.*?)```", PAGE.read_text(), re.DOTALL)
    assert [name for name, _ in blocks] == ["lab.py", "record.py", "pipeline.yaml"]
    for name, text in blocks:
        (tmp_path / name).write_text(f"#{text}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "record.py", "6", "12"], check=True, env=environment)
    (spec,) = re.findall(r'python -c "(.*)" > lab.json', PAGE.read_text())
    made = subprocess.run([sys.executable, "-c", spec], check=True, env=environment, capture_output=True)
    (tmp_path / "lab.json").write_bytes(made.stdout)
    return tmp_path


def test_the_page_s_simulator_is_recorded_ingested_and_ready_to_be_learned_from(written, capsys, monkeypatch):
    learned = []
    monkeypatch.setattr(pipeline.train_world_model, "run", learned.append)
    settings = yaml.safe_load((written / "pipeline.yaml").read_text())
    settings["stages"] |= {"pretrain": {"demonstrations": 10}}
    (written / "pipeline.yaml").write_text(yaml.safe_dump(settings))
    config = load_config(PipelineConfig, ["--config", "pipeline.yaml"])

    plans = {task: pipeline.plan_task(config, task) for task in config.tasks}
    pipeline._make_shared(config, plans)

    said = capsys.readouterr()
    data = Dataset.open(config.output / "dataset")
    assert data.spec.rate_hz == 20
    assert len(data.episodes_of(kind="play")) == 6
    assert len(data.episodes_of(kind="demonstration", task="open_lid", outcome="success")) == 12
    assert "hand: moves 1 times as far as its actions ask, beginning in the row of the action" in said.out
    assert "warning" not in said.out + said.err
    assert len(learned) == 1, "the environment will do, and the Spec is the recordings'"
