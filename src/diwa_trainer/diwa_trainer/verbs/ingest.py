"""`ingest`: bags in, a dataset out."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from diwa_runtime.config.bounds import PIXELS, WORKERS, check_bounds
from diwa_runtime.errors import ConfigError
from diwa_runtime.files import remove_orphans_of
from diwa_runtime.spec import RATES_HZ, CameraSpec, Mode, Spec
from diwa_trainer.dataset.description import DATASET
from diwa_trainer.ingest.hand import Hand
from diwa_trainer.ingest.ingestion import ingest, summary
from diwa_trainer.ingest.left_out import odd_actions


@dataclass(frozen=True)
class IngestConfig:
    """Turn bags into a dataset of rows at control rate."""

    bags: tuple[Path, ...] = field(metadata={"help": ".mcap files, bags, or folders of bags"})
    output: Path = field(metadata={"help": "folder of the dataset; an older dataset there is replaced"})
    spec: Path | None = field(default=None, metadata={"help": "JSON of another robot's Spec; none: the play table's"})
    mode: Mode | None = field(default=None, metadata={"help": "state, vision or hybrid; none: the Spec's"})
    rate_hz: float | None = field(default=None, metadata={"help": "control rate; none: the Spec's"})
    image_size: int | None = field(default=None, metadata={"help": "height and width of images; none: the Spec's"})
    cameras: tuple[str, ...] | None = field(default=None, metadata={"help": "by name; none: the Spec's"})
    skip_damaged: bool = field(default=False, metadata={"help": "leave out what cannot be used, and say so"})
    workers: int = field(default=2, metadata={"help": "threads that decode images"})

    def __post_init__(self) -> None:
        if not self.bags:
            raise ConfigError("ingest: --bags names no bag")
        check_bounds(self, workers=WORKERS, image_size=PIXELS, rate_hz=RATES_HZ)


def run(config: IngestConfig) -> None:
    """Ingest, and print what the dataset holds and what was left out."""

    def report(line: str) -> None:
        print(f"ingest: {line}", file=sys.stderr, flush=True)

    remove_orphans_of(config.output, DATASET)
    dataset = ingest(
        config.bags,
        config.output,
        make_spec(config),
        skip_damaged=config.skip_damaged,
        workers=config.workers,
        report=report,
    )
    hand = Hand.of(dataset)
    for warning in tuple(hand.warnings()) or odd_actions(dataset):  # actions of other units are odd in any case
        report(f"warning: {warning}")
    print(summary(dataset))
    print(hand.summary())
    print(f"{config.output}: {len(dataset):,} rows, {len(dataset) / dataset.spec.rate_hz / 60:.1f} minutes")


def make_spec(config: IngestConfig) -> Spec:
    """Return the Spec that the settings ask for.

    Raises:
        InputError: its file cannot be read, or the settings do not make a Spec.
    """
    spec = Spec.load(config.spec) if config.spec is not None else Spec()
    cameras = spec.cameras
    if config.cameras is not None:
        known = {camera.name: camera for camera in cameras}
        cameras = tuple(known.get(name, CameraSpec(name)) for name in config.cameras)
    if config.image_size is not None:
        cameras = tuple(replace(camera, height=config.image_size, width=config.image_size) for camera in cameras)
    rate_hz = spec.rate_hz if config.rate_hz is None else config.rate_hz
    return replace(spec, cameras=cameras, mode=config.mode or spec.mode, rate_hz=rate_hz)
