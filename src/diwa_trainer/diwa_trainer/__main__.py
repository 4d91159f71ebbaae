"""The command line: `python -m diwa_trainer VERB ...` is `ros2 run diwa_trainer VERB ...`."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable, Sequence

from diwa_runtime.cli import EXIT_BAD_INPUT, run_verb
from diwa_runtime.config import load_config
from diwa_runtime.errors import nearest
from diwa_trainer.verbs.presets import presets_of

# Threads that wait for one another spin for some ten microseconds, then sleep; by OpenMP's own default they spin for
# long. With two threads on two cores that other work wanted too, an update of the world model then took five to nine
# times as long. Two that sleep at once are slower on idle cores: 102 ms an update against 70, and 89 with one thread.
# Torch reads it once, as it loads.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

VERBS = {
    "ingest": "IngestConfig",
    "train_eyes": "TrainEyesConfig",
    "train_world_model": "TrainWorldModelConfig",
    "pretrain": "PretrainConfig",
    "train_reward": "TrainRewardConfig",
    "finetune": "FinetuneConfig",
    "evaluate": "EvaluateConfig",
    "export": "ExportConfig",
    "verdict": "VerdictConfig",
    "report": "ReportConfig",
    "pipeline": "PipelineConfig",
    "sweep": "SweepConfig",
}


def call_verb(verb: str, argv: Sequence[str]) -> None:
    """Load the verb's settings from flags and files, and run it. Only this verb's imports are paid for."""
    module = importlib.import_module(f"diwa_trainer.verbs.{verb}")
    try:
        module.run(load_config(getattr(module, VERBS[verb]), argv, presets_of(verb)))
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise MemoryError from error  # torch has no kind of its own for it


def _entry(verb: str) -> Callable[[], None]:
    def entry() -> None:
        sys.exit(run_verb(functools.partial(call_verb, verb)))

    return entry


# One function a verb, which the installed executables name.
ingest = _entry("ingest")
train_eyes = _entry("train_eyes")
train_world_model = _entry("train_world_model")
pretrain = _entry("pretrain")
train_reward = _entry("train_reward")
finetune = _entry("finetune")
evaluate = _entry("evaluate")
export = _entry("export")
verdict = _entry("verdict")
report = _entry("report")
pipeline = _entry("pipeline")
sweep = _entry("sweep")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb named first; return the process's exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("--help", "-h"):
        print(f"usage: python -m diwa_trainer VERB [--help] ...\nverbs: {', '.join(VERBS)}")
        return 0 if arguments else EXIT_BAD_INPUT
    verb = arguments[0].replace("-", "_")
    if verb not in VERBS:
        print(f"error: no verb {arguments[0]!r}{nearest(verb, VERBS)} (there are {', '.join(VERBS)})", file=sys.stderr)
        return EXIT_BAD_INPUT
    return run_verb(functools.partial(call_verb, verb), arguments[1:])


if __name__ == "__main__":
    sys.exit(main())
