"""A toy table of which every answer is known, data recorded on it, and settings that train on them in seconds.

The arm is a point. Below a height of 0.1 m it holds the drawer, which then moves along with its x; above, it moves
alone. Demonstrations lower the arm and pull; play moves at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from diwa_runtime.actions import accept_action
from diwa_runtime.spec import CameraSpec, Spec
from diwa_trainer.dataset import DatasetWriter
from diwa_trainer.policy.diffusion import DiffusionConfig
from diwa_trainer.policy.ppo import PPOConfig
from diwa_trainer.policy.reward import ClassifierConfig
from diwa_trainer.policy.verdict import Candidate, Verdict
from diwa_trainer.runs.run import Run, TrainState
from diwa_trainer.verbs import finetune, pretrain, train_reward, train_world_model
from diwa_trainer.verbs.finetune import FinetuneConfig
from diwa_trainer.verbs.pretrain import PretrainConfig
from diwa_trainer.verbs.train_reward import TrainRewardConfig
from diwa_trainer.verbs.train_world_model import TrainWorldModelConfig
from diwa_trainer.world.rssm import RSSMConfig
from diwa_trainer.world.world_model import WorldModel, WorldModelConfig

TASK, SPEC = "open_drawer", Spec()
DRAWER = SPEC.scene.index("drawer")
GRASP_HEIGHT_M, TRAVEL_M, STRIDE_M = 0.1, 0.2, SPEC.action_scale.translation_m
PLAY, DEMONSTRATIONS, PLAY_ROWS, DEMONSTRATION_ROWS = 8, 12, 70, 20

Rows = dict[str, NDArray[Any]]


class Table:
    """Where the arm is and how far the drawer is out."""

    def __init__(self, rng: np.random.Generator, open_m: float = 0.0) -> None:
        self.tcp = np.array([0.0, 0.0, 0.14]) + rng.uniform(-0.02, 0.02, 3)
        self.drawer, self.gripper = open_m, 1.0

    def step(self, action: NDArray[Any]) -> NDArray[np.float32]:
        """Move; return what was accepted."""
        accepted = accept_action(action)
        if self.tcp[2] < GRASP_HEIGHT_M:
            self.drawer = float(np.clip(self.drawer + STRIDE_M * accepted[0], 0, TRAVEL_M))
        self.tcp = np.clip(self.tcp + STRIDE_M * accepted[:3], -0.4, 0.4)
        self.gripper = float(accepted[6])
        return accepted

    def observation(self, spec: Spec = SPEC) -> Rows:
        """Return proprio (15,), scene (24,), and in modes with cameras their pictures (H, W, 3)."""
        proprio, scene = np.zeros(15, np.float32), np.zeros(24, np.float32)
        proprio[:3], proprio[3], proprio[6], proprio[14] = self.tcp, np.pi, 0.04, self.gripper
        scene[DRAWER] = self.drawer
        pictures = {camera.name: self.picture(camera) for camera in spec.cameras if spec.uses_cameras}
        return {"proprio": proprio, "scene": scene, **pictures}

    def picture(self, camera: CameraSpec) -> NDArray[np.uint8]:
        """Draw a bar that is as long as the drawer is out, and the arm as a spot that moves over it."""
        picture = np.full((camera.height, camera.width, 3), 40, np.uint8)
        columns = np.arange(camera.width)
        length = (self.drawer + 0.02) / (TRAVEL_M + 0.04) * camera.width
        picture[camera.height // 4 : camera.height // 2, :, 0] = 40 + 200 * np.clip(length - columns, 0, 1)
        row, column = ((self.tcp[[2, 0]] + 0.4) / 0.8 * (camera.height - 2, camera.width - 2)).astype(int)
        picture[row : row + 2, column : column + 2] = 220
        return picture


def demonstration_action(table: Table, rng: np.random.Generator) -> NDArray[np.float64]:
    """Go down, then pull; a little noise."""
    direction = [0.0, 0.0, -1.0] if table.tcp[2] >= GRASP_HEIGHT_M else [1.0, 0.0, 0.0]
    return np.append(np.array([*direction, 0, 0, 0]) + 0.05 * rng.standard_normal(6), 1.0)


def play_action(table: Table, rng: np.random.Generator) -> NDArray[np.float64]:
    """Wander, low for most of the time, so that the drawer moves both ways."""
    direction = rng.uniform(-1, 1, 7)
    direction[2] = np.sign(0.08 - table.tcp[2]) * rng.uniform(0, 1)
    return direction


def episode(table: Table, action_of: Any, count: int, rng: np.random.Generator, spec: Spec = SPEC) -> Rows:
    """Record `count` rows."""
    rows: dict[str, list[Any]] = {}
    for row in range(count):
        observation = table.observation(spec)
        accepted = table.step(action_of(table, rng))
        for name, value in {"stamp": row * 33_333_333, **observation, "action": accepted}.items():
            rows.setdefault(name, []).append(value)
    return {name: np.array(values) for name, values in rows.items()}


def recorded(rows: Rows, spec: Spec) -> Rows:
    """Return what a dataset of the Spec's mode has of rows: in mode vision no scene."""
    return {name: values for name, values in rows.items() if name != "scene" or spec.mode != "vision"}


def write_toy(
    folder: Path,
    play: int | Sequence[int] = PLAY,
    demonstrations: int = DEMONSTRATIONS,
    spec: Spec = SPEC,
    seed: int = 0,
) -> Path:
    """Write a dataset of the toy table, of so many episodes of play or of one for each number of rows; return it."""
    play_rows = [PLAY_ROWS] * play if isinstance(play, int) else play
    rng = np.random.default_rng(seed)
    with DatasetWriter(folder, spec, scene=spec.mode != "vision") as writer:
        for number, count in enumerate(play_rows):
            rows = episode(Table(rng, rng.uniform(0, 0.05)), play_action, count, rng, spec)
            writer.add_episode(recorded(rows, spec), bag="play", seed=number)
        for number in range(demonstrations):
            rows = episode(Table(rng), demonstration_action, DEMONSTRATION_ROWS, rng, spec)
            done = int(np.argmax(rows["scene"][:, DRAWER] > 0.12))
            about = {"kind": "demonstration", "task": TASK, "outcome": "success", "marks": [(done, TASK)]}
            writer.add_episode(recorded(rows, spec), bag="demonstrations", seed=number, **about)
    return folder


class ToyTable(gymnasium.Env[Rows, NDArray[np.floating]]):
    """The toy table behind the observation contract."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012
    contract = SPEC

    def __init__(self, task: str = TASK, render_mode: str | None = None) -> None:
        self.task, self.render_mode = SPEC.task(task), render_mode
        self.action_space = gymnasium.spaces.Box(-1, 1, (7,), np.float32)
        self.observation_space = gymnasium.spaces.Dict(
            {name: gymnasium.spaces.Box(-np.inf, np.inf, (size,)) for name, size in (("proprio", 15), ("scene", 24))}
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Close the drawer and lift the arm."""
        super().reset(seed=seed, options=options)
        self.table = Table(self.np_random)
        self.start = self.table.observation()
        return self.start, {}

    def step(self, action: NDArray[np.floating]) -> Any:
        """Move."""
        accepted = self.table.step(action)
        observation = self.table.observation()
        success = bool(self.task.achieved(self.start["scene"], observation["scene"], SPEC.scene))
        return observation, 0.0, False, False, {"success": success, "action": accepted}

    def render(self) -> Any:
        """Draw how far the drawer is out."""
        frame = np.zeros((48, 64, 3), np.uint8)
        frame[:, : int(64 * self.table.drawer / TRAVEL_M)] = 255
        return frame


gymnasium.register("ToyTable-v0", entry_point=ToyTable)

TINY_MODEL = WorldModelConfig(rssm=RSSMConfig(deterministic=16, variables=4, classes=4, hidden=16), hidden=16)
TINY_POLICY = DiffusionConfig(denoising_steps=4, finetuned_steps=2, chunk=3, hidden=16, time_embedding=8)
TINY_PPO = PPOConfig(epochs=1, minibatch=16, critic_warmup=1, critic_hidden=8)


def tiny_model(seed: int = 0) -> WorldModel:
    """Return an untrained world model, frozen."""
    torch.manual_seed(seed)
    return WorldModel(SPEC, TINY_MODEL).eval().requires_grad_(False)


def tiny_configs(data: Path, runs: Path, updates: int = 4, **every: Any) -> dict[str, Any]:
    """Return the settings of each training verb, reading from and writing to `runs`, by verb."""
    every = {"log_every": 1, "save_every": 2, **every}
    shared = {"dataset": data, "world_model": runs / "world_model"}
    tuning = {name: value for name, value in every.items() if name != "log_every"}
    return {
        "train_world_model": TrainWorldModelConfig(
            data, runs / "world_model", TINY_MODEL, updates=updates, batch=4, length=12, **every
        ),
        "pretrain": PretrainConfig(
            **shared, output=runs / "pretrained", task=TASK, demonstrations=10, policy=TINY_POLICY,
            updates=updates, batch=16, encodings=2, **every,
        ),
        "train_reward": TrainRewardConfig(
            **shared, output=runs / "reward", task=TASK, classifier=ClassifierConfig(hidden=16, embedding=8),
            demonstrations=6, play=12, play_length=24, updates=updates, batch=16, **every,
        ),
        "finetune": FinetuneConfig(
            **shared, policy=runs / "pretrained", reward=runs / "reward", output=runs / "finetuned", ppo=TINY_PPO,
            iterations=updates, episodes=8, chunks=3, play_starts=8, judged_episodes=8, judge_every=2, **tuning,
        ),
    }  # fmt: skip


TRAINERS = {
    "train_world_model": train_world_model.run,
    "pretrain": pretrain.run,
    "train_reward": train_reward.run,
    "finetune": finetune.run,
}


def checkpoint_of(verb: str, config: Any, step: int) -> dict[str, Any]:
    """Run a verb until its power is cut after `step` updates; return what that step's checkpoint holds.

    Beside what `Run.save` puts there: `weights` by name, and `threads`, the numbers that torch was told to use.
    """
    threads: list[int] = []

    def cut(_run: Run, state: TrainState) -> None:
        if state.step == step:
            raise RuntimeError("power cut")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Run, "stop_if_interrupted", cut)
        patched.setattr(torch, "set_num_threads", threads.append)  # several would only slow the test down
        with pytest.raises(RuntimeError, match="power cut"):
            TRAINERS[verb](config)
    folder = config.output / f"checkpoint_{step}"
    weights = load_file(folder / "weights.safetensors")
    return {**torch.load(folder / "state.pt", weights_only=True), "weights": weights, "threads": threads}


def train_all(data: Path, runs: Path) -> Path:
    """Run every training verb once; return the folder of their runs."""
    for verb, config in tiny_configs(data, runs).items():
        TRAINERS[verb](config)
    return runs


def keep_the_last(candidates: Sequence[Candidate], _episodes: int) -> Verdict:
    """Choose the last policy, for fine-tunings so short that nothing becomes better; stands in for `choose`."""
    return Verdict("accept", "it is the last", candidates[-1], tuple(candidates))
