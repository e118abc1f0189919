"""The order of classes in which confused ones are neighbours."""

import random

import pytest

from vertebra.report import clustered


def test_confused_classes_are_neighbours():
    order = clustered(6, [(0, 5, 9), (5, 3, 4), (1, 4, 2), (2, 2, 100)])
    assert order in ([0, 5, 3, 1, 4, 2], [3, 5, 0, 1, 4, 2], [0, 5, 3, 4, 1, 2], [3, 5, 0, 4, 1, 2])


def test_both_directions_count_together():
    # 0 and 1 are mistaken 3 + 3 times, 0 and 2 five times: the former are joined first.
    order = clustered(3, [(0, 1, 3), (1, 0, 3), (0, 2, 5), (1, 2, 1)])
    assert abs(order.index(0) - order.index(1)) == 1
    assert abs(order.index(0) - order.index(2)) == 1


@pytest.mark.parametrize("seed", range(5))
def test_every_class_is_there_once(seed):
    draw = random.Random(seed)
    mistakes = [(draw.randrange(40), draw.randrange(40), draw.randint(1, 9)) for _ in range(60)]
    found = clustered(40, mistakes)
    assert sorted(found) == list(range(40))
    assert found == clustered(40, mistakes[::-1])


def test_without_mistakes_the_order_stays():
    assert clustered(4, [(1, 1, 7)]) == [0, 1, 2, 3]
