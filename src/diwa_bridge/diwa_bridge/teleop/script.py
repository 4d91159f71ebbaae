"""An operator's wishes from a file: for tests, and for recordings that repeat."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from diwa_bridge.teleop.pilot import AXES, Action, Array, Reading
from diwa_runtime.config import parse_yaml
from diwa_runtime.errors import InputError, nearest, one_line
from diwa_runtime.reading import read_text, reason_of
from diwa_runtime.rows.streams import NANOSECONDS

Row = tuple[int, Array, tuple[Action, ...]]
"""ns after the first observation, axes (6,), presses."""
COLUMNS = ("at_s", *AXES, "press")
LONGEST_S = 1e6


class Script:
    """Wishes from a file, on the robot's own clock: so a recording repeats, however fast the simulator runs.

    A YAML list, or a CSV table with the same columns: `at_s` seconds after the first observation, the axes (0 where not
    named), `press` the actions of that moment. A row holds until the next one; the operator's hands rest before the
    first. `- {at_s: 0.5, x: 0.4, press: [start]}`.
    """

    name, fresh_s = "script", math.inf
    about = "runs by itself; Ctrl-C ends it"

    def __init__(self, rows: Sequence[Row]) -> None:
        """Play `rows`, in order of time."""
        self._rows = list(rows)
        self._next, self._began_ns = 0, -1

    @classmethod
    def load(cls, path: str) -> Script:
        """Read a script.

        Raises:
            InputError: the file cannot be read or a row cannot be; names it.
        """
        try:
            text = read_text(Path(path))
            if path.endswith(".csv"):
                rows: Any = [_csv_row(row) for row in csv.DictReader(text.splitlines())]
            else:
                rows = parse_yaml(text)
        except OSError as error:
            raise InputError(f"script: {path or 'no file'} cannot be read ({reason_of(error)})") from None
        except (ValueError, RecursionError, csv.Error) as error:
            raise InputError(f"script: {path} is neither YAML nor CSV ({one_line(error)})") from None
        if not isinstance(rows, list) or not rows:
            raise InputError(f"script: {path} must be a list of rows")
        parsed = [_script_row(row, f"script: {path}, row {number}") for number, row in enumerate(rows, 1)]
        times = [0, *(at for at, _, _ in parsed)]
        if any(later <= earlier for earlier, later in pairwise(times)):
            raise InputError(f"script: {path}: at_s must be above 0 and grow from row to row")
        return cls(parsed)

    def read(self, now_ns: int, stamp_ns: int | None) -> Reading:
        """Return the row of this moment, and what was pressed since the last one."""
        if stamp_ns is None:
            return Reading(np.zeros(6), None)
        self._began_ns = stamp_ns if self._began_ns < 0 else self._began_ns
        pressed: list[Action] = []
        while self._next < len(self._rows) and self._rows[self._next][0] <= stamp_ns - self._began_ns:
            pressed += self._rows[self._next][2]
            self._next += 1
        axes = self._rows[self._next - 1][1] if self._next else np.zeros(6)
        return Reading(axes, now_ns, tuple(pressed))

    def close(self) -> None:
        """Nothing to give back."""


def _shown(value: Any) -> str:
    """Return a value for a line: not all of what is long, and no number that Python itself would not print."""
    return "too large" if isinstance(value, int) and value.bit_length() > 1000 else repr(value)[:60]


def _csv_row(row: Mapping[str, Any]) -> dict[str, Any]:
    if None in row:
        raise ValueError(f"a row has more cells than the head: {', '.join(map(str, row.values()))}")
    given = {name: text for name, text in row.items() if text}
    return {name: text.split() if name == "press" else float(text) for name, text in given.items()}


def _script_row(row: Any, where: str) -> Row:
    if not isinstance(row, dict) or "at_s" not in row:
        raise InputError(f"{where}: must be a mapping with at_s")
    unknown = next((name for name in row if name not in COLUMNS), None)
    if unknown is not None:
        raise InputError(f"{where}: unknown column {_shown(unknown)}{nearest(str(unknown)[:60], COLUMNS)}")
    for name in (name for name in row if name != "press"):
        value, most = row[name], LONGEST_S if name == "at_s" else 1.0
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not abs(value) <= most:  # nan is no less than anything
            bounds = f"up to {most:g}" if name == "at_s" else "in [-1, 1]"
            raise InputError(f"{where}: {name} is {_shown(value)}, must be a number {bounds}")
    pressed = row.get("press") or []
    pressed = pressed if isinstance(pressed, list) else [pressed]
    for action in pressed:
        if action not in list(Action):
            meant = nearest(_shown(action).strip("'"), [str(each) for each in Action])
            raise InputError(f"{where}: cannot press {_shown(action)}{meant}")
    axes = np.array([row.get(name, 0.0) for name in AXES], np.float64)
    return round(row["at_s"] * NANOSECONDS), axes, tuple(Action(action) for action in pressed)
