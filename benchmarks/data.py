"""Bags into datasets, and datasets into training windows."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from measuring import Benchmark, Effort, alternate, median_seconds, repeated
from numpy.typing import NDArray
from plain_windows import HeldRows, StepFiles
from torch import Tensor

from diwa_runtime import robot_messages as messages
from diwa_runtime.spec import CameraSpec, Spec
from diwa_sim.bags import BagWriter
from diwa_sim.environment import RATE_HZ, PlayTable
from diwa_trainer.dataset import Dataset, DatasetWriter, field_layouts
from diwa_trainer.ingest.ingestion import ingest
from diwa_trainer.world.observations import action_at, observation_at, pictures_at

BATCH, LENGTH = 16, 50
EPISODE_ROWS, FILED_EPISODES = 320, 8
BAG_SECONDS, VIEWS, WIDTH, HEIGHT = 10, 12, 640, 480
NO_IMAGE = np.zeros((1, 1, 3), np.uint8)


@dataclass(frozen=True)
class Windows:
    """Training windows of one kind of dataset.

    Attributes:
        spec: says what is observed.
        episodes: of `EPISODE_ROWS` rows in the dataset.
        calls: of ours that are timed as one.
    """

    spec: Spec
    episodes: int
    calls: int

    @property
    def fields(self) -> tuple[str, ...]:
        """What training takes from the dataset."""
        return (*self.spec.observation_fields, "action")


STATE = Windows(Spec(), 125, 200)
IMAGES = Windows(Spec(mode="vision", cameras=(CameraSpec("static"), CameraSpec("wrist"))), 20, 20)


def training_windows(dataset: Dataset, rng: np.random.Generator) -> dict[str, Tensor]:
    """Draw windows and read them as `train_world_model` does."""
    rows = dataset.windows(rng, BATCH, LENGTH, fields=())["row"]
    observed = pictures_at(dataset, rows) if dataset.spec.uses_cameras else observation_at(dataset, rows)
    return {**observed, "action": action_at(dataset, rows)}


def window_sampling(windows: Windows, *, held: bool) -> Callable[[Effort], tuple[float, float]]:
    """Steps a second of training windows, against files of a step or rows held in memory.

    Ours and those in memory come from all episodes, those in files from the first few of them. Files and the memory map
    lie in the page cache. Rows are noise, pictures too: of these files no other are read faster.
    """

    def measure(effort: Effort) -> tuple[float, float]:
        rng = np.random.default_rng(0)
        with tempfile.TemporaryDirectory() as folder:
            dataset = random_dataset(
                Path(folder) / "dataset", windows.spec, 1 if effort.quick else windows.episodes, rng
            )
            plain = held_rows(dataset, windows) if held else step_files(Path(folder), dataset, windows, effort)
            calls = 1 if effort.quick else windows.calls
            plain_calls = calls if held else 1
            ours, theirs = alternate(
                repeated(lambda: training_windows(dataset, rng), calls),
                repeated(lambda: plain.windows(rng, BATCH, LENGTH, windows.fields), plain_calls),
                effort,
            )
        return BATCH * LENGTH * calls / ours, BATCH * LENGTH * plain_calls / theirs

    return measure


def random_dataset(folder: Path, spec: Spec, episodes: int, rng: np.random.Generator) -> Dataset:
    """Write a dataset of noise and open it."""
    with DatasetWriter(folder, spec) as writer:
        for _ in range(episodes):
            writer.add_episode(
                {name: _noise(rng, kind, (EPISODE_ROWS, *shape)) for name, (kind, shape) in field_layouts(spec).items()}
            )
    return Dataset.open(folder)


def _noise(rng: np.random.Generator, kind: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    if kind.kind == "u":
        return rng.integers(0, 256, shape, dtype=kind)
    return rng.standard_normal(shape).astype(kind)


def held_rows(dataset: Dataset, windows: Windows) -> HeldRows:
    """Hold a dataset's rows in memory."""
    rows = {name: np.array(dataset.arrays[name]) for name in windows.fields}
    return HeldRows(rows, [e.start for e in dataset.episodes], [len(e) for e in dataset.episodes])


def step_files(folder: Path, dataset: Dataset, windows: Windows, effort: Effort) -> StepFiles:
    """Write the rows of a dataset's first episodes, one file each."""
    filed = dataset.episodes[: 1 if effort.quick else FILED_EPISODES]
    files = StepFiles(folder, [e.start for e in filed], [len(e) for e in filed])
    files.write({name: dataset.arrays[name][: filed[-1].end] for name in windows.fields})
    return files


def ingest_speed(effort: Effort) -> tuple[float, float]:
    """Seconds of recording ingested in a second on the wall, against real time."""
    seconds, spec = 1 if effort.quick else BAG_SECONDS, IMAGES.spec
    with tempfile.TemporaryDirectory() as folder:
        bag, dataset = Path(folder) / "bag", Path(folder) / "dataset"
        write_camera_bag(bag, seconds)

        def once() -> None:
            shutil.rmtree(dataset, ignore_errors=True)  # what has not changed would not be ingested again
            rows = len(ingest([bag], dataset, spec, report=_silent))
            assert rows == round(seconds * RATE_HZ), rows

        taken = median_seconds(once, effort, time.perf_counter)
    return seconds / taken, 1.0


def _silent(line: str) -> None:
    """Report nothing."""


def write_camera_bag(folder: Path, seconds: int) -> None:
    """Record the play table while its expert acts: state at 30 Hz, and two cameras that show a few views in turn."""
    env = PlayTable(task="open_drawer")
    try:
        env.reset(seed=0)
        expert, names = env.expert(), [camera.name for camera in env.contract.cameras]
        views: list[dict[str, bytes]] = []
        with BagWriter(folder) as bag:
            for step in range(round(seconds * RATE_HZ)):
                if len(views) < VIEWS:
                    views.append({name: _jpeg(env.camera_image(name, HEIGHT, WIDTH)) for name in names})
                snapshot = env.snapshot()
                stamp_ns = 1_000_000_000 + round(snapshot.stamp_s * 1e9)
                bag.write_snapshot(snapshot, stamp_ns)
                for name, jpeg in views[step % len(views)].items():
                    header = messages.compressed_image(NO_IMAGE, stamp_ns, name)
                    bag.write(messages.image_topic(name), {**header, "data": np.frombuffer(jpeg, np.uint8)}, stamp_ns)
                env.step(expert.act({"proprio": snapshot.proprio(), "scene": snapshot.scene}))
    finally:
        env.close()


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    """Encode as camera drivers do: halved colour, quality 80."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 80])
    assert done
    return data.tobytes()


_STATE = f"training windows {BATCH} x {LENGTH} of proprio, scene and action, as `train_world_model` reads them"
_IMAGES = (
    f"training windows {BATCH} x {LENGTH} of two cameras of 64 px, proprio and action, read by the same functions from "
    "the memory-mapped dataset"
)
_FILES = "one compressed .npz file a step, as CALVIN stores them"
_HELD = "a plain loop over windows of arrays held in memory"

BENCHMARKS = (
    Benchmark("window_sampling", "steps/s", 100, _STATE, _FILES, window_sampling(STATE, held=False)),
    Benchmark("window_sampling_memory", "steps/s", None, _STATE, _HELD, window_sampling(STATE, held=True)),
    Benchmark("window_sampling_images", "steps/s", 100, _IMAGES, _FILES, window_sampling(IMAGES, held=False)),
    Benchmark("window_sampling_images_memory", "steps/s", None, _IMAGES, _HELD, window_sampling(IMAGES, held=True)),
    Benchmark(
        "ingest",
        "s of recording/s",
        20,
        f"a bag of {BAG_SECONDS} s with two {WIDTH} x {HEIGHT} JPEG cameras and state at 30 Hz to a dataset of 64 px; "
        "two decoding threads, time on the wall",
        "real time",
        ingest_speed,
    ),
)
