"""Line charts, histograms and interval charts as inline SVG: no script, no font, no image; colours follow the CSS."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from diwa_trainer.report.scales import Axis, Scale, fit_scale, number

WIDTH, HEIGHT = 360, 222
LEFT, RIGHT, TOP, BOTTOM = 46, 20, 12, 38
MOST_POINTS = 300
MOST_MARKS = 120
BARS = 30
LETTER = 7
"""Width of a letter of a chart's text, at most in the mean: fonts differ."""

Role = Literal["new", "base", "truth", "other", "faint"]
"""What a series stands for; the style sheet gives each role its colour, and the same one all over the page."""


@dataclass(frozen=True)
class Series:
    """One line: points (x, y); where y is None or not finite, the line has a gap.

    Attributes:
        dots: draw the points themselves, not only the line between them.
        dashed: draw the line dashed.
        intervals: for each point the (low, high) of a bar through it.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    role: Role = "new"
    dots: bool = False
    dashed: bool = False
    intervals: Sequence[tuple[float, float]] = ()


def line_chart(
    title: str,
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    note: str = "",
    shaded_to: float | None = None,
    marks: Sequence[float] = (),
) -> str:
    """Return a `<figure>` with a legend and the lines; series without a point are left out.

    Args:
        title: what is shown, in a few words.
        note: a sentence under the chart.
        shaded_to: shade the chart from its left edge to this x.
        marks: short strokes on the x axis; left out where they would be one grey band.
    """
    shown = [_thinned(one) for one in series if any(_is_number(value) for value in one.y)]
    xs = [value for one in shown for value in one.x]
    ys = [value for one in shown for value in one.y if value is not None]
    ys += [bound for one in shown for pair in one.intervals for bound in pair]
    x_scale, y_scale = fit_scale(_tight(x, xs), xs), fit_scale(y, ys)
    parts = [_shade(x_scale, shaded_to), _grid(x, y, x_scale, y_scale)]
    parts += [_mark(x_scale, value) for value in marks if len(marks) <= MOST_MARKS]
    parts += [_line(one, x_scale, y_scale, y.percent) for one in shown]
    description = f"{title}: {', '.join(one.name for one in shown)} over {x.label}"
    return _figure(title, _legend(shown), _svg(HEIGHT, description, parts), note, y.label)


def histogram(
    title: str, values: Sequence[float], x: Axis, counted: str, note: str = "", limit: tuple[str, float] | None = None
) -> str:
    """Return a `<figure>` that says how many values lie where, in bars of equal width on the axis.

    Args:
        counted: what the values are of, such as "decisions".
        limit: name and x of a dashed line.
    """
    found = [value for value in values if math.isfinite(value)]
    x_scale = fit_scale(x, [*found, *([limit[1]] if limit else [])])
    counts = [0] * BARS
    for value in found:
        counts[min(BARS - 1, int(x_scale.place(value) * BARS))] += 1
    y_scale = fit_scale(Axis(counted, low=0), counts)
    parts = [_grid(x, Axis(counted), x_scale, y_scale), _bars(counts, x_scale, y_scale)]
    legend, unit = [Series(counted, (), ())] if found else [], counted
    if limit and found:
        unit = ""  # the legend says it
        legend.append(Series(limit[0], (limit[1],) * 2, (y_scale.low, y_scale.high), "truth", dashed=True))
        parts.append(_line(legend[-1], x_scale, y_scale, percent=False))
    return _figure(title, _legend(legend), _svg(HEIGHT, f"{title}: {counted} over {x.label}", parts), note, unit)


def _bars(counts: Sequence[int], x_scale: Scale, y_scale: Scale) -> str:
    width, floor, parts = (WIDTH - LEFT - RIGHT) / len(counts), HEIGHT - BOTTOM, []
    for index, count in enumerate(counts):
        if count:
            low, high = (number(x_scale.value(edge / len(counts))) for edge in (index, index + 1))
            top = _y(y_scale, count)
            parts.append(
                f'<rect class="count" x="{LEFT + width * index + 0.5:.1f}" y="{top:.1f}" width="{width - 1:.1f}" '
                f'height="{floor - top:.1f}"><title>{low} to {high}: {count}</title></rect>'
            )
    return f'<g class="new">{"".join(parts)}</g>'


def density(
    title: str, counts: Sequence[Sequence[int]], low: float, high: float, x: Axis, y: Axis, note: str = ""
) -> str:
    """Return a `<figure>` of how many values lie where, the more the darker, with the line on which both axes agree.

    Args:
        counts: by x, then y, of bins of equal width between `low` and `high`, the same on both axes.
    """
    scale, most = Scale(low, high, False, fit_scale(Axis("", low, high), [low, high]).ticks), max(map(max, counts))
    parts = [
        _grid(x, y, scale, scale),
        _line(Series("", (low, high), (low, high), "faint", dashed=True), scale, scale, False),
    ]
    for i, column in enumerate(counts):
        for j, count in enumerate(column):
            if count:
                left, right = (_x(scale, low + (high - low) * edge / len(counts)) for edge in (i, i + 1))
                bottom, top = (_y(scale, low + (high - low) * edge / len(column)) for edge in (j, j + 1))
                shade = 0.15 + 0.85 * math.log1p(count) / math.log1p(most)
                parts.append(
                    f'<rect class="count" x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
                    f'height="{bottom - top:.1f}" opacity="{shade:.2f}"><title>{count}</title></rect>'
                )
    svg = _svg(HEIGHT, f"{title}: {y.label} over {x.label}", ['<g class="new">', *parts, "</g>"])
    return _figure(title, "", svg, note, y.label)


@dataclass(frozen=True)
class Estimate:
    """A share with its interval, all in [0, 1]."""

    name: str
    value: float
    low: float
    high: float
    role: Role


def interval_chart(title: str, rows: Sequence[tuple[str, Sequence[Estimate]]], note: str = "") -> str:
    """Return a `<figure>` with one line of estimates for each labelled row, on a common axis from 0 to 100 %."""
    names: dict[str, Series] = {}
    lane, gap = 14, 12
    longest = max((len(label) for label, _ in rows), default=0)
    label_width = min(max(124, LETTER * longest + 14), 190)
    parts, top = [], 6.0
    width = WIDTH - label_width - RIGHT
    for label, estimates in rows:
        height = lane * len(estimates)
        squeezed = f' textLength="{label_width - 14}" lengthAdjust="spacingAndGlyphs"'
        fitted = squeezed if LETTER * len(label) > label_width - 14 else ""
        parts.append(
            f'<text class="row" x="{label_width - 10}" y="{top + height / 2 + 4:.1f}"{fitted}>{escape(label)}</text>'
        )
        for index, estimate in enumerate(estimates):
            names.setdefault(estimate.name, Series(estimate.name, (), (), estimate.role, dots=True))
            parts.append(_estimate(estimate, label_width, width, top + lane * (index + 0.5)))
        top += height + gap
    ticks = "".join(
        f'<line class="grid" x1="{label_width + width * share:.1f}" x2="{label_width + width * share:.1f}" '
        f'y1="0" y2="{top:.1f}"/><text class="tick middle" x="{label_width + width * share:.1f}" '
        f'y="{top + 16:.1f}">{100 * share:.0f} %</text>'
        for share in (0, 0.25, 0.5, 0.75, 1)
    )
    svg = _svg(round(top + 24), f"{title}: " + ", ".join(label for label, _ in rows), [ticks, *parts])
    return _figure(title, _legend(list(names.values())), svg, note)


def _estimate(estimate: Estimate, left: float, width: float, y: float) -> str:
    low, high, value = (left + width * share for share in (estimate.low, estimate.high, estimate.value))
    text = f"{estimate.name}: {100 * estimate.value:.0f} % [{100 * estimate.low:.0f}, {100 * estimate.high:.0f}]"
    return (
        f'<g class="{estimate.role}"><title>{escape(text)}</title>'
        f'<line class="bar" x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<circle class="dot" cx="{value:.1f}" cy="{y:.1f}" r="5"/></g>'
    )


def _tight(axis: Axis, values: Sequence[float]) -> Axis:
    """Let the x axis begin and end with the data, where nothing else was asked for."""
    low = min(values, default=0.0) if axis.low is None else axis.low
    high = max(values, default=1.0) if axis.high is None else axis.high
    return Axis(axis.label, low, high, axis.log, axis.percent) if low < high else axis


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _thinned(series: Series) -> Series:
    """Replace many points by the means of neighbours: a page of a megabyte opens on a phone."""
    count = len(series.y)
    if count <= MOST_POINTS or series.intervals:
        return series
    bounds = [count * i // MOST_POINTS for i in range(MOST_POINTS + 1)]
    slices = [slice(low, high) for low, high in itertools.pairwise(bounds)]
    y = [_mean([value for value in series.y[part] if value is not None and math.isfinite(value)]) for part in slices]
    x = [sum(series.x[part]) / len(series.x[part]) for part in slices]
    return Series(series.name, x, y, series.role, series.dots, series.dashed)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _shade(x_scale: Scale, shaded_to: float | None) -> str:
    if shaded_to is None:
        return ""
    width = _x(x_scale, shaded_to) - LEFT
    return f'<rect class="shade" x="{LEFT}" y="{TOP}" width="{width:.1f}" height="{HEIGHT - TOP - BOTTOM}"/>'


def _mark(x_scale: Scale, value: float) -> str:
    at, bottom = _x(x_scale, value), HEIGHT - BOTTOM
    return f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{bottom - 7}" y2="{bottom}"/>'


def _grid(x: Axis, y: Axis, x_scale: Scale, y_scale: Scale) -> str:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = []
    for tick in y_scale.ticks:
        at = _y(y_scale, tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="tick end" x="{LEFT - 7}" y="{at + 4:.1f}">{number(tick, y.percent)}</text>')
    for tick in x_scale.ticks:
        at = _x(x_scale, tick)
        parts.append(f'<line class="notch" x1="{at:.1f}" x2="{at:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
        parts.append(f'<text class="tick middle" x="{at:.1f}" y="{bottom + 17}">{number(tick, x.percent)}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    parts.append(f'<text class="label end" x="{right}" y="{HEIGHT - 5}">{escape(x.label)}</text>')
    return "".join(parts)


def _line(series: Series, x_scale: Scale, y_scale: Scale, percent: bool) -> str:
    pieces: list[list[str]] = [[]]
    marks = []
    for index, (x, y) in enumerate(zip(series.x, series.y, strict=True)):
        if y is None or not y_scale.shows(y):
            pieces.append([])
            continue
        at_x, at_y = _x(x_scale, x), _y(y_scale, y)
        pieces[-1].append(f"{at_x:.1f},{at_y:.1f}")
        if series.intervals:
            low, high = (_y(y_scale, bound) for bound in series.intervals[index])
            marks.append(f'<line class="bar" x1="{at_x:.1f}" x2="{at_x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>')
        if series.dots:
            text = f"{series.name}: {number(y, percent)} at {number(x)}"
            title = f"<title>{escape(text)}</title>"
            marks.append(f'<circle class="dot" cx="{at_x:.1f}" cy="{at_y:.1f}" r="4">{title}</circle>')
    dashed = " dashed" if series.dashed else ""
    lines = "".join(f'<polyline points="{" ".join(piece)}"/>' for piece in pieces if len(piece) > 1)
    return f'<g class="line {series.role}{dashed}">{lines}{"".join(marks)}</g>'


def _x(scale: Scale, value: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * scale.place(value)


def _y(scale: Scale, value: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * scale.place(value)


def _legend(series: Sequence[Series]) -> str:
    if not series:
        return '<p class="missing">no values</p>'
    if len(series) == 1:
        return ""
    items = "".join(
        f'<li class="{one.role}{" dashed" if one.dashed else ""}{" dots" if one.dots else ""}">{escape(one.name)}</li>'
        for one in series
    )
    return f'<ul class="legend">{items}</ul>'


def _svg(height: int, description: str, parts: Sequence[str]) -> str:
    label = escape(description, quote=True)
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _figure(title: str, legend: str, svg: str, note: str, unit: str = "") -> str:
    shown_unit = f' <span class="unit">{escape(unit)}</span>' if unit else ""
    under = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<figure><figcaption>{escape(title)}{shown_unit}</figcaption>{legend}{svg}{under}</figure>"
