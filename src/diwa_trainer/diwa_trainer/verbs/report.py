"""`report`: a pipeline's run folders in, one HTML page out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from diwa_runtime.files import written_whole
from diwa_trainer.report.gather import gather
from diwa_trainer.report.page import render


@dataclass(frozen=True)
class ReportConfig:
    """Show on one page, which opens without a network, what a pipeline's runs found."""

    runs: Path = field(metadata={"help": "folder that pipeline wrote"})
    output: Path = field(metadata={"help": "the page to write, such as report.html"})


def run(config: ReportConfig) -> None:
    """Write the page whole; what a run has not made yet is named on it as missing.

    Raises:
        InputError: the folder holds no run, or a file in it is damaged.
        StorageError: the disk refused.
    """
    page = render(gather(config.runs))
    with written_whole(config.output) as temporary:
        temporary.write_text(page, encoding="utf-8")
