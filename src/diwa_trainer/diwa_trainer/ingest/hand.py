"""What recordings say of how the hand follows its actions: whether these stand in their rows and in their units.

Nothing else shows it where an action is a row off, or 50 times too large: rows are made all the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from diwa_runtime.spec import Spec
from diwa_runtime.stream_spec import UNITS, StreamSpec
from diwa_trainer.dataset import Dataset
from diwa_trainer.dataset.following import LAGS, LEAST_ROWS, Following, contact_rows, learn_following, motions
from diwa_trainer.ingest.left_out import HELD, SLOW

POSITIONS = 0.05
"""Where what the hand does after an action adds up to so little, it is the actions' differences that it follows."""
MANY_HELD = 1 - SLOW
"""From this share of rows on that only repeat the one before, it cannot be told in which row a motion begins."""
FACTOR = 3.0
"""A hand that moves so many times as far as it is asked to, or one part in so many, is of other units."""


@dataclass(frozen=True)
class Hand:
    """How the hand of a dataset follows its actions.

    Attributes:
        following: None where it never moves, or nothing is ever asked of it.
        contacts: in how many rows it does not follow, where its actions explain its motion.
        rows: of the dataset.
        held: how many of them repeat the one before, for the robot said nothing new.
    """

    spec: Spec
    following: Following | None
    contacts: int
    rows: int
    held: int = 0

    @classmethod
    def of(cls, dataset: Dataset) -> Hand:
        """Look at all rows of a dataset."""
        following, contacts = learn_following([motion for _, motion in motions(dataset)]), 0
        if following is not None and following.is_clear:
            contacts = sum(int(contact_rows(motion, following).sum()) for _, motion in motions(dataset))
        held = sum(item.count for item in dataset.dropped if HELD in item.reason)
        return cls(dataset.spec, following, contacts, len(dataset), held)

    def summary(self) -> str:
        """Return a line or two: gain and lag that were found, and the rows in which the hand does not follow."""
        found = self.following
        if found is None:
            return "hand: never moves, or is never asked to; nothing can be told of how it follows its actions"
        explained = f"{100 * max(found.explained, 0):.0f} % of its motion explained by its actions"
        if found.rows < LEAST_ROWS:
            return f"hand: {found.rows} rows of motion, too few to tell how it follows its actions"
        if not found.is_clear:
            return f"hand: {explained}, too little to tell how it follows them"
        begins = f"{_rows(found.lag)} its action" if found.lag else "in the row of the action"
        share = 100 * self.contacts / self.rows
        return (
            f"hand: moves {_number(found.gain)} times as far as its actions ask, beginning {begins}; {explained}\n"
            f"contact: {self.contacts:,} rows ({share:.1f} %) in which it does not follow its action"
        )

    def warnings(self) -> Iterator[str]:
        """Yield what is clearly wrong with the actions' rows or units, and what to set."""
        found = self.following
        if found is None or not found.is_clear:
            return
        stream = next(one for one in self.spec.streams if one.field == "action")
        if found.lag and self.held < MANY_HELD * self.rows:
            yield f"{stream.topic}: {_off(found, stream)}"
        if abs(found.gain) < POSITIONS * np.abs(found.response).max():
            yield (
                f"{stream.topic}: the hand moves with how its actions change, as if they were positions; record "
                "motions: what each action adds to where the hand is"
            )
        elif found.gain < 0:
            yield f"{stream.topic}: the hand moves against its actions; see that both are told in one frame"
        elif not 1 / FACTOR < found.gain < FACTOR:
            yield f"{stream.topic}: {_other_units(found.gain, stream, self.spec)}"


def _off(found: Following, stream: StreamSpec) -> str:
    """Say by how many rows the actions are off, and what puts them right."""
    shares = dict(zip(LAGS, 100 * found.response / found.response.sum(), strict=True))
    said = (
        f"the hand begins to move {_rows(found.lag)} its action ({shares[found.lag]:.0f} % of the motion there, "
        f"{shares[0]:.0f} % in the row of the action)"
    )
    if found.lag > 0 and stream.applies == "before":
        return (
            f'{said}; if a message holds the action that follows its stamp, give the stream "applies": "after" in the '
            "Spec; if the arm takes that long to begin, leave it"
        )
    if found.lag > 0:
        return f"{said}; its stamps are too early, or the arm takes that long to begin"
    if stream.applies == "after":
        return f'{said}, which cannot be; give the stream "applies": "before" in the Spec'
    return f"{said}, which cannot be; its stamps are too late: stamp an action when it begins"


def _other_units(gain: float, stream: StreamSpec, spec: Spec) -> str:
    """Say that actions and motion are of other units, and which scale fits."""
    units = {name: size for name, size in UNITS.items() if name != "deg"}
    units["normalised"] = spec.action_scale.translation_m
    now = units.get(stream.scale, stream.factor) if isinstance(stream.scale, str) else stream.scale
    one = gain * now
    """Metres that the hand moves where an action's value is 1."""
    fitting = min(units, key=lambda name: abs(math.log(one / units[name])))
    fits = 1 / FACTOR < one / units[fitting] < FACTOR
    rounded = float(f"{one:.2g}")
    scale, left = (f'"{fitting}"', one / units[fitting]) if fits else (repr(rounded), one / rounded)
    positions = "; or it is the positions in `proprio` that are not metres" if gain > 1 else ""
    return (
        f'the hand moves {_number(gain)} times as far as its actions ask; with "scale": {scale} for the stream in the '
        f"Spec it would be {_number(left)} times{positions}"
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2g}"


def _rows(lag: int) -> str:
    """Return ``a row after``, ``2 rows before``, ``6 rows or more after``."""
    count = "a row" if abs(lag) == 1 else f"{abs(lag)} rows{' or more' if lag == LAGS[-1] else ''}"
    return f"{count} {'after' if lag > 0 else 'before'}"
