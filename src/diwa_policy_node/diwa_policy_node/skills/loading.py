"""The skills that a robot has: a folder of bundles, all of one Spec."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from diwa_runtime.actions import ACTION_SIZE
from diwa_runtime.bundle import MANIFEST, Bundle, observation_type
from diwa_runtime.errors import BundleError, one_line
from diwa_runtime.same_spec import check_same_spec

WARM_UPS = 5


def load_skills(folders: Sequence[Path], threads: int = 1) -> dict[str, Bundle]:
    """Load and check bundles, by the skill that each is for.

    Args:
        folders: each a bundle, or a folder that bundles lie in directly.
        threads: as for `Bundle.load`.

    Raises:
        BundleError: a bundle is damaged, there is none, or two are for one skill; names the folder.
        SpecMismatchError: two of them are not for one robot.
    """
    skills: dict[str, Bundle] = {}
    for folder in [bundle for given in folders for bundle in bundle_folders(Path(given))]:
        bundle = Bundle.load(folder, threads)
        name = bundle.manifest.skill
        if name in skills:
            raise BundleError(f"{folder}: is for {name!r}, as {skills[name].source} is; remove one of them")
        first = next(iter(skills.values()), bundle)
        check_same_spec(first.spec, first.source, bundle.spec, bundle.source, "skills")
        skills[name] = bundle
    return skills


def bundle_folders(folder: Path) -> list[Path]:
    """Return the folder itself if it is a bundle, else the bundles that lie in it.

    Raises:
        BundleError: there is none.
    """
    if (folder / MANIFEST).exists():
        return [folder]
    found = sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
    if not found:
        raise BundleError(f"{folder}: no bundle there, and none in its folders; name one that `export` wrote")
    return found


def verdict_of(bundle: Bundle) -> tuple[bool, str]:
    """Say whether fine-tuning trusted the policy of a bundle, and in one line what it said; "" if it said nothing."""
    verdict = bundle.manifest.provenance.get("verdict")
    if not isinstance(verdict, Mapping):
        return True, ""
    decision, why = (" ".join(str(verdict.get(name, "")).split()) for name in ("decision", "why"))
    return decision == "accept", f"{bundle.manifest.skill}: verdict of its fine-tuning: {decision}; {why}"


def warm_up(bundle: Bundle) -> float:
    """Run every graph a few times on zeros, for the first inference is the slowest; return the last one's seconds.

    Raises:
        BundleError: a graph cannot be run.
    """
    manifest, spec = bundle.manifest, bundle.spec
    types = {name: observation_type(spec, name) for name in spec.observation_fields}
    observation = {name: np.zeros((1, *shape), dtype) for name, (dtype, shape) in types.items()}
    latent = np.zeros((1, manifest.latent_size), np.float32)
    noise = np.zeros((1, *manifest.noise_shape), np.float32)
    seconds = 0.0
    for _ in range(WARM_UPS):
        start = time.perf_counter()
        try:
            bundle.filter(observation, np.zeros((1, ACTION_SIZE), np.float32), latent)
            bundle.policy(latent, noise)
            bundle.probability(latent)
        except Exception as error:  # the edge to ONNX Runtime, whose errors have no common kind
            raise BundleError(f"{bundle.source}: cannot be run ({one_line(error)}); export it again") from None
        seconds = time.perf_counter() - start
    return seconds
