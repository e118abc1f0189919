"""Axes, where things are drawn on them, and the order of classes in which confused ones are neighbours."""

import math
import random

import pytest

from vertebra.report.charts import HEIGHT, WIDTH, axis, cluster_classes, coverage_chart, line_chart, reliability_chart


def texts(found):
    return [text for _, text in found.ticks]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (0.3, 2.1, ["0.0", "0.5", "1.0", "1.5", "2.0", "2.5"]),
        (1, 30, ["0", "10", "20", "30"]),
        (0, 5000, ["0", "1,000", "2,000", "3,000", "4,000", "5,000"]),
        (0.001, 0.01, ["0.000", "0.002", "0.004", "0.006", "0.008", "0.010"]),
        (2e-7, 1e-6, ["2.0e-7", "4.0e-7", "6.0e-7", "8.0e-7", "1.0e-6"]),
        (3, 3, ["3"]),
        (0, 0, ["0.0", "0.2"]),
    ],
)
def test_ticks_are_round_and_hold_all_values(low, high, expected):
    found = axis("x", low, high)
    assert texts(found)[: len(expected)] == expected
    assert found.low <= low and high <= found.high + 1e-12
    assert found.low < found.high


def test_shares_are_written_in_percent():
    assert texts(axis("share", 0.942, 1, share=True)) == ["94", "96", "98", "100"]
    assert texts(axis("share", 0.995, 1, share=True)) == ["99.5", "99.6", "99.7", "99.8", "99.9", "100.0"]


def test_up_is_more():
    y = axis("y", 0, 1, vertical=True)
    assert 0 < y.at(1) < y.at(0.5) < y.at(0) < HEIGHT
    x = axis("x", 0, 1)
    assert 0 < x.at(0) < x.at(1) < WIDTH


def test_dots_of_a_reliability_chart():
    chart = reliability_chart("of some photos", [(0.35, 0.4, 10), (0.95, 0.9, 1000)])
    few, many = chart.marks
    assert (few.x, few.y) == (chart.x.at(0.35), chart.y.at(0.4))
    assert few.radius < many.radius
    assert few.low - few.high > many.low - many.high > 0, "the interval of few photos is wider"
    assert few.text == "10 photos: confidence 35.0 %, accuracy 40.0 % (95 % interval 16.8 – 68.7)"
    assert chart.diagonal


def test_coverage_shows_what_differs():
    chart = coverage_chart("x", [(0.5, 1.0), (1.0, 0.981)])
    assert (chart.y.low, chart.y.high) == (pytest.approx(0.95), pytest.approx(1))
    assert chart.line == f"{chart.x.at(0.5):g},{chart.y.at(1.0):g} {chart.x.at(1):g},{chart.y.at(0.981):g}"
    assert coverage_chart("x", [(1.0, 0.31)]).y.low <= 0.31
    assert coverage_chart("x", []).line == ""


def test_curves_begin_with_the_first_step_and_pass_nan_by():
    chart = line_chart("loss", "epoch", [2.0, math.nan, 0.5])
    assert chart.line == f"{chart.x.at(1):g},{chart.y.at(2):g} {chart.x.at(3):g},{chart.y.at(0.5):g}"
    assert [mark.text for mark in chart.marks] == ["1: 2", "3: 0.5"]
    assert line_chart("accuracy", "epoch", [0.5, 0.75], share=True).marks[1].text == "2: 75.0 %"
    assert line_chart("rate", "step", [1.0] * 500).marks == ()
    assert line_chart("loss", "epoch", [math.nan, math.inf]).line == ""


def test_confused_classes_are_neighbours():
    order = cluster_classes(6, [(0, 5, 9), (5, 3, 4), (1, 4, 2), (2, 2, 100)])
    assert order in ([0, 5, 3, 1, 4, 2], [3, 5, 0, 1, 4, 2], [0, 5, 3, 4, 1, 2], [3, 5, 0, 4, 1, 2])


def test_both_directions_count_together():
    # 0 and 1 are mistaken 3 + 3 times, 0 and 2 five times: the former are joined first.
    order = cluster_classes(3, [(0, 1, 3), (1, 0, 3), (0, 2, 5), (1, 2, 1)])
    assert abs(order.index(0) - order.index(1)) == 1
    assert abs(order.index(0) - order.index(2)) == 1


@pytest.mark.parametrize("seed", range(5))
def test_every_class_is_there_once(seed):
    draw = random.Random(seed)
    mistakes = [(draw.randrange(40), draw.randrange(40), draw.randint(1, 9)) for _ in range(60)]
    found = cluster_classes(40, mistakes)
    assert sorted(found) == list(range(40))
    assert found == cluster_classes(40, mistakes[::-1])


def test_without_mistakes_the_order_stays():
    assert cluster_classes(4, [(1, 1, 7)]) == [0, 1, 2, 3]
