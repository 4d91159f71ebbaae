"""Processes side by side on a Ray cluster, each as a task of its own: an optional extra (`pip install ray`).

What Ray does is find a machine with room. Each task starts an ordinary process there, in the folder that we were
started in, which all machines must share.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diwa_runtime.errors import ConfigError, DiwaError, one_line
from diwa_trainer.runs.side_by_side import LOOK_S, STOPPED, Told, requests_to_stop, start_process

PASSED_ON = ("PYTHONPATH", "MUJOCO_GL", "LP_NUM_THREADS", "OMP_WAIT_POLICY")
"""Variables that processes elsewhere need as we have them."""


@dataclass(frozen=True)
class Room:
    """Where, and what a process takes of a machine.

    Attributes:
        address: of the cluster; None: the one that RAY_ADDRESS names or that runs on this machine, or a new one on it.
    """

    address: str | None
    cpus: float
    gpus: float


def side_by_side_on_ray(
    commands: Mapping[str, Sequence[str]],
    logs: Mapping[str, Path],
    workers: int,
    room: Room,
    ended: Told,
) -> list[str]:
    """As `side_by_side`: run modules of Python, given by their arguments, on whatever machine has room.

    Raises:
        ConfigError: Ray is not installed, or there is no such cluster.
        KeyboardInterrupt: it was asked to stop.
    """
    ray = _connected(room)
    task = ray.remote(num_cpus=room.cpus, num_gpus=room.gpus, max_retries=0)(_run_there)
    waiting, running, failed = list(commands), dict[Any, str](), list[str]()
    try:
        with requests_to_stop() as asked:
            passed_on = 0
            while running or (waiting and not asked):
                while waiting and len(running) < workers and not asked:
                    name = waiting.pop(0)
                    there = task.options(name=name).remote(list(commands[name]), str(logs[name]), str(Path.cwd()))
                    running[there] = name
                if len(asked) > passed_on:
                    passed_on = len(asked)
                    for there in running:
                        ray.cancel(there)  # a KeyboardInterrupt in the task
                done, _ = ray.wait(list(running), timeout=LOOK_S)
                for there in done:
                    name = running.pop(there)
                    code = _code(ray, there)
                    ended(name, code)
                    failed += [name] if code else []
    finally:
        ray.shutdown()
    if asked:
        raise KeyboardInterrupt(STOPPED)
    return sorted(failed, key=list(commands).index)


def _connected(room: Room) -> Any:
    try:
        import ray
    except ImportError:
        raise ConfigError("engine 'ray' needs Ray: pip install -r requirements/ray.txt, or choose 'local'") from None
    variables = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    try:
        ray.init(
            address=room.address, runtime_env={"env_vars": variables}, include_dashboard=False, logging_level="warning"
        )
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise ConfigError(f"no Ray at {room.address or 'this machine'} ({one_line(error)[:200]})") from None
    return ray


def _run_there(arguments: Sequence[str], log: str, folder: str) -> int:
    """Run a process where Ray has found room; return its exit code. To be cancelled is to ask it to stop."""
    os.chdir(folder)
    process = start_process([sys.executable, *arguments], Path(log))
    while process.poll() is None:
        try:
            time.sleep(LOOK_S)
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
    return process.returncode


def _code(ray: Any, there: Any) -> int:
    """Return a task's exit code; 1 where Ray lost it, as with its machine."""
    try:
        return int(ray.get(there))
    except (ray.exceptions.RayError, DiwaError, OSError) as error:
        print(f"ray: {one_line(error)[:200]}", flush=True)
        return 1
