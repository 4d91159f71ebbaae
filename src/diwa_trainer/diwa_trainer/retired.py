"""Settings that have become constants: what runs and files of before say of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diwa_runtime.errors import InputError
from diwa_runtime.session import NOISE_LIMIT

RETIRED = {"noise_clip": NOISE_LIMIT, "policy.noise_clip": NOISE_LIMIT}
"""Settings that were, as a policy's file and as its run's `config.yaml` name them, with the value that always holds."""


def without_retired(settings: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return settings by dotted name without those that hold by themselves now.

    Raises:
        InputError: one of them was something else; names `source`.
    """
    for name, value in RETIRED.items():
        if settings.get(name, value) != value:
            raise InputError(
                f"{source}: was made with {name} = {settings[name]!r}, which this DiWA fixes at {value}; make it anew"
            )
    return {name: value for name, value in settings.items() if name not in RETIRED}
