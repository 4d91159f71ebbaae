"""`evaluate`: run a bundle, or a baseline, from many seeded starts; count, film, write it down."""

from __future__ import annotations

from diwa_runtime.bundle import Bundle
from diwa_runtime.files import written_whole
from diwa_trainer.evaluation.evaluation import EvaluateConfig, Evaluation, evaluate, video_name
from diwa_trainer.runs.result_files import EVALUATION, read_result
from diwa_trainer.runs.run import Run, write_json

_SHOW_EVERY = 25


def run(config: EvaluateConfig) -> None:
    """Evaluate into `config.output`: `evaluation.json`, `videos/` and `summary.json`.

    Raises:
        DiwaError: see `diwa_trainer.evaluation.evaluation.evaluate`; nothing is written then but the run's config.
    """
    inputs = {"bundle": Bundle.load(config.bundle).sha256} if config.bundle else {}
    with Run(config.output, config, inputs) as run_folder:
        if run_folder.is_done:
            read_result(config.output / EVALUATION)  # what cannot be read is not to be taken for done
            print(f"[{run_folder.folder.name}] is done already")
            return

        def show(episodes: int, successes: int) -> None:
            if run_folder.interrupted:
                raise KeyboardInterrupt("nothing was kept; the same command starts the evaluation again")
            if episodes % _SHOW_EVERY == 0 or episodes == config.episodes:
                print(f"[{run_folder.folder.name}] {successes} of {episodes} succeeded", flush=True)

        evaluation = evaluate(config, show)
        _write(evaluation)
        run_folder.finish(
            {name: evaluation.to_json()[name] for name in ("task", "policy", "successes", "episodes", "interval95")}
            | {"seconds": run_folder.seconds}
        )


def _write(evaluation: Evaluation) -> None:
    folder = evaluation.config.output
    for seed, video in evaluation.videos.items():
        with written_whole(folder / video_name(seed)) as temporary:
            temporary.write_bytes(video)
    write_json(folder / EVALUATION, evaluation.to_json())
