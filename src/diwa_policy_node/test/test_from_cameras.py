"""From cameras alone, over topics: recorded without `scene/state`, trained in mode vision, and run without it again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("diwa_msgs.msg", reason="needs a built and sourced workspace (make test)")
pytest.importorskip("rclpy")
ingest = pytest.importorskip("diwa_trainer.ingest.ingestion").ingest
toy = pytest.importorskip("toy")

from policy_rig import PATIENT, Rig  # noqa: E402
from ros_rig import RosRig  # noqa: E402

from diwa_runtime.bundle import Bundle  # noqa: E402
from diwa_runtime.cameras import CameraSource  # noqa: E402
from diwa_runtime.errors import InputError  # noqa: E402
from diwa_runtime.robot import Outcome  # noqa: E402
from diwa_runtime.spec import Spec  # noqa: E402
from diwa_sim.bags import BagWriter  # noqa: E402
from diwa_sim.hands import Hands, HandsConfig, record_episodes  # noqa: E402
from diwa_sim.node import SimulatorNode  # noqa: E402
from diwa_sim.recorder import Recorder  # noqa: E402
from diwa_sim.rendering import device  # noqa: E402
from diwa_trainer.dataset import Dataset  # noqa: E402
from diwa_trainer.verbs import export, train_eyes  # noqa: E402
from diwa_trainer.verbs.export import ExportConfig  # noqa: E402
from diwa_trainer.verbs.train_eyes import TrainEyesConfig  # noqa: E402
from diwa_trainer.world.eyes.eyes import EyesConfig  # noqa: E402

pytestmark = [pytest.mark.ros, pytest.mark.gl]

TABLE = {"cameras": True, "scene": False, "image_size": 16, "rate_factor": 4.0, "start": "narrow"}
PLAY, PLAY_ROWS, DEMONSTRATIONS = 3, 72, 10


def record(bag: Path, config: HandsConfig) -> Spec:
    """Record what the hands do; return the table's Spec."""
    rig = RosRig()
    simulator = rig.add(SimulatorNode(**rig.options(task=config.task, **TABLE)))
    hands = rig.add(Hands(simulator, rig.executor, context=rig.context))
    with BagWriter(bag) as writer:
        recorder = rig.add(Recorder(writer, context=rig.context))
        hands.wait_for_recorder()
        record_episodes(hands, config)
        simulator.close()
        marks = 2 * config.episodes
        rig.spin_until(lambda: recorder.counts["/episode/event"] >= marks)
    assert "/scene/state" not in recorder.counts
    assert not recorder.lost
    rig.close()  # two robots at once would take no commands
    return simulator.table.contract


def train(dataset: Path, runs: Path) -> Path:
    """Run every verb at its smallest; return the bundle."""
    eyes = EyesConfig(channels=(4, 8, 8), camera_code=16, hidden=32, code=4)
    train_eyes.run(TrainEyesConfig(dataset, runs / "eyes", eyes=eyes, updates=4, batch=16))
    configs = toy.tiny_configs(dataset, runs)
    configs["train_world_model"] = replace(configs["train_world_model"], eyes=runs / "eyes")
    for verb, config in configs.items():
        toy.TRAINERS[verb](config)
    parts = {name: runs / name for name in ("world_model", "reward", "finetuned")}
    export.run(ExportConfig(dataset, policy=runs / "pretrained", output=runs / "bundle", **parts))
    return runs / "bundle"


def test_what_was_recorded_without_a_scene_becomes_a_skill_that_runs_without_one(
    make_rig: Callable[..., Rig], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bags = tmp_path / "bags"
    record(bags / "play", HandsConfig(episodes=PLAY, steps=PLAY_ROWS))
    spec = record(bags / "shown", HandsConfig(task=toy.TASK, episodes=DEMONSTRATIONS))
    with pytest.raises(InputError, match=r"no messages of topic 'scene/state'.*--mode vision"):
        ingest([bags], tmp_path / "refused", replace(spec, mode="state"), report=lambda _: None)
    ingest([bags], tmp_path / "dataset", spec, report=lambda _: None)

    dataset = Dataset.open(tmp_path / "dataset")
    assert "scene" not in dataset.arrays
    assert len(dataset.episodes_of(kind="demonstration", task=toy.TASK, outcome="success")) == DEMONSTRATIONS
    assert [len(episode) >= PLAY_ROWS for episode in dataset.episodes_of(kind="play")] == [True] * PLAY

    bundle = train(dataset.folder, tmp_path / "runs")
    drawn = CameraSource(device(), "camera_static", "jpeg", 16, 16)
    assert Bundle.load(bundle).manifest.camera_sources["static"] == (drawn,)

    rig = make_rig(bundle, allow_far_start=True, allow_moved_camera=True, **PATIENT)
    rig.add(SimulatorNode(**rig.options(task=toy.TASK, **{**TABLE, "rate_factor": 1.0}))).start()
    rig.bring_up()
    outcome, reason = rig.run(toy.TASK, timeout=1.0)
    assert outcome in (Outcome.TIMEOUT, Outcome.SUCCESS), reason
    assert len(rig.feedback) > 20
    assert "now it is" not in capfd.readouterr().err
