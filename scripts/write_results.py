"""Keep what a finished pipeline left as a record, and make docs/results.md and its plots from all records.

usage: python scripts/write_results.py record RUN_FOLDER --name NAME --simulator SIMULATOR [--condition WORDS]
                                       [--machine WORDS] [--design TASK ...]
       python scripts/write_results.py
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from results_page.page import of_compute, page
from results_page.plots import draw
from results_page.records import fault_of, read_records, write_record
from results_page.runs import ROOT, RecordConfig, record_of

from diwa_runtime.cli import run_verb
from diwa_runtime.config import load_config
from diwa_runtime.errors import ConfigError, InputError
from diwa_runtime.files import written_whole

DOCS = ROOT / "docs"


def main(words: Sequence[str]) -> None:
    """Record a run, or write the page.

    Raises:
        DiwaError: a word, a run, a record or a file in one of them cannot be used; names it.
    """
    if not words:
        write_page()
        return
    if words[0] != "record":
        raise ConfigError(f"{words[0]!r} is not known; give nothing, or `record RUN_FOLDER --name NAME ...`")
    names_run = len(words) > 1 and not words[1].startswith("-")
    record(load_config(RecordConfig, [*(["--run"] if names_run else []), *words[1:]]))


def record(config: RecordConfig) -> None:
    """Write docs/results/NAME.json.

    Raises:
        DiwaError: as `record_of`, or parts of the run do not fit one another.
    """
    data = record_of(config)
    if (fault := fault_of(data)) is not None:
        raise InputError(f"{config.run}: {fault}; finish that pipeline, or run it anew")
    path = DOCS / "results" / f"{config.name}.json"
    write_record(path, data)
    print(path)


def write_page() -> None:
    """Write docs/results.md and its plots from all records."""
    records = read_records(DOCS / "results")
    text = page(records)
    draw(records, of_compute(records), DOCS / "images")
    with written_whole(DOCS / "results.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(DOCS / "results.md")


if __name__ == "__main__":
    sys.exit(run_verb(main))
