"""The JSON files that a run ends with, as later verbs and the report read them: version and keys are checked once.

`docs/report.md` says what stands in each. A file that states no `format_version` is of version 1: at first only
`evaluation.json` stated it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diwa_runtime.errors import InputError, one_line

FORMAT_VERSION = 1
SUMMARY, EVALUATION = "summary.json", "evaluation.json"

KEYS = {
    EVALUATION: (
        "successes", "episodes", "interval95", "mean_length", "environment", "seeds", "bundle.sha256",
        "bundle.provenance", "episodes_detail.*.seed", "episodes_detail.*.success", "episodes_detail.*.length",
    ),
    "data.json": (
        "rows", "hours", "episodes.*.kind", "episodes.*.task", "episodes.*.outcome", "episodes.*.episodes",
        "episodes.*.rows", "dropped.*.bag", "dropped.*.reason", "dropped.*.count", "features.*.name",
        "features.*.mean", "features.*.std", "features.*.largest_standardised",
    ),
    "open_loop.json": (
        "context", "horizons", "windows", "features.*.all", "features.*.moved", "features.*.moved_windows",
        "features.*.curve", "features.*.posterior_first", "features.*.posterior_last", "examples",
    ),
    "reward.json": (
        "threshold", "held_out.*.succeeded", "held_out.*.failed", "held_out.*.by_threshold.*.threshold",
        "held_out.*.by_threshold.*.precision", "held_out.*.by_threshold.*.recall",
        "held_out.*.by_threshold.*.fires_in_succeeded", "held_out.*.by_threshold.*.fires_in_failed",
    ),
    "preflight.json": ("base", "by_threshold.*.threshold", "by_threshold.*.success", "warnings"),
}  # fmt: skip
"""What each file must have: keys by dots, `*` for every item of a list or a mapping. What is null has no keys."""


def read_result(path: Path, *needed: str) -> dict[str, Any]:
    """Read one of a run's JSON files, which must have what stands in `KEYS` and what else is `needed`.

    Raises:
        InputError: it cannot be read, is of another version, or lacks something; names the file.
    """
    anew = f"delete {path.parent} and make it anew"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)}); {anew}") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: must hold a JSON object; {anew}")
    version = data.get("format_version", FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise InputError(f"{path}: format {version!r}, this DiWA reads {FORMAT_VERSION}; {anew}")
    for key in (*KEYS.get(path.name, ()), *needed):
        if not _has(data, key.split(".")):
            raise InputError(f"{path}: lacks {key!r}, as of another version or cut short; {anew}")
    return data


def _has(data: Any, keys: list[str]) -> bool:
    if not keys or data is None:
        return True
    first, *rest = keys
    if first == "*":
        items = data.values() if isinstance(data, dict) else data
        return isinstance(data, dict | list) and all(_has(item, rest) for item in items)
    return isinstance(data, dict) and first in data and _has(data[first], rest)
