"""What nobody sets is as docs/results.md was made with: a new default is a new page, and a line in the changelog."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from diwa_runtime.bundle import session
from diwa_runtime.spec import PROPRIO_NAMES, SCENE_NAMES, Spec
from diwa_trainer.evaluation.settings import EvaluateConfig
from diwa_trainer.policy import reward, support, verdict
from diwa_trainer.policy.diffusion import DiffusionConfig
from diwa_trainer.policy.ppo import PPOConfig
from diwa_trainer.policy.reward import ClassifierConfig
from diwa_trainer.policy.support import SupportConfig
from diwa_trainer.samples import stretches
from diwa_trainer.verbs import finetune, pretrain
from diwa_trainer.verbs.finetune import FinetuneConfig
from diwa_trainer.verbs.pretrain import PretrainConfig
from diwa_trainer.verbs.train_reward import TrainRewardConfig
from diwa_trainer.verbs.train_world_model import TrainWorldModelConfig
from diwa_trainer.world import features, open_loop, ordinal, world_model
from diwa_trainer.world.features import Features
from diwa_trainer.world.rssm import RSSMConfig
from diwa_trainer.world.world_model import WorldModelConfig

DEFAULTS: dict[type, dict[str, Any]] = {
    RSSMConfig: {"deterministic": 128, "variables": 32, "classes": 32, "hidden": 128, "unimix": 0.0, "motion": 192},
    WorldModelConfig: {
        "hidden": 128, "kl_weight": 0.005, "kl_balance": 0.8, "free_nats": 1.0, "first_step_weight": 5.0,
        "hand_weight": 0.0, "contact_weight": 3.0,
    },
    DiffusionConfig: {
        "denoising_steps": 20, "finetuned_steps": 10, "chunk": 4, "hidden": 256, "time_embedding": 16,
        "exploration_std": 0.1, "deterministic_std": 1e-3,
    },
    SupportConfig: {"kind": "scene", "cell_m": 0.02, "levels": 1.0},
    ClassifierConfig: {"hidden": 256, "embedding": 64, "temperature": 0.5, "cross_entropy_weight": 0.5},
    PPOConfig: {
        "gamma": 0.999, "gae_lambda": 0.95, "gamma_denoising": 0.99, "clip": 0.01, "clip_base": 0.001, "clip_rate": 3.0,
        "log_prob_min": -5.0, "log_prob_max": 2.0, "epochs": 5, "minibatch": 512, "actor_learning_rate": 1e-4,
        "critic_learning_rate": 1e-3, "critic_warmup": 2, "critic_hidden": 256, "value_weight": 0.5, "bc_weight": 0.0,
        "kl_budget": None, "kl_dual_rate": 0.5, "target_kl": 1.0, "horizon_bootstrap": False,
    },
    TrainWorldModelConfig: {
        "updates": 6000, "batch": 32, "length": 24, "learning_rate": 1e-3,
        "final_learning_rate": 0.02, "gradient_clip": 10.0, "validation": 0.1, "split_seed": 0,
        "seed": 0, "threads": 1,
    },
    PretrainConfig: {
        "demonstrations": 50, "updates": 4000, "batch": 256, "learning_rate": 3e-4, "final_learning_rate": 0.05,
        "weight_decay": 1e-6, "ema": 0.995, "encodings": 6, "seed": 0, "threads": 1,
    },
    TrainRewardConfig: {
        "threshold": 0.97, "demonstrations": 50, "play": 300, "play_length": 96, "imagined": False, "encodings": 2,
        "updates": 800, "batch": 192, "learning_rate": 3e-4, "validation": 0.15, "split_seed": 0, "seed": 0,
        "threads": 1,
    },
    FinetuneConfig: {
        "reward_kind": "classifier", "threshold": None, "iterations": 160, "patience": 3, "episodes": 128, "chunks": 24,
        "play_starts": 150, "judged_episodes": 256, "judge_every": 10, "seed": 0, "threads": 1,
    },
    EvaluateConfig: {
        "policy": "bundle", "environment": "diwa_sim:PlayTable-v0", "task": None, "episodes": 100,
        "first_seed": 100_000, "max_steps": 96,
    },
}  # fmt: skip


@pytest.mark.parametrize("config", DEFAULTS, ids=lambda config: config.__name__)
def test_defaults_are_those_of_the_published_results(config):
    found = {field.name: field.default for field in dataclasses.fields(config)}

    assert {name: found[name] for name in DEFAULTS[config]} == DEFAULTS[config]


CONSTANTS = [
    (features, "CLAMP", 4.0), (ordinal, "SHARPNESS", 0.5), (ordinal, "NETWORK_SHARE", 0.3),
    (world_model, "RANGE_ROWS", 10_000), (open_loop, "CONTEXT", 10), (open_loop, "HORIZON", 50),
    (reward, "THRESHOLDS", (0.5, 0.9, 0.97, 0.99)), (session, "NOISE_LIMIT", 3.0), (stretches, "ROWS_AFTER", 8),
    (pretrain, "FEWEST_DEMONSTRATIONS", 10), (pretrain, "VALIDATION_DRAWS", 4), (finetune, "START_ENCODINGS", 4),
    (finetune, "BETTER", 0.01),
    (support, "MOVING", 1 / 6), (verdict, "OUTSIDE", 0.25), (verdict, "GAP", 0.15), (verdict, "PRIOR_EPISODES", 8.0),
    (verdict, "CARRIED", 0.5),
]  # fmt: skip


@pytest.mark.parametrize(("module", "name", "value"), CONSTANTS, ids=lambda value: str(value) * isinstance(value, str))
def test_constants_are_those_of_the_published_results(module, name, value):
    assert getattr(module, name) == value


# Floor of the deviation in SI units, weight in the loss, share of the discrete variables; one of each kind.
RULES = {
    "tcp_x": (0.02, 8.0, 8.0), "tcp_rotation_0": (0.05, 0.1, 0.8), "joint_1": (0.05, 0.1, 0.1),
    "gripper_width": (0.01, 2.0, 2.0), "gripper_command": (0.2, 1.0, 1.0), "slider": (0.08, 8.0, 4.0),
    "drawer": (0.055, 8.0, 4.0), "button": (0.005, 4.0, 2.0), "switch": (0.02, 4.0, 2.0), "bulb": (0.25, 8.0, 1.0),
    "led": (0.25, 8.0, 1.0), "red_x": (0.1, 0.003, 0.05), "red_rotation_0": (0.3, 0.003, 0.05),
}  # fmt: skip
# How far the table's parts go in the demo's recordings, m; the rows of the extremes apart.
TRAVEL = {"slider": 0.28, "drawer": 0.22, "button": 0.024, "switch": 0.093, "bulb": 1.0, "led": 1.0}


def test_features_are_weighed_as_for_the_published_results():
    """Weights and shares are theirs. Floors, which count where a deviation is smaller, were by name: nearly theirs."""
    found = {}
    for names, watched in ((PROPRIO_NAMES, None), (SCENE_NAMES, Spec().watched)):
        rare = np.zeros((4000, len(names)), np.float32)
        for name, far in TRAVEL.items():
            if name in names:
                rare[-8:, names.index(name)] = far
                rare[-1, names.index(name)] = far if far == 1 else far / 2
        features = Features(names, watched)
        features.fit(rare)
        numbers = zip(features.std.tolist(), features.weight.tolist(), features.shares, strict=True)
        found |= dict(zip(features.names, numbers, strict=True))

    for name, (floor, *others) in RULES.items():
        assert found[name] == (pytest.approx(floor, rel=0.1), *map(pytest.approx, others)), name
