"""Axes hold their data, ticks are round, and lines go where the numbers say."""

import math
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from diwa_trainer.report.charts import MOST_POINTS, Estimate, Series, density, interval_chart, line_chart
from diwa_trainer.report.scales import Axis, fit_scale, number

VALUES = st.lists(
    st.one_of(
        st.floats(-1e9, 1e9, allow_subnormal=False).filter(lambda v: v == 0 or abs(v) > 1e-9),
        st.sampled_from([math.nan, math.inf]),
    ),
    min_size=1,
    max_size=20,
)


@given(VALUES, st.booleans())
@example([1.0, 2.00001], True)
def test_axis_holds_all_finite_values_between_few_ticks(values, log):
    scale = fit_scale(Axis("", log=log), values)
    assert scale.low < scale.high
    for value in values:
        if math.isfinite(value):
            assert scale.shows(value)
            assert 0 <= scale.place(value) <= 1
    assert 1 <= len(scale.ticks) <= 12
    assert all(0 <= scale.place(tick) <= 1 for tick in scale.ticks)
    assert list(scale.ticks) == sorted(set(scale.ticks))


@pytest.mark.parametrize(
    ("values", "axis", "ticks"),
    [
        ([0, 1], Axis("", low=0, high=1), (0, 0.25, 0.5, 0.75, 1)),
        ([0.3, 9.1], Axis(""), (0, 2.5, 5, 7.5, 10)),
        ([50, 4000], Axis("", low=50, high=4000), (1000, 2000, 3000, 4000)),
        ([0.06, 0.9], Axis("", log=True), (0.05, 0.1, 0.2, 0.5, 1)),
        ([1e-6, 1e-1], Axis("", log=True), (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)),
        ([5, 5], Axis(""), (2, 4, 6, 8)),
    ],
)
def test_ticks_are_round(values, axis, ticks):
    assert fit_scale(axis, values).ticks == pytest.approx(ticks)


@pytest.mark.parametrize(
    ("value", "written"),
    [(0, "0"), (0.5, "0.5"), (1000, "1000"), (48_000, "48k"), (1.5e6, "1.5M"), (0.0005, "5e-4"), (-2.5e-7, "-2.5e-7")],
)
def test_numbers_are_short(value, written):
    assert number(value) == written


def test_share_is_written_in_percent():
    assert number(0.425, percent=True) == "42.5 %"


def points(svg: str) -> list[list[tuple[float, float]]]:
    lines = re.findall(r'<polyline points="([^"]+)"', svg)
    return [[tuple(map(float, pair.split(","))) for pair in line.split()] for line in lines]


def test_line_goes_from_corner_to_corner():
    chart = line_chart("t", [Series("a", [0, 1, 2], [0, 1, 2])], Axis("x"), Axis("y", low=0, high=2))
    (first, middle, last) = points(chart)[0]
    assert first[0] < middle[0] < last[0]
    assert first[1] > middle[1] > last[1], "SVG counts y downwards"
    assert middle == pytest.approx(((first[0] + last[0]) / 2, (first[1] + last[1]) / 2), abs=0.06)


def test_line_has_a_gap_where_a_value_is_missing_or_outside():
    y = [1, 2, None, 4, math.nan, 1, 2, 9, 1, 2]
    chart = line_chart("t", [Series("a", range(10), y)], Axis("x"), Axis("y", low=0, high=5))
    assert [len(line) for line in points(chart)] == [2, 2, 2]


def test_long_series_is_thinned_to_its_local_means():
    x = list(range(10_000))
    (line,) = points(line_chart("t", [Series("a", x, x)], Axis("x"), Axis("y")))
    assert len(line) == MOST_POINTS
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in zip(line[::30], line[30::30], strict=False)]
    assert max(slopes) - min(slopes) < 0.05, "a straight line stays straight"


def test_nothing_to_draw_is_said():
    assert "no values" in line_chart("t", [Series("a", [], [])], Axis("x"), Axis("y"))
    assert "no values" in line_chart("t", [Series("a", [1], [None])], Axis("x"), Axis("y"))


def test_interval_reaches_from_low_to_high():
    chart = interval_chart("t", [("task", [Estimate("base", 0.5, 0.25, 1.0, "base")])])
    quarters = [float(x) for x in re.findall(r'class="grid" x1="([\d.]+)"', chart)]
    low, high = re.search(r'class="bar" x1="([\d.]+)" x2="([\d.]+)"', chart).groups()
    assert (float(low), float(high)) == pytest.approx((quarters[1], quarters[4]))
    assert float(re.search(r'cx="([\d.]+)"', chart)[1]) == pytest.approx(quarters[2])
    assert "base: 50 % [25, 100]" in chart


def test_a_density_has_its_cells_where_both_axes_say_and_the_fullest_darkest():
    drawn = density("drawer", [[60, 0], [2, 40]], 0.0, 1.0, Axis("recorded"), Axis("estimate"))

    cells = re.findall(
        r'x="([\d.]+)" y="([\d.]+)" width="[\d.]+" height="[\d.]+" opacity="([\d.]+)"><title>(\d+)', drawn
    )
    (x1, y1, shade1, _), (x2, y2, shade2, _), (x3, y3, shade3, _) = cells
    assert [cell[3] for cell in cells] == ["60", "2", "40"]
    assert float(x1) < float(x2) == float(x3), "recorded rightwards"
    assert float(y1) == float(y2) > float(y3), "estimates upwards"
    assert float(shade1) == 1.0 > float(shade3) > float(shade2)


@pytest.mark.parametrize(
    ("label", "squeezed"),
    [("led", False), ("close bottom drawer", False), ("put " * 12, True)],
    ids=["short", "long", "longest"],
)
def test_the_name_of_a_row_fits_beside_its_estimates(label, squeezed):
    chart = interval_chart("t", [("a", []), (label, [Estimate("base", 0.0, 0.0, 1.0, "base")])])
    (end, fitted), (left,) = (
        re.findall(rf'<text class="row" x="(\d+)" y="[\d.]+"([^>]*)>{label}</text>', chart)[0],
        re.findall(r'class="bar" x1="([\d.]+)"', chart),
    )

    room = int(*re.findall(r'textLength="(\d+)"', fitted)) if squeezed else 7 * len(label)
    assert bool(fitted) == squeezed
    assert room <= int(end) < float(left), "it begins inside the chart and ends before the axis"
