"""Which eyes a mode has."""

from __future__ import annotations

from diwa_runtime.errors import ConfigError
from diwa_runtime.spec import Spec
from diwa_trainer.world.eyes.code_eyes import CodeEyes
from diwa_trainer.world.eyes.eyes import Eyes, EyesConfig
from diwa_trainer.world.eyes.scene_eyes import SceneEyes


def make_eyes(spec: Spec, config: EyesConfig) -> Eyes:
    """Build untrained eyes.

    Raises:
        ConfigError: mode `state` has no cameras.
    """
    if spec.mode == "state":
        raise ConfigError("mode 'state' has no pictures to see; ingest with --mode hybrid or vision")
    return SceneEyes(spec, config) if spec.mode == "hybrid" else CodeEyes(spec, config)
