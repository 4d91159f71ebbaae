"""`report`: a pipeline's run folders in, or the policy node's run logs, and one HTML page out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from diwa_runtime.files import check_overwritable, written_whole
from diwa_trainer.report import page, policy_page
from diwa_trainer.report.gather import gather, is_pipeline
from diwa_trainer.report.run_logs import log_paths, read_runs


@dataclass(frozen=True)
class ReportConfig:
    """Show on one page, which opens without a network, what a pipeline's runs found, or what the policy did."""

    runs: Path = field(metadata={"help": "folder that pipeline wrote, or of run logs (runs/policy)"})
    output: Path = field(metadata={"help": "the page to write, such as report.html"})


def run(config: ReportConfig) -> None:
    """Write the page whole; what a run has not made yet is named on it as missing.

    Raises:
        InputError: the folder holds neither runs nor run logs, a file in it is damaged, or another file than a report
            lies where the page is to be.
        StorageError: the disk refused.
    """
    check_output(config.output)
    made = _page(config.runs)
    with written_whole(config.output) as temporary:
        temporary.write_text(made, encoding="utf-8", errors="replace")  # names of files may hold what is no text


def check_output(path: Path) -> None:
    """Refuse to write over what is no report.

    Raises:
        InputError: another file lies there.
        StorageError: it is a link to nothing.
    """
    check_overwritable(path, "report", lambda head: page.MARK.encode() in head)


def _page(folder: Path) -> str:
    """Tell a pipeline's folder from one of run logs by what lies in it."""
    if log_paths(folder) and not is_pipeline(folder):
        return policy_page.render(read_runs(folder))
    return page.render(gather(folder))
