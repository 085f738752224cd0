import itertools
import re

from export.daily.line_chart import Line, line_chart

DAYS = ["2026-03-01", "2026-03-02", "2026-03-03", "2026-03-04"]


def test_a_day_without_a_value_is_a_gap():
    chart = line_chart("Pages", DAYS, [Line("pages", [1.0, None, 3.0, 4.0])])
    points = re.findall(r'<polyline points="([^"]*)"', chart)
    assert [len(each.split()) for each in points] == [1, 2]
    assert chart.count("<circle") == 3
    assert "pages, 2026-03-03: 3" in chart


def test_larger_values_are_higher_and_later_days_further_right():
    chart = line_chart("Pages", DAYS, [Line("pages", [1.0, 2.0, 3.0, 4.0])])
    ((*points,),) = [each.split() for each in re.findall(r'<polyline points="([^"]*)"', chart)]
    x, y = zip(*(map(float, point.split(",")) for point in points), strict=True)
    assert sorted(x) == list(x)
    assert sorted(y, reverse=True) == list(y)
    steps = [round(a - b, 1) for a, b in itertools.pairwise(y)]
    assert max(steps) - min(steps) < 0.2  # evenly


def test_an_interval_is_a_band_and_refused_days_are_marked():
    line = Line("gauc", [0.6, 0.6, None, None], [0.5, 0.5, None, None], [0.7, 0.7, None, None])
    chart = line_chart("GAUC", DAYS, [line], refused=[False, False, True, False])
    ((*band,),) = [each.split() for each in re.findall(r'<polygon points="([^"]*)"', chart)]
    assert len(band) == 4
    assert chart.count('class="refused"') == 1
    assert "2026-03-03: refused" in chart


def test_nothing_to_draw_is_an_empty_chart():
    assert "<circle" not in line_chart("GAUC", DAYS, [Line("gauc", [None] * 4)])
    assert line_chart("one", DAYS[:1], [Line("a", [0.0])]).count("<circle") == 1
