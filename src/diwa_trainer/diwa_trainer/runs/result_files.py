"""The files that a run ends with, as later verbs and the report read them: version, keys and kinds are checked once.

`docs/report.md` says what stands in each. A file that states no `format_version` is of version 1: at first only
`evaluation.json` stated it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diwa_runtime.errors import InputError
from diwa_runtime.kinds import (
    COUNT,
    FLAG,
    MAPPING,
    NOT_NEGATIVE,
    NUMBER,
    SHARE,
    TEXT,
    WHOLE,
    Kind,
    fault_in,
    list_of,
    shown,
    whole,
)
from diwa_runtime.reading import parse_json, read_bytes, read_json, reason_of

FORMAT_VERSION = 1
SUMMARY, EVALUATION, METRICS, VERDICT = "summary.json", "evaluation.json", "metrics.jsonl", "verdict.json"
OPEN_LOOP_FILM = "open_loop.mp4"
FILM_LIMIT_BYTES = 64 << 20


def worst_picture(number: int) -> str:
    """Return the name of the picture of a row that eyes see badly, 0 the worst."""
    return f"worst_{number}.png"


_RECORDS = list_of(MAPPING)
_ERRORS = list_of(NUMBER)
_CANDIDATE = {"iteration": COUNT, "success": SHARE, "outside": SHARE, "kl": NUMBER}
_BY_WHOM = ("model", "constant", "linear")
_SERIES = list_of(list_of(NUMBER, 1), 1, 10_000)

KEYS: Mapping[str, Mapping[str, Kind]] = {
    SUMMARY: {
        "seconds?": NOT_NEGATIVE, "env_steps?": COUNT, "imagined_steps?": COUNT, "demonstrations?": COUNT,
        "judged_success_classifier?": SHARE.or_null(), "judged_success_decoded?": SHARE.or_null(),
        "judged_success_both?": SHARE.or_null(),
    },
    EVALUATION: {
        "successes": COUNT, "episodes": whole(1, 10**6), "interval95": list_of(SHARE, 2, 2),
        "mean_length": NOT_NEGATIVE, "environment": MAPPING, "seeds": list_of(WHOLE, 1),
        "bundle.sha256": TEXT, "bundle.provenance": MAPPING, "bundle": MAPPING.or_null(),
        "episodes_detail.*.seed": WHOLE, "episodes_detail.*.success": FLAG, "episodes_detail.*.length": COUNT,
        "episodes_detail": _RECORDS, "videos?.*": TEXT, "videos?": MAPPING.or_null(),
        "classifier?": MAPPING.or_null(), "classifier?.fired_on_success": COUNT, "classifier?.successes": COUNT,
        "classifier?.fired_on_failure": COUNT, "classifier?.failures": COUNT,
    },
    "data.json": {
        "rows": COUNT, "hours": NOT_NEGATIVE, "episodes.*.kind": TEXT, "episodes.*.task": TEXT.or_null(),
        "episodes.*.outcome": TEXT.or_null(), "episodes.*.episodes": COUNT, "episodes.*.rows": COUNT,
        "episodes": _RECORDS,
        "dropped.*.bag": TEXT, "dropped.*.reason": TEXT, "dropped.*.count": COUNT, "dropped": _RECORDS,
        "features.*.name": TEXT, "features.*.mean": NUMBER, "features.*.std": NUMBER,
        "features.*.largest_standardised": NUMBER, "features": _RECORDS,
    },
    "eyes.json": {
        "features.*.name": TEXT, "features.*.two_valued": FLAG, "features": _RECORDS,
        **{f"features.*.{of}": NUMBER for of in ("held_out", "learned", "folds")},
        "error.held_out": NUMBER, "error.learned": NUMBER, "error": MAPPING,
        "redrawn?.*.held_out": NUMBER, "redrawn?.*.learned": NUMBER, "redrawn?.*": MAPPING, "redrawn?": MAPPING,
        "estimates?.*.low": NUMBER, "estimates?.*.high": NUMBER, "estimates?.*.counts": list_of(list_of(COUNT, 1), 1),
        "estimates?.*": MAPPING, "estimates?": MAPPING, "lights?.*": MAPPING, "lights?": MAPPING,
        **{f"lights?.*.{name}": COUNT for name in ("off", "off_seen_on", "on", "on_seen_off")},
        "marks?.*.rows": whole(1, 10**12), "marks?.*.right": COUNT, "marks?.*": MAPPING, "marks?": MAPPING,
        "worst?.*.values.*.truth": NUMBER, "worst?.*.values.*.seen": NUMBER, "worst?.*.values.*": MAPPING,
        "worst?.*.values": MAPPING, "worst?.*.recording": TEXT, "worst?.*.step": COUNT, "worst?": _RECORDS,
    },
    "open_loop.json": {
        "context": COUNT, "horizons": list_of(whole(1, 10**6), 1, 1000), "windows": COUNT,
        **{f"features.*.{which}.{who}": _ERRORS.or_null() for which in ("all", "moved") for who in _BY_WHOM},
        "features.*.all": MAPPING, "features.*.moved": MAPPING, "features.*.moved_windows": COUNT,
        **{f"features.*.curve.{who}": list_of(NUMBER, 1) for who in _BY_WHOM},
        "features.*.curve": MAPPING, "features.*.usable?": COUNT.or_null(),
        **{f"features.*.moved_curve?.{who}": list_of(NUMBER, 1) for who in (*_BY_WHOM, "mean")},
        "features.*.moved_curve?": MAPPING.or_null(), "usable?": MAPPING.or_null(), "usable?.steps": COUNT,
        "usable?.seconds": NOT_NEGATIVE, "usable?.limited_by": TEXT.or_null(),
        "features.*.posterior_first": NUMBER, "features.*.posterior_last": NUMBER,
        "features.*": MAPPING, "features": MAPPING, "examples.*.*.truth": _SERIES, "examples.*.*.predicted": _SERIES,
        "examples.*": list_of(MAPPING, 1), "examples": MAPPING, "flips?": MAPPING.or_null(), "flips?.*": MAPPING,
        **{f"flips?.*.{name}": COUNT for name in ("flipped", "foreseen", "unflipped", "false")},
        "contacts?": MAPPING.or_null(), **{f"contacts?.{name}": COUNT for name in ("held", "free")},
        **{f"contacts?.{name}": SHARE.or_null() for name in ("through", "stuck")},
    },
    "reward.json": {
        "threshold": SHARE, "held_out.*.succeeded": COUNT, "held_out.*.failed": COUNT,
        "held_out.*.by_threshold.*.threshold": SHARE,
        **{
            f"held_out.*.by_threshold.*.{name}": SHARE.or_null()
            for name in ("precision", "recall", "fires_in_succeeded", "fires_in_failed")
        },
        "held_out.*.by_threshold": list_of(MAPPING), "held_out.*": MAPPING, "held_out": MAPPING,
    },
    VERDICT: {
        "decision": TEXT, "why": TEXT,
        **{f"chosen.{name}": kind for name, kind in _CANDIDATE.items()}, "chosen": MAPPING,
        **{f"candidates.*.{name}": kind for name, kind in _CANDIDATE.items()}, "candidates": list_of(MAPPING, 1),
    },
    "preflight.json": {
        "base.*": SHARE.or_null(), "base": MAPPING, "by_threshold.*.threshold": SHARE,
        "by_threshold.*.success": SHARE.or_null(), "by_threshold": list_of(MAPPING), "warnings": list_of(TEXT),
    },
}  # fmt: skip
"""What each file must have, as `diwa_runtime.kinds` writes it."""


def read_result(path: Path, *needed: str) -> dict[str, Any]:
    """Read one of a run's JSON files, which must have what stands in `KEYS` and what else is `needed`.

    Raises:
        InputError: it cannot be read, is of another version, lacks something, or something is not what it must be;
            names the file.
    """
    anew = f"delete {path.parent} and make it anew"
    try:
        data = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({reason_of(error)}); {anew}") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: must hold a JSON object; {anew}")
    version = data.get("format_version", FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise InputError(f"{path}: format {shown(version)}, this DiWA reads {FORMAT_VERSION}; {anew}")
    table = KEYS.get(path.name, {})
    required = {name: table.get(f"{name}?", NUMBER) for name in needed}
    if (fault := fault_in(data, {**table, **required})) is not None:
        lacks = ", as of another version or cut short" if fault.startswith("lacks") else ""
        raise InputError(f"{path}: {fault}{lacks}; {anew}")
    check = _AT_ODDS.get(path.name)
    if check is not None and (fault := check(data)) is not None:
        raise InputError(f"{path}: {fault}; {anew}")
    return data


def read_metrics(path: Path) -> list[dict[str, float | None]]:
    """Return the lines of a run's metrics; none where it has none, and without a last one that a kill cut off.

    Raises:
        InputError: the file cannot be read, or another line is no JSON object of numbers with a step; names both.
    """
    if not os.path.lexists(path):
        return []
    try:
        *lines, rest = read_bytes(path).split(b"\n")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({reason_of(error)}); delete it, or the run") from None
    rows = [_metrics_of(line) for line in lines]
    for number, row in enumerate(rows, 1):
        if row is None:
            raise InputError(f"{path}: line {number} is no JSON object of numbers with a step; delete that line")
    return [row for row in (*rows, _metrics_of(rest)) if row is not None]


def _metrics_of(line: bytes) -> dict[str, float | None] | None:
    try:
        row = parse_json(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and fault_in(row, {"*": NUMBER.or_null(), "step": COUNT}) is None else None


def _evaluation_at_odds(data: Mapping[str, Any]) -> str | None:
    seeds, details = data["seeds"], data["episodes_detail"]
    if [one["seed"] for one in details] != seeds or len(set(seeds)) != len(seeds) or len(seeds) != data["episodes"]:
        return "'episodes', 'seeds' and 'episodes_detail' do not tell of the same episodes"
    if data["successes"] != sum(one["success"] for one in details):
        return "'successes' are not as many as 'episodes_detail' has"
    if odd := set(data.get("videos") or {}) - set(map(str, seeds)):
        return f"'videos' has a film of {shown(min(odd))}, which is none of the seeds"
    return None


def _open_loop_at_odds(data: Mapping[str, Any]) -> str | None:
    count = len(data["horizons"])
    for name, feature in data["features"].items():
        tables = [feature[which][who] for which in ("all", "moved") for who in _BY_WHOM]
        if any(errors is not None and len(errors) != count for errors in tables):
            return f"{name!r} has not as many errors as there are horizons"
    for name, examples in data["examples"].items():
        for one in examples:
            sizes = {len(row) for row in (*one["truth"], *one["predicted"])}
            if len(one["truth"]) != len(one["predicted"]) or len(sizes) != 1 or not sizes <= {1, 2, 3}:
                return f"an example of {name!r} has a truth and a prediction of different sizes"
    return None


_AT_ODDS: Mapping[str, Callable[[Mapping[str, Any]], str | None]] = {
    EVALUATION: _evaluation_at_odds, "open_loop.json": _open_loop_at_odds,
}  # fmt: skip
"""What a file says that cannot be true, part against part."""
