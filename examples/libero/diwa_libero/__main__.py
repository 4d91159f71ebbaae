"""`python -m diwa_libero VERB`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from diwa_runtime.cli import run_verb
from diwa_runtime.config import load_config
from diwa_runtime.errors import ConfigError, nearest

VERBS = ("collect", "spec")


def main(argv: Sequence[str]) -> int:
    """Run one verb and return the process's exit code."""
    return run_verb(_dispatch, argv)


def _dispatch(argv: Sequence[str]) -> None:
    verb = argv[0] if argv else ""
    if verb in ("--help", "-h"):
        print(f"usage: python -m diwa_libero {{{','.join(VERBS)}}} [--help]")
    elif verb == "collect":
        # MuJoCo and rosbags take a second to load; a wrong verb should not.
        from diwa_libero.collect import CollectConfig
        from diwa_sim.collection import collect

        collect(load_config(CollectConfig, argv[1:]))
    elif verb == "spec":
        from diwa_libero.scenes import SCENES, scene_named

        if len(argv) != 2:
            raise ConfigError(f"spec takes one scene: {', '.join(SCENES)}")
        print(json.dumps(scene_named(argv[1]).spec().to_json(), indent=1))
    else:
        raise ConfigError(f"no verb {verb!r}{nearest(verb, VERBS)} (there are {', '.join(VERBS)})")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
