"""A pipeline's folder made up from formulas: every file that the report reads, with plausible figures."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diwa_trainer.evaluation.statistics import wilson_interval
from diwa_trainer.evaluation.video import encode_mp4

FIRST_SEED = 100_000
CONTEXT, HORIZON = 10, 50
HORIZONS = [1, 5, 10, 25, 50]
TASKS = ("open_drawer", "turn_on_led", "move_slider_left")


def write_runs(folder: Path, episodes: int = 100, videos: int = 2) -> None:
    """Write the runs of three tasks."""
    random = np.random.default_rng(0)
    _write_run(folder / "eyes", [{"step": 50 * n, "loss": 1.0 / n} for n in range(1, 9)], {"seconds": 300.0})
    _write_json(folder / "eyes" / "eyes.json", eyes_report())
    Image.new("RGB", (8, 8)).save(folder / "eyes" / "worst_0.png")
    _write_world_model(folder / "world_model", random)
    for index, task in enumerate(TASKS):
        _write_pretrained(folder / task / "pretrained", random)
        _write_json(folder / task / "reward" / "reward.json", reward_report(task))
        _write_run(folder / task / "reward", [{"step": 50, "loss": 1.0}], {"seconds": 4.2})
        _write_finetuned(folder / task / "finetuned", random)
        base, tuned = 0.42 + 0.1 * index, 0.94 - 0.04 * index
        for name, rate, first in (
            ("base", base, FIRST_SEED),
            ("finetuned", tuned, FIRST_SEED),
            ("finetuned_0020", 0.5 * (base + tuned), FIRST_SEED + episodes),
        ):
            films = videos if first == FIRST_SEED else 0
            write_evaluation(folder / task / f"evaluation_{name}", task, rate, first, episodes, films)


def write_evaluation(folder: Path, task: str, rate: float, first_seed: int, episodes: int, videos: int) -> None:
    """Write an evaluation in which the first `rate` of all starts succeed."""
    successes = round(rate * episodes)
    detail = [
        {
            "seed": first_seed + i,
            "success": i < successes,
            "length": 30 + i % 20 if i < successes else 96,
            "seconds": 1.0,
            "max_probability": 0.99 if i < successes else 0.2,
            "first_fired": 25 if i < successes or i == episodes - 1 else None,
        }
        for i in range(episodes)
    ]
    data = {
        "format_version": 1,
        "policy": "bundle",
        "task": task,
        "successes": successes,
        "episodes": episodes,
        "interval95": list(wilson_interval(successes, episodes)),
        "mean_length": float(np.mean([one["length"] for one in detail])),
        "max_steps": 96,
        "environment": {"id": "diwa_sim:PlayTable-v0", "kwargs": {}},
        "seeds": list(range(first_seed, first_seed + episodes)),
        "bundle": {
            "sha256": "ab" * 32,
            "skill": task,
            "success_threshold": 0.97,
            "provenance": {"world_model": "cd" * 32, "iterations": 60},
        },
        "classifier": {
            "fired_on_success": successes,
            "successes": successes,
            "fired_on_failure": 1,
            "failures": episodes - successes,
        },
        "videos": {str(first_seed + i): f"videos/seed_{first_seed + i}.mp4" for i in range(videos)},
        "episodes_detail": detail,
    }
    _write_run(folder, [], {"seconds": 11.0})
    _write_json(folder / "evaluation.json", data)
    for i in range(videos):
        (folder / "videos").mkdir(exist_ok=True)
        frames = [np.full((48, 64, 3), 40 + 20 * i + 5 * t, np.uint8) for t in range(10)]
        (folder / "videos" / f"seed_{first_seed + i}.mp4").write_bytes(encode_mp4(frames, 30))


def reward_report(task: str) -> dict[str, Any]:
    """Return a `reward.json`."""
    rows = [
        {
            "threshold": threshold,
            "precision": 0.9 + 0.05 * threshold,
            "recall": 1.0 - 0.1 * threshold,
            "fires_in_succeeded": 0.98,
            "fires_in_failed": 0.3 * (1 - threshold),
        }
        for threshold in (0.5, 0.9, 0.97, 0.99)
    ]
    no_failures = [{**row, "fires_in_failed": None} for row in rows]
    return {
        "task": task,
        "threshold": 0.97,
        "train": {"successes": 900, "others": 22_000},
        "held_out": {
            "demonstrations": {"succeeded": 20, "failed": 0, "by_threshold": no_failures},
            "play": {"succeeded": 30, "failed": 70, "by_threshold": rows},
        },
    }


def data_report() -> dict[str, Any]:
    """Return a `data.json`."""
    names = ["tcp_x", "tcp_y", "tcp_z", *(f"tcp_rotation_{i}" for i in range(6)), "slider", "drawer", "led", "red_z"]
    return {
        "rows": 48_211,
        "hours": 0.4464,
        "episodes": [
            {"kind": "demonstration", "task": task, "outcome": "success", "episodes": 60, "rows": 2500}
            for task in TASKS
        ]
        + [{"kind": "play", "task": "", "outcome": "", "episodes": 160, "rows": 40_711}],
        "dropped": [{"bag": "play_003", "reason": "a gap of more than 0.2 s splits the episode", "count": 2}],
        "features": [
            {"name": name, "mean": 0.01 * i, "std": 0.02 + 0.01 * i, "largest_standardised": 3.0 + i**1.3}
            for i, name in enumerate(names)
        ],
    }


def eyes_report() -> dict[str, Any]:
    """Errors of estimates, larger on what was held out."""
    lights = ("bulb", "led")
    features = [
        {"name": name, "two_valued": name in lights, "held_out": 0.0031, "folds": 0.003, "learned": 0.0017}
        for name in ("slider", "drawer", *lights, "block_red_x")
    ]
    return {
        "features": features,
        "error": {"held_out": 0.31, "folds": 0.3, "learned": 0.17},
        "redrawn": {"static": {"held_out": 0.19, "learned": 0.2}, "wrist": {"held_out": 0.55, "learned": 0.5}},
        "estimates": {"drawer": {"low": 0.0, "high": 0.2, "counts": [[60, 0], [2, 40]]}},
        "lights": {"led": {"off": 2800, "off_seen_on": 0, "on": 1200, "on_seen_off": 3}},
        "worst": [
            {
                "recording": "play_003",
                "step": 17,
                "values": {"drawer": {"truth": 0.12, "seen": 0.085}, "led": {"truth": 1.0, "seen": 0.04}},
            }
        ],
    }


def open_loop_report() -> dict[str, Any]:
    """Return an `open_loop.json`."""
    random = np.random.default_rng(1)
    features, examples = {}, {}
    for name, scale in (("tcp", 0.2), ("drawer", 0.04), ("slider", 0.02), ("led", 0.1)):
        ahead = np.arange(1, HORIZON + 1)
        curve = {
            "model": 0.3 * scale * np.sqrt(ahead / HORIZON) + 0.02 * scale,
            "constant": scale * np.sqrt(ahead / HORIZON),
            "linear": 3 * scale * ahead / HORIZON,
        }
        curves = {who: values.tolist() for who, values in curve.items()}
        table = {who: [values[h - 1] for h in HORIZONS] for who, values in curves.items()}
        features[name] = {
            "all": table,
            "moved": {who: [2.5 * value for value in values] for who, values in table.items()},
            "moved_windows": 23,
            "usable": 31 if name == "led" else HORIZON,
            "curve": curves,
            "moved_curve": curves | {"mean": [scale] * HORIZON},
            "posterior_first": 0.15 * scale,
            "posterior_last": 0.04 * scale,
        }
        steps = np.arange(CONTEXT + HORIZON)
        truth = scale * np.stack([np.sin(steps / 9 + d) for d in range(3 if name == "tcp" else 1)], -1)
        guess = truth + 0.1 * scale * np.cumsum(random.standard_normal(truth.shape), 0) / 5
        examples[name] = [{"truth": truth.tolist(), "predicted": guess.tolist()}] * 3
    flips = {"led": {"flipped": 16, "foreseen": 14, "unflipped": 240, "false": 3}}
    return {
        "context": CONTEXT,
        "horizons": HORIZONS,
        "windows": 256,
        "features": features,
        "usable": {"steps": 31, "seconds": 31 / 30, "limited_by": "led"},
        "flips": flips,
        "contacts": {"held": 412, "through": 0.31, "free": 512, "stuck": 0.03},
        "examples": examples,
    }


def _write_world_model(folder: Path, random: np.random.Generator) -> None:
    metrics = []
    for step in range(50, 4001, 50):
        row: dict[str, float] = {"step": step, "gradient_norm": 1.0}
        for i, name in enumerate(("loss", "reconstruction", "reconstruction_first", "kl")):
            value = (1 + i) * (0.4 + 8 * math.exp(-step / 600)) if i < 3 else 9 + 20 * math.exp(-step / 500)
            row |= {name: value * (1 + 0.15 * random.standard_normal()), f"held_out_{name}": value * 1.1}
        metrics.append(row)
    _write_run(folder, metrics, {"seconds": 612.4, "updates": 4000})
    _write_json(folder / "data.json", data_report())
    _write_json(folder / "open_loop.json", open_loop_report())


def _write_pretrained(folder: Path, random: np.random.Generator) -> None:
    metrics = [
        {
            "step": step,
            "loss": 0.05 + 0.8 * math.exp(-step / 400) + 0.01 * random.random(),
            "held_out_loss": 0.09 + 0.8 * math.exp(-step / 400),
        }
        for step in range(100, 4001, 100)
    ]
    _write_run(folder, metrics, {"seconds": 31.0, "demonstrations": 15, "pairs": 700})


def _write_finetuned(folder: Path, random: np.random.Generator) -> None:
    metrics: list[dict[str, float | None]] = []
    for step in range(1, 61):
        rise = 1 - math.exp(-step / 15)
        metrics.append(
            {
                "step": step,
                "success": 0.5 + 0.45 * rise + 0.02 * random.standard_normal(),
                "chunks": 18 - 8 * rise,
                "clip_fraction": None if step < 3 else 0.25 + 0.05 * random.random(),
                "approx_kl": 5e-6 * (1 + random.random()),
                "explained_variance": 0.5 * rise,
                "value_loss": 0.2 * math.exp(-step / 20) + 0.02,
            }
        )
    for step in range(0, 61, 10):
        rise = 1 - math.exp(-step / 15)
        judged = {"judged_success_classifier": 0.55 + 0.42 * rise, "judged_success_decoded": 0.5 + 0.4 * rise}
        metrics.append({"step": step, **judged, "kl_to_pretrained": 3 * rise})
    _write_run(folder, metrics, {"seconds": 131.0, "env_steps": 0, "imagined_steps": 512_000})
    preflight = {
        "base": {"classifier": 0.76, "decoded": 0.47},
        "by_threshold": [{"threshold": 0.5, "success": 0.88}, {"threshold": 0.97, "success": 0.76}],
        "warnings": ["classifier and decoded scene disagree on the base policy (0.76 against 0.47)"],
    }
    _write_json(folder / "preflight.json", preflight)
    base = {"iteration": 0, "success": 0.55, "outside": 0.05, "kl": 0.0}
    early = {"iteration": 20, "success": 0.80, "outside": 0.06, "kl": 1.2}
    kept = {"iteration": 40, "success": 0.93, "outside": 0.08, "kl": 2.5}
    last = {"iteration": 60, "success": 0.94, "outside": 0.09, "kl": 3.1}
    why = "iteration 40: 0.55 to 0.93 of imagined episodes succeed"
    said = {"decision": "accept", "why": why, "chosen": kept, "candidates": [base, early, kept, last]}
    _write_json(folder / "verdict.json", said)


def _write_run(folder: Path, metrics: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if metrics:
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    (folder / "config.yaml").write_text(f"output: {folder.name}\nseed: 0\n")
    _write_json(folder / "summary.json", summary)


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))
