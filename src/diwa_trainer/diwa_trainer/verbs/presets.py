"""Settings of all verbs at once by name: `--preset NAME` of a verb, or of `pipeline` for every stage.

`small` is the defaults. `tiny` is over in seconds and learns nothing: it shows that everything runs. `joint` has the
world model code pictures itself, at a size that two cores bear. `paper` is the paper's vision system, in sizes and
training (LUMOS for the world model, DPPO for the policy); it is for a graphics card, and for days. Files and flags go
over a preset.
"""

from __future__ import annotations

from typing import Any

Stages = dict[str, dict[str, Any]]

TINY: Stages = {
    "train_eyes": {
        "eyes": {"channels": [4, 8, 8], "camera_code": 16, "hidden": 32, "code": 4},
        "updates": 20, "batch": 16, "log_every": 10, "save_every": 20,
    },
    "train_world_model": {
        "model": {
            "rssm": {"deterministic": 16, "variables": 4, "classes": 4, "hidden": 16, "motion": 16}, "hidden": 16,
        },
        "updates": 20, "batch": 4, "length": 12, "log_every": 10, "save_every": 20,
    },
    "pretrain": {
        "policy": {"denoising_steps": 4, "finetuned_steps": 2, "hidden": 16, "time_embedding": 8},
        "demonstrations": 10, "updates": 20, "batch": 16, "encodings": 2, "log_every": 10, "save_every": 20,
    },
    "train_reward": {
        "classifier": {"hidden": 16, "embedding": 8},
        "demonstrations": 6, "play": 12, "play_length": 24,
        "updates": 20, "batch": 16, "log_every": 10, "save_every": 20,
    },
    "finetune": {
        "ppo": {"epochs": 1, "minibatch": 16, "critic_warmup": 1, "critic_hidden": 8},
        "iterations": 2, "episodes": 8, "chunks": 3, "play_starts": 8, "judged_episodes": 8, "judge_every": 2,
    },
}  # fmt: skip

JOINT: Stages = {"train_world_model": {"model": {"joint": {"depth": 8}}, "batch": 16}}

PAPER: Stages = {
    "ingest": {"mode": "vision", "image_size": 64},
    "train_world_model": {
        "model": {
            "rssm": {"deterministic": 1024, "variables": 32, "classes": 32, "hidden": 1000},
            "joint": {
                "depth": 48, "embedding": 1536, "weight": 1.0, "by_spread": False, "numbers": False, "shortcut": False
            },
            "hidden": 400, "kl_weight": 0.3, "kl_balance": 0.8, "free_nats": 0.0, "first_step_weight": 1.0,
            "contact_weight": 1.0,
        },
        "updates": 1_300_000, "batch": 50, "length": 50, "learning_rate": 3e-4, "final_learning_rate": 1.0,
        "weight_decay": 0.05, "gradient_clip": 100.0, "log_every": 500, "save_every": 5000,
    },
    "pretrain": {
        "policy": {"denoising_steps": 20, "finetuned_steps": 10, "chunk": 4, "hidden": 512, "time_embedding": 16},
        "demonstrations": 50, "updates": 60_000, "batch": 256, "learning_rate": 1e-4, "final_learning_rate": 0.1,
        "weight_decay": 1e-6, "ema": 0.995, "encodings": 1,
    },
    "train_reward": {
        "classifier": {"hidden": 1024, "embedding": 256, "temperature": 0.5, "cross_entropy_weight": 0.5},
        "threshold": 0.5, "demonstrations": 50, "play": 0, "imagined": True, "encodings": 1,
        "updates": 10_000, "batch": 32, "learning_rate": 1e-6,
    },
    "finetune": {
        "ppo": {
            "gamma": 0.999, "gae_lambda": 0.95, "gamma_denoising": 0.99, "clip": 0.01, "clip_base": 0.001,
            "epochs": 10, "minibatch": 7500, "actor_learning_rate": 1e-5, "critic_learning_rate": 1e-3,
            "critic_warmup": 2, "critic_hidden": 256, "value_weight": 0.5, "bc_weight": 0.05, "target_kl": 1.0,
        },
        "support": {"kind": "none"}, "iterations": 800, "episodes": 100, "chunks": 18, "judge_every": 25, "patience": 0,
    },
}  # fmt: skip

PRESETS: dict[str, Stages] = {"small": {}, "tiny": TINY, "joint": JOINT, "paper": PAPER}


def presets_of(verb: str) -> dict[str, dict[str, Any]]:
    """Return a verb's presets by name; of a verb that a preset says nothing of, it changes nothing."""
    if verb == "pipeline":
        return {name: {"stages": stages} for name, stages in PRESETS.items()}
    named = any(verb in stages for stages in PRESETS.values())
    return {name: stages.get(verb, {}) for name, stages in PRESETS.items()} if named else {}
