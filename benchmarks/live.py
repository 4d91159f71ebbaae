"""From observation to command through ROS: the simulator's node in this process, the policy node in one of its own.

A bundle in state mode is run for ten minutes at control rate. Its denoiser is of the paper's size (latent 2,048,
[512] x 3, 20 steps); its filter and its reward are the toy bundle's linear ones, so the figures say nothing of cameras
or of a learnt filter's cost. What is timed is all that lies between the moment before the simulator publishes its state
and the moment after it has taken in the command that answers it: two ways through the middleware, conversion, filter,
denoising and reward.
"""

from __future__ import annotations

import functools
import gc
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import Benchmark, Effort, missing_modules
from numpy.typing import NDArray
from toy_bundle import ToyWeights, feature_count, toy_graphs, toy_manifest

from diwa_runtime.bundle import write_bundle
from diwa_runtime.bundle.manifest import FieldStatistics
from diwa_runtime.files import written_whole
from diwa_runtime.spec import Spec
from diwa_trainer.deploy.graphs import policy_graph
from diwa_trainer.policy.diffusion import DiffusionConfig, DiffusionPolicy

SECONDS = 600.0
PICTURE = Path(__file__).resolve().parent.parent / "docs" / "images" / "observation_to_command.svg"
LIMIT_P50_MS, LIMIT_P99_MS = 10.0, 33.0
DOMAIN = 205
START_S = 60.0


@dataclass(frozen=True)
class LiveRun:
    """What ten minutes showed.

    Attributes:
        latency_ms: of each command (N,).
        gaps: ticks from each tick with a command to the next one (N - 1,); 1 = no tick was without one.
    """

    latency_ms: NDArray[np.float64]
    gaps: NDArray[np.int64]


def write_policy(folder: Path, small: bool) -> None:
    """A bundle with a denoiser of the paper's size, filter and reward linear; never sees success, moves little."""
    spec, latent = Spec(), 64 if small else 2048
    torch.manual_seed(0)
    policy = DiffusionPolicy(DiffusionConfig(denoising_steps=20, hidden=64 if small else 512), latent)
    weights = ToyWeights.random(spec, latent)
    weights = replace(weights, judge=np.zeros(latent, np.float32), judge_bias=-20.0)
    weights = replace(weights, observe=np.zeros((feature_count(spec), latent), np.float32))
    chunk, steps = policy.config.chunk, policy.config.denoising_steps
    graphs = toy_graphs(spec, weights, chunk, steps) | {"policy.onnx": policy_graph(policy, policy)}
    anywhere = FieldStatistics.of(np.array([np.full(15, -10.0), np.full(15, 10.0)]))
    manifest = replace(toy_manifest(spec, latent, chunk, steps), proprio_starts=anywhere, max_steps=1 << 20)
    write_bundle(folder, manifest, graphs)


def make_simulator(context: Any) -> Any:
    """The simulator's node, with a clock at its way out and its way in."""
    from diwa_runtime.command_gate import Command
    from diwa_sim.node import SimulatorNode

    class TimedSimulator(SimulatorNode):
        """Notes when each state went out and when the command that answers it was taken in.

        Attributes:
            published_ns: by the state's stamp.
            latency_ns: in order of the commands.
            answered_ticks: numbers of the ticks in which there was a command to execute.
        """

        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.published_ns: dict[int, int] = {}
            self.latency_ns: list[int] = []
            self.answered_ticks: list[int] = []
            offer, take = self._gate.offer, self._gate.take

            def timed_offer(command: Command, now_ns: int, unwilling: str = "") -> str | None:
                sent_ns = self.published_ns.pop(command.answers_ns, None)
                if sent_ns is not None:
                    self.latency_ns.append(time.monotonic_ns() - sent_ns)
                return offer(command, now_ns, unwilling)

            def counted_take() -> Command | None:
                command = take()
                if command is not None:
                    self.answered_ticks.append(self._ticks)
                return command

            self._gate.offer, self._gate.take = timed_offer, counted_take  # type: ignore[method-assign]

        def _publish(self, tick: Any) -> None:
            self.published_ns[tick.stamp_ns] = time.monotonic_ns()
            super()._publish(tick)

    return TimedSimulator(context=context)


def live_run(seconds: float, small: bool) -> LiveRun:
    """Run a policy against the simulator."""
    import rclpy
    from rclpy.action import ActionClient
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.node import Node

    from diwa_msgs.action import RunSkill

    context = rclpy.Context()
    rclpy.init(context=context, domain_id=DOMAIN)
    simulator, client = make_simulator(context), Node("bench", context=context)
    action = ActionClient(client, RunSkill, "run_skill")
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(simulator)
    executor.add_node(client)

    def spin_until(reached: Callable[[], bool], limit_s: float) -> None:
        end = time.monotonic() + limit_s
        while not reached():
            if time.monotonic() > end:
                raise RuntimeError("the policy node did not do its part; run it by hand to see why")
            executor.spin_once(timeout_sec=0.1)

    with tempfile.TemporaryDirectory() as folder:
        write_policy(Path(folder) / "skill", small)
        policy = _start_policy(Path(folder) / "skill")
        try:
            gc.collect()
            gc.freeze()  # this process holds torch too; looking through all of it would stop the simulator's clock
            simulator.start()
            goal = RunSkill.Goal(skill="open_drawer", timeout=1e6, seed=1)
            handle: Any = None
            while handle is None or not simulator.latency_ns:  # refused until the node is active
                spin_until(action.server_is_ready, START_S)
                sent = action.send_goal_async(goal)
                spin_until(sent.done, START_S)
                handle = sent.result()
                ended = handle.get_result_async()
                spin_until(lambda ended=ended: ended.done() or bool(simulator.latency_ns), START_S)  # type: ignore[misc]
            until = time.monotonic() + seconds
            spin_until(lambda: time.monotonic() > until or ended.done(), seconds + START_S)
        finally:
            policy.terminate()
            try:
                policy.wait(10)
            finally:
                policy.kill()  # one that stayed would answer the next run's simulator
    if ended.done():
        raise RuntimeError(f"the run ended before its time: {ended.result().result.reason}")
    executor.shutdown()
    for node in (simulator, client):
        node.destroy_node()
    rclpy.shutdown(context=context)
    return LiveRun(np.array(simulator.latency_ns) / 1e6, np.diff(simulator.answered_ticks))


def _start_policy(skill: Path) -> subprocess.Popen[bytes]:
    flags = {"skills": f"[{skill}]", "autostart": "true", "log_folder": '""', "blocked_s": 0.0}  # it goes nowhere
    words = [word for name, value in flags.items() for word in ("-p", f"{name}:={value}")]
    code = "from diwa_policy_node.node import main; main()"
    environment = {**os.environ, "ROS_DOMAIN_ID": str(DOMAIN), "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, "-c", code, "--ros-args", "--log-level", "warn", *words], env=environment)


def draw(run: LiveRun, picture: Path) -> None:
    """Draw the histogram of latencies, with the limits."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    top = max(LIMIT_P99_MS + 2, float(np.ceil(run.latency_ms.max())))
    axes.hist(run.latency_ms, bins=np.arange(0, top + 0.5, 0.5).tolist(), color="#2a6f97")
    axes.set_yscale("log")
    axes.set_xlabel("observation to command, ms")
    axes.set_ylabel("commands")
    median, late = np.percentile(run.latency_ms, [50, 99])
    for value, limit, label in ((median, LIMIT_P50_MS, "median"), (late, LIMIT_P99_MS, "99th percentile")):
        axes.axvline(limit, color="#b23a48", linestyle="--", linewidth=1)
        axes.text(
            limit, axes.get_ylim()[1], f"{label} {value:.1f}, limit {limit:.0f} ", ha="right", va="top", fontsize=8
        )
    axes.set_title(f"{len(run.latency_ms):,} commands, most ticks between two: {run.gaps.max()}", fontsize=10)
    with written_whole(picture) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})
    plt.close(figure)


@functools.cache
def measured_run(quick: bool) -> LiveRun:
    """Make the run that all rows are taken from, and its picture unless it is only a trial."""
    run = live_run(2.0 if quick else SECONDS, small=quick)
    if not quick:
        draw(run, PICTURE)
    return run


def lacks() -> str:
    """Say what there is not of ROS and the built workspace."""
    missing = missing_modules("rclpy", "diwa_msgs", "diwa_ros", "diwa_policy_node")
    return f"there is no {missing[0]}; it needs ROS and a built workspace (make build)" if missing else ""


def row(figure_of: Callable[[LiveRun], float], reference: float) -> Callable[[Effort], tuple[float, float]]:
    """One figure of the run beside its limit."""

    def measure(effort: Effort) -> tuple[float, float]:
        return figure_of(measured_run(effort.quick)), reference

    return measure


_WHAT = (
    "simulator to policy node and back, two processes, 10 minutes at 30 Hz; state mode; denoiser of the paper's size "
    "([512] x 3, latent 2,048, K = 20), linear toy filter and reward; time on the wall"
)

BENCHMARKS = (
    Benchmark(
        "observation_to_command",
        "ms",
        1.0,
        f"median of {_WHAT}",
        "the limit",
        row(lambda run: float(np.percentile(run.latency_ms, 50)), LIMIT_P50_MS),
        one_run=True,
        lacks=lacks,
    ),
    Benchmark(
        "observation_to_command_p99",
        "ms",
        1.0,
        f"99th percentile of {_WHAT}",
        "the limit, a control period",
        row(lambda run: float(np.percentile(run.latency_ms, 99)), LIMIT_P99_MS),
        one_run=True,
        lacks=lacks,
    ),
    Benchmark(
        "command_gap",
        "ticks",
        1.0,
        "most control ticks from one command to the next in that run",
        "1: no tick without a command",
        row(lambda run: float(run.gaps.max()), 1.0),
        one_run=True,
        lacks=lacks,
    ),
)
