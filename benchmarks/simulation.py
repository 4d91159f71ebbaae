"""The simulated play table against real time."""

from __future__ import annotations

from collections.abc import Callable

from measuring import Benchmark, Effort, median_seconds

from diwa_runtime.spec import TASKS, Mode
from diwa_sim.environment import RATE_HZ, PlayTable

STEPS = 60


def simulation(mode: Mode) -> Callable[[Effort], tuple[float, float]]:
    """Env-steps a CPU second while experts act, resets included, over all tasks; against 30 a second."""

    def measure(effort: Effort) -> tuple[float, float]:
        tables = [PlayTable(task=task.name, mode=mode) for task in TASKS[: 1 if effort.quick else None]]
        seeds = iter(range(10_000))

        def episodes() -> None:
            seed = next(seeds)
            for table in tables:
                play(table, seed, 3 if effort.quick else STEPS)

        try:
            cpu = median_seconds(episodes, effort)
        finally:
            for table in tables:
                table.close()
        return len(tables) * (3 if effort.quick else STEPS) / cpu, RATE_HZ

    return measure


def play(table: PlayTable, seed: int, steps: int) -> None:
    """Let the expert act for some steps of an episode, as long as its task usually takes."""
    observation, _ = table.reset(seed=seed)
    expert = table.expert()
    for _ in range(steps):
        snapshot = table.snapshot()
        action = expert.act({"proprio": observation["proprio"], "scene": snapshot.scene})
        observation, *_ = table.step(action)


_WHAT = (
    f"the play table with its expert acting, one episode of {STEPS} steps for each of the eight tasks, resets included"
)

BENCHMARKS = (
    Benchmark("sim_state", "env-steps/s", 33, f"{_WHAT}; no cameras", "real time, 30 Hz", simulation("state")),
    Benchmark(
        "sim_cameras", "env-steps/s", 8, f"{_WHAT}; two cameras of 64 px", "real time, 30 Hz", simulation("vision")
    ),
)
