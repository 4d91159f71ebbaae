"""What `collect` does, for any simulator of ours: play and demonstrations as ROS 2 bags, faster than real time.

Each bag is one job, written whole or not at all and determined by the settings alone; what is finished is skipped, so
that the same command goes on after an interruption. Start seeds begin at 1,000,000: those below are for evaluation.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from diwa_runtime.config import check_bounds, read_yaml
from diwa_runtime.config.bounds import WORKERS
from diwa_runtime.errors import ConfigError
from diwa_runtime.events import EventKind
from diwa_runtime.files import remove_orphans
from diwa_runtime.reading import parse_json
from diwa_runtime.rows.streams import NANOSECONDS
from diwa_runtime.spec import Spec
from diwa_sim import EPISODE_STEPS
from diwa_sim.bags import BagWriter
from diwa_sim.demonstrations import DEMONSTRATION_NOISE, Demonstration, demonstration
from diwa_sim.play import PLAY_STEPS, PlayedTable, Player, PlaySettings, PlayStep
from diwa_sim.processes import results_of

FIRST_SEED = 1_000_000
"""Seeds of `--seed s` lie in [FIRST_SEED * (s + 1), FIRST_SEED * (s + 2)): play in the lower half, tries above."""

SETTINGS_KEY = "diwa_collect"
_START_NS = 1_750_000_000 * NANOSECONDS
_PAUSE_NS = NANOSECONDS
_MAX_TRIES = 10
NOISES = (0.0, 10.0)
"""Of levels of noise, in units of an action."""
_PLAY_STREAM = 2


class RecordedTable(PlayedTable, Protocol):
    """A table of our own process, which is freed when its bag is written."""

    def close(self) -> None:
        """Free what it holds."""


@dataclass(frozen=True)
class Collection(ABC):
    """What is recorded, of whichever table: base of a `collect` verb's settings."""

    output: Path = field(metadata={"help": "folder of the bags; what is finished there is skipped"})
    play_steps: int = field(default=40_000, metadata={"help": "steps of play in all; 0: none"})
    play_episode_steps: int = field(default=PLAY_STEPS, metadata={"help": "steps of play between two resets"})
    play_noise: tuple[float, ...] = field(
        default=PlaySettings().noise, metadata={"help": "levels of action noise; each skill segment of play draws one"}
    )
    play_without: tuple[str, ...] = field(
        default=(), metadata={"help": "values of the scene that no skill of play moves, to see what is missed then"}
    )
    episodes_per_bag: int = field(default=20, metadata={"help": "play episodes in one bag"})
    demonstrations: int = field(default=50, metadata={"help": "successful demonstrations of each task; 0: none"})
    tasks: tuple[str, ...] = field(default=(), metadata={"help": "what to demonstrate; play has every task"})
    noise: float = field(default=DEMONSTRATION_NOISE, metadata={"help": "noise on a demonstration's actions"})
    seed: int = field(default=0, metadata={"help": "another seed gives other bags, the same seed the same"})
    workers: int = field(default=2, metadata={"help": "bags written at the same time"})

    def __post_init__(self) -> None:
        for task in self.tasks:
            self.spec.task(task)
        played = {task.field for task in self.spec.tasks}
        if unknown := sorted(set(self.play_without) - played):
            raise ConfigError(
                f"collect: play_without has {unknown[0]!r}, which no task is of; there are {', '.join(sorted(played))}"
            )
        if played and not played - set(self.play_without):
            raise ConfigError("collect: play_without leaves play nothing to do; leave a value out of it")
        if not self.play_noise:
            raise ConfigError("collect: play_noise must name at least one level; 0 is none")
        if any(level < 0 for level in self.play_noise):
            raise ConfigError(f"collect: play_noise must not be negative, not {min(self.play_noise)}")
        check_bounds(self, play_steps=(0, 10**9), play_episode_steps=(1, 10**6), episodes_per_bag=(1, 10**6))
        check_bounds(self, demonstrations=(0, FIRST_SEED // 2 // (_MAX_TRIES + 1)), seed=(0, 2**32 - 1))
        check_bounds(self, noise=NOISES, play_noise=NOISES, workers=WORKERS)
        if self.play_steps > FIRST_SEED // 2 * self.play_episode_steps:
            raise ConfigError(
                f"collect: play_steps are more than {FIRST_SEED // 2:,} episodes, for which there are no seeds; give "
                "play_episode_steps more, or use several --seed"
            )

    @property
    @abstractmethod
    def spec(self) -> Spec:
        """The table's Spec."""

    @abstractmethod
    def make_table(self, task: str | None) -> RecordedTable:
        """Build the table for a task; None is play."""

    @abstractmethod
    def of_the_table(self) -> dict[str, Any]:
        """Return what else, of the table, determines what is recorded: plain data, noted in each bag."""

    @property
    def play(self) -> PlaySettings:
        """What play is made of."""
        return PlaySettings(noise=self.play_noise, without=self.play_without)

    @property
    def limit(self) -> int:
        """Most steps until a demonstration's success."""
        return EPISODE_STEPS


@dataclass(frozen=True)
class BagJob:
    """One bag to be written: its name and all that determines what is in it.

    Attributes:
        name: the bag's folder.
        index: counts the bags; each has an hour of its own.
        task: what is demonstrated; None: play.
        seeds: the play episodes' seeds, or the first and the last seed of a demonstration's tries.
        lengths: steps of each play episode; for demonstrations how many successes are wanted.
    """

    name: str
    index: int
    task: str | None
    seeds: tuple[int, ...]
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class BagSummary:
    """What a written bag holds."""

    name: str
    steps: int
    episodes: int
    discarded: int = 0


def collect(config: Collection) -> list[BagSummary]:
    """Write all bags that are not there yet; return what was written.

    Raises:
        ConfigError: a bag is there that was collected with other settings, or an expert fails too often.
        StorageError: the disk refused.
    """
    jobs = plan(config)
    todo = [job for job in jobs if not _is_done(config, job)]
    if config.output.is_dir():
        remove_orphans(config.output, {job.name for job in jobs}.__contains__)
    progress = _Progress(len(jobs), len(jobs) - len(todo), config.spec.rate_hz)
    summaries = []
    for summary in results_of(partial(write_bag, config), todo, config.workers):
        summaries.append(summary)
        progress.add(summary)
    progress.close(config.output)
    return summaries


def plan(config: Collection) -> list[BagJob]:
    """Return the bags that these settings ask for."""
    first = FIRST_SEED * (config.seed + 1)
    lengths = [config.play_episode_steps] * (config.play_steps // config.play_episode_steps)
    if config.play_steps % config.play_episode_steps:
        lengths.append(config.play_steps % config.play_episode_steps)
    jobs: list[BagJob] = []
    for at in range(0, len(lengths), config.episodes_per_bag):
        chosen = tuple(lengths[at : at + config.episodes_per_bag])
        seeds = tuple(range(first + at, first + at + len(chosen)))
        jobs.append(BagJob(f"play_{len(jobs):03d}", len(jobs), None, seeds, chosen))
    tries = (first + FIRST_SEED // 2, first + FIRST_SEED - 1)
    for task in dict.fromkeys(config.tasks if config.demonstrations else ()):
        jobs.append(BagJob(f"demonstrations_{task}", len(jobs), task, tries, (config.demonstrations,)))
    return jobs


def write_bag(config: Collection, job: BagJob) -> BagSummary:
    """Write one bag."""
    env = config.make_table(job.task)
    notes = {SETTINGS_KEY: json.dumps(_settings(config, job))}
    try:
        with BagWriter(config.output / job.name, spec=config.spec, notes=notes) as bag:
            recorder = _Recorder(bag, _START_NS + job.index * 3600 * NANOSECONDS)
            if job.task is None:
                return _record_play(recorder, env, config, job)
            return _record_demonstrations(recorder, env, config, job)
    finally:
        env.close()


def _record_play(recorder: _Recorder, env: PlayedTable, config: Collection, job: BagJob) -> BagSummary:
    for seed, steps in zip(job.seeds, job.lengths, strict=True):
        player = Player(env, np.random.default_rng([seed, _PLAY_STREAM]), config.play)
        recorder.episode(None, seed, player.episode(seed, steps))
    return BagSummary(job.name, sum(job.lengths), len(job.lengths))


def _record_demonstrations(recorder: _Recorder, env: PlayedTable, config: Collection, job: BagJob) -> BagSummary:
    assert job.task is not None
    steps, discarded, kept = 0, 0, 0
    (wanted,) = job.lengths
    for seed in range(job.seeds[0], job.seeds[1] + 1):
        shown = demonstration(env, seed, config.noise, limit=config.limit)
        if not shown.success:
            discarded += 1
            if discarded > _MAX_TRIES * wanted:
                raise ConfigError(f"{job.task}: the expert fails too often with noise {config.noise}; use less noise")
            continue
        recorder.episode(job.task, seed, _steps_of(shown, job.task))
        steps += len(shown.snapshots) - 1
        kept += 1
        if kept == wanted:
            break
    return BagSummary(job.name, steps, kept, discarded)


def _steps_of(shown: Demonstration, task: str) -> Iterator[PlayStep]:
    for index, snapshot in enumerate(shown.snapshots):
        yield PlayStep(snapshot, task, (task,) if index == shown.success_index else ())


class _Recorder:
    """Puts episodes, each with a clock that starts at zero, on the bag's one time line."""

    def __init__(self, bag: BagWriter, start_ns: int) -> None:
        self._bag = bag
        self._now_ns = start_ns

    def episode(self, task: str | None, seed: int, steps: Iterable[PlayStep]) -> None:
        """Write START, the snapshots with a SUCCESS for every task they achieve, and END."""
        origin, stamp = self._now_ns, None
        for step in steps:
            previous, stamp = stamp, origin + round(step.snapshot.stamp_s * NANOSECONDS)
            if previous is None:
                self._bag.write_event(EventKind.START, stamp, task, seed)
            self._bag.write_snapshot(step.snapshot, stamp)
            for achieved in step.achieved:
                self._bag.write_event(EventKind.SUCCESS, stamp, achieved, seed)
        assert stamp is not None, "an episode has at least its start"
        self._bag.write_event(EventKind.END, stamp, task, seed)
        self._now_ns = stamp + _PAUSE_NS


def _settings(config: Collection, job: BagJob) -> dict[str, Any]:
    """Return what determines the bag's content, as it is noted in the bag."""
    if job.task is None:
        own: dict[str, Any] = {"play_noise": config.play_noise, "play_without": sorted(config.play_without)}
    else:
        own = {"noise": config.noise}
    return json.loads(json.dumps({**dataclasses.asdict(job), **config.of_the_table(), **own}))


def _is_done(config: Collection, job: BagJob) -> bool:
    """Say whether the bag is there.

    Raises:
        ConfigError: it is, but was collected with other settings.
    """
    folder = config.output / job.name
    if not os.path.lexists(folder):
        return False
    try:
        metadata = read_yaml(folder / "metadata.yaml")
        noted = dict(parse_json(metadata["rosbag2_bagfile_information"]["custom_data"][SETTINGS_KEY]))
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(f"{folder}: is no bag of this command; choose another --output or move it away") from None
    wanted = _settings(config, job)
    found = {"play_without": [], **noted}  # bags from before there was this setting do not state it
    # Other lengths bring other seeds along: say first what was asked for.
    for name in ("lengths", *wanted):
        if found.get(name) != wanted[name]:
            said = _asked_otherwise(job).get(name) or f"{name} = {found.get(name)}, now it is {wanted[name]}"
            raise ConfigError(f"{folder}: was collected with {said}; choose another --output or delete the bag")
    return True


def _asked_otherwise(job: BagJob) -> dict[str, str]:
    """Say by which settings a bag's own come to be others; those not named are settings themselves."""
    play = "other play_steps, play_episode_steps or episodes_per_bag"
    return {
        "index": "other play_steps, play_episode_steps, episodes_per_bag or tasks",
        "lengths": "another number of demonstrations" if job.task else play,
        "seeds": "another seed",
    }


class _Progress:
    """One line on stderr that says how far it is; a line a bag where stderr is no terminal."""

    def __init__(self, bags: int, done: int, rate_hz: float) -> None:
        self._rate_hz = rate_hz
        self._bags, self._done, self._skipped = bags, done, done
        self._steps = self._discarded = 0
        self._start = time.monotonic()

    def add(self, summary: BagSummary) -> None:
        self._done += 1
        self._steps += summary.steps
        self._discarded += summary.discarded
        self._print(f"{summary.name}, {summary.episodes} episodes", end="" if sys.stderr.isatty() else "\n")

    def close(self, output: Path) -> None:
        skipped = f", {self._skipped} were there already" if self._skipped else ""
        self._print(f"in {output}{skipped}; {self._discarded} failed demonstrations discarded", end="\n")

    def _print(self, what: str, end: str) -> None:
        seconds = max(time.monotonic() - self._start, 1e-9)
        speed = self._steps / self._rate_hz / seconds
        line = f"collect: {self._done}/{self._bags} bags, {self._steps:,} steps, {speed:.0f}x real time: {what}"
        print(f"\r{line:<110}" if sys.stderr.isatty() else line, end=end, file=sys.stderr, flush=True)
