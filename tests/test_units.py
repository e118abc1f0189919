"""Numbers as people read them."""

import pytest

from vertebra import units


def test_nouns():
    found = [units.counted(n, what) for n in (0, 1, 2_000) for what in ("photo", "class", "set of class names")]
    assert found == [
        *("0 photos", "0 classes", "0 sets of class names", "1 photo", "1 class", "1 set of class names"),
        *("2,000 photos", "2,000 classes", "2,000 sets of class names"),
    ]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1_000, "1.00 k"),
        (25_557_032, "25.6 M"),
        (138_357_544, "138 M"),
        (999_499, "999 k"),
        (999_950, "1.00 M"),
        (15_470_000_000, "15.5 G"),
        (-1_500, "-1.50 k"),
    ],
)
def test_count(number, text):
    assert units.count(number) == text


def test_a_megabyte_is_ten_to_the_six_bytes():
    assert units.size(1_000_000) == "1.00 MB"
    assert units.size(102_530_333) == "103 MB"
    assert units.size(12) == "12 B"


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.385, "0.39"), (4.089, "4.09"), (9.999, "10.0"), (11.5, "11.5"), (99.96, "100"), (528, "528")],
)
def test_three_figures(number, text):
    assert units.three_figures(number) == text


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0.0034, "3.40 µs"),
        (0.9994, "999 µs"),
        (0.9996, "1.00 ms"),
        (107.6, "108 ms"),
        (999.6, "1.00 s"),
        (0, "0.00 µs"),
    ],
)
def test_duration(milliseconds, text):
    assert units.duration(milliseconds) == text
