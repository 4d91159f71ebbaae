"""The policies that ship with DiWA, before and after fine-tuning, on the same starts: a table and a film of each skill.

usage: python scripts/try_bundles.py [--episodes 10] [--first-seed 700000] [--output runs/try]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ship_bundles import BUNDLES, POLICIES, SETTINGS, SKILLS

from diwa_runtime.cli import run_verb
from diwa_runtime.config import check_bounds, config_from, load_config, read_yaml
from diwa_runtime.config.bounds import WORKERS
from diwa_runtime.files import written_whole
from diwa_runtime.spec import Spec
from diwa_trainer.evaluation.evaluation import Evaluation, evaluate
from diwa_trainer.evaluation.film import Take, decode_mp4, encode_webp, side_by_side
from diwa_trainer.evaluation.settings import EvaluateConfig
from diwa_trainer.report.html import element, image, table
from diwa_trainer.report.page import frame

NAMES = {"base": "Cloned from demonstrations", "finetuned": "Fine-tuned in imagination"}
EVERY = 3
"""One picture of so many is kept."""


@dataclass(frozen=True)
class TryConfig:
    """Run the policies that ship with DiWA, before and after fine-tuning, from the same starts, and film them."""

    output: Path = field(default=Path("runs/try"), metadata={"help": "folder of the page and the films"})
    episodes: int = field(default=10, metadata={"help": "starts"})
    first_seed: int = field(default=700_000, metadata={"help": "episode i starts from seed first_seed + i"})
    workers: int = field(default=2, metadata={"help": "processes"})

    def __post_init__(self) -> None:
        check_bounds(self, episodes=(1, 50), first_seed=(0, 2**31), workers=WORKERS)


def run(config: TryConfig, bundles: Path = BUNDLES) -> None:
    """Evaluate, print the table, and write `index.html` and a film a skill.

    Raises:
        DiwaError: a bundle is missing or damaged, or nothing can be drawn here.
    """
    began = time.monotonic()
    rows, films = [], {}
    for skill in SKILLS:
        found = {policy: _evaluated(config, bundles / skill, policy) for policy in POLICIES}
        films[skill] = _film(found)
        rows.append((skill, *(f"{one.successes} of {config.episodes}" for one in found.values())))
        with written_whole(config.output / f"{skill}.webp") as temporary:
            temporary.write_bytes(films[skill])
    page = config.output / "index.html"
    with written_whole(page) as temporary:
        temporary.write_text(_page(config, rows, films), encoding="utf-8")
    print(f"\n{'':<14}{'cloned':>12}{'fine-tuned':>14}")
    for name, base, tuned in rows:
        print(f"{name:<14}{base:>12}{tuned:>14}")
    print(f"\n{time.monotonic() - began:.0f} s; to look at in a browser: {page}")


def _evaluated(config: TryConfig, folder: Path, policy: str) -> Evaluation:
    settings = {
        "output": str(config.output), "bundle": str(folder / policy), "episodes": config.episodes,
        "first_seed": config.first_seed, "videos": config.episodes, "workers": config.workers,
    }  # fmt: skip
    evaluation = config_from(EvaluateConfig, {**read_yaml(folder / SETTINGS), **settings}, str(folder / SETTINGS))

    def show(episodes: int, successes: int) -> None:
        is_last = episodes == config.episodes
        if is_last or sys.stdout.isatty():
            name = f"{folder.name}, {NAMES[policy].lower()}"
            print(f"\r{name}: {successes} of {episodes} succeeded", end="\n" if is_last else "", flush=True)

    return evaluate(evaluation, show)


def _film(found: dict[str, Evaluation]) -> bytes:
    takes = {
        NAMES[policy]: [Take(decode_mp4(one.videos[episode.seed]), episode.success) for episode in one.episodes]
        for policy, one in found.items()
    }
    rate_hz = Spec().rate_hz
    return encode_webp(side_by_side(takes, EVERY), rate_hz / EVERY)


def _page(config: TryConfig, rows: Sequence[Sequence[str]], films: dict[str, bytes]) -> str:
    lead = (
        f"{config.episodes} starts of the simulated play table, the same for both policies. A green frame is a "
        "success, a red one is not. No step in the environment was used in fine-tuning."
    )
    counted = table(("skill", *NAMES.values()), rows)
    sections = [
        ("success", "Success", counted),
        *((skill, skill, image(film, skill)) for skill, film in films.items()),
    ]
    return frame("Before and after fine-tuning in imagination", element("p", lead), sections)


if __name__ == "__main__":
    sys.exit(run_verb(lambda words: run(load_config(TryConfig, words))))
