"""Copy what `make demo` made into examples/bundles: two skills, base and fine-tuned, their weights in half the room.

usage: python scripts/ship_bundles.py RUN_FOLDER
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from diwa_runtime.bundle import Bundle, write_bundle
from diwa_runtime.bundle.manifest import GRAPHS
from diwa_runtime.cli import run_verb
from diwa_runtime.config import read_yaml
from diwa_runtime.errors import ConfigError
from diwa_runtime.files import written_whole
from diwa_trainer.deploy.half import with_half_weights

BUNDLES = Path(__file__).resolve().parents[1] / "examples" / "bundles"
SKILLS = ("open_drawer", "turn_on_led")
POLICIES = ("base", "finetuned")
SETTINGS = "evaluate.yaml"
KEPT = ("environment", "environment_kwargs", "max_steps")
"""Settings of the evaluation that a bundle's figures are made with."""


def main(run_folder: Path, output: Path = BUNDLES) -> None:
    """Write each bundle and how its skill is evaluated.

    Raises:
        InputError: the run lacks one of them.
        BundleError: a bundle is damaged.
    """
    for skill in SKILLS:
        for policy in POLICIES:
            source = run_folder / skill / f"bundle_{policy}"
            manifest = Bundle.load(source).manifest
            graphs = {name: with_half_weights((source / name).read_bytes()) for name in GRAPHS}
            (output / skill).mkdir(parents=True, exist_ok=True)
            write_bundle(output / skill / policy, manifest, graphs)
            size = sum(path.stat().st_size for path in (output / skill / policy).iterdir())
            print(f"{skill}/{policy}: {size / 1e6:.1f} MB")
        settings = read_yaml(run_folder / skill / "evaluation_finetuned" / "config.yaml")
        with written_whole(output / skill / SETTINGS) as temporary:
            temporary.write_text(yaml.safe_dump({name: settings[name] for name in KEPT}), encoding="utf-8")


def _main(words: Sequence[str]) -> None:
    if len(words) != 1:
        raise ConfigError("name the folder of a finished pipeline, such as runs/demo")
    main(Path(words[0]))


if __name__ == "__main__":
    sys.exit(run_verb(_main))
