"""`evaluate`: run a bundle, or a baseline, from many seeded starts; count, film, write it down, compare it."""

from __future__ import annotations

from diwa_runtime.bundle import Bundle
from diwa_runtime.files import written_whole
from diwa_trainer.evaluation.comparison import (
    COMPARISON,
    check_same_terms,
    compare,
    comparison_line,
    read_evaluation,
)
from diwa_trainer.evaluation.evaluation import Evaluation, evaluate, task_of, video_name
from diwa_trainer.evaluation.settings import EvaluateConfig
from diwa_trainer.runs.result_files import EVALUATION, read_result
from diwa_trainer.runs.run import Run, tell, write_json

_SHOW_EVERY = 25


def run(config: EvaluateConfig) -> None:
    """Evaluate into `config.output`: `evaluation.json`, `videos/` and `summary.json`; compared, `comparison.json` too.

    Raises:
        InputError: what it is to be compared with cannot be read, or was not run on the same terms; found first.
        DiwaError: see `diwa_trainer.evaluation.evaluation.evaluate`; nothing is written then but the run's config.
    """
    if not config.only_compares:
        _evaluate(config)
    if config.compare is not None:
        comparison = compare(
            read_evaluation(config.output), str(config.output), read_evaluation(config.compare), str(config.compare)
        )
        write_json(config.output / COMPARISON, comparison)
        tell(config.output, comparison_line(comparison))


def _evaluate(config: EvaluateConfig) -> None:
    bundle = Bundle.load(config.bundle) if config.bundle else None
    if config.compare is not None:
        other, terms = read_evaluation(config.compare), config.terms(task_of(config, bundle))
        check_same_terms(terms, str(config.output), other, str(config.compare))
    with Run(config.output, config, {"bundle": bundle.sha256} if bundle else {}) as run_folder:
        if run_folder.is_done:
            read_result(config.output / EVALUATION)  # what cannot be read is not to be taken for done
            tell(run_folder.folder, "is done already")
            return

        def show(episodes: int, successes: int) -> None:
            if run_folder.interrupted:
                raise KeyboardInterrupt("nothing was kept; the same command starts the evaluation again")
            if episodes % _SHOW_EVERY == 0 or episodes == config.episodes:
                tell(run_folder.folder, f"{successes} of {episodes} succeeded")

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
