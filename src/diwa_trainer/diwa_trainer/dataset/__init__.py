"""The dataset on disk: made once by `ingest`, read by every verb after it."""

from diwa_trainer.dataset.dataset import Dataset
from diwa_trainer.dataset.description import Dropped, Episode, EpisodeOutcome, Source, field_layouts
from diwa_trainer.dataset.writer import DatasetWriter

__all__ = ["Dataset", "DatasetWriter", "Dropped", "Episode", "EpisodeOutcome", "Source", "field_layouts"]
