"""`python -m diwa_sim VERB`, and `ros2 run diwa_sim collect`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from diwa_runtime.cli import run_verb
from diwa_runtime.config import load_config
from diwa_runtime.errors import ConfigError, nearest, one_line

VERBS = ("collect",)


def main(argv: Sequence[str]) -> int:
    """Run one verb and return the process's exit code."""
    return run_verb(_dispatch, argv)


def collect() -> int:
    """Run `collect` with the process's arguments."""
    return run_verb(_collect)


def _dispatch(argv: Sequence[str]) -> None:
    verb = argv[0] if argv else ""
    if verb in ("--help", "-h"):
        print(f"usage: python -m diwa_sim {{{','.join(VERBS)}}} [--help]")
        return
    if verb not in VERBS:
        raise ConfigError(f"no verb {verb!r}{nearest(verb, VERBS)} (there is {', '.join(VERBS)})")
    _collect(argv[1:])


def _collect(argv: Sequence[str]) -> None:
    # MuJoCo and rosbags take a second to load; a wrong verb should not.
    try:
        from diwa_sim.collect import CollectConfig
        from diwa_sim.collection import collect as collect_bags
    except (ImportError, RuntimeError) as error:  # as MuJoCo's of a MUJOCO_GL that it does not know
        raise ConfigError(f"the simulator cannot be loaded ({one_line(error)})") from error

    collect_bags(load_config(CollectConfig, argv))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
