"""The gap between training and validation accuracy of trained networks, by the size of their head."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from vertebra.models import ConvNet

from .experiment import Figure
from .fit import Curve
from .seed_statistics import over_seeds, paired_difference

Gaps = dict[str, list[float]]  # points, one a seed, by arm


def gap_figures(
    data: str, arms: Mapping[str, Callable[..., ConvNet]], curves: Mapping[str, Sequence[Curve]]
) -> tuple[dict[str, Figure], Gaps]:
    """Parameters and accuracies of each arm, and how far its training accuracy is above the validation accuracy.

    Args:
        data: names the figures.
        arms: from the fewest parameters to the most.
        curves: of each arm, what `fit_all` returned.
    """
    figures: dict[str, Figure] = {}
    gaps: Gaps = {}
    for arm, own in curves.items():
        train, val = ([100 * value for value in values] for values in _final(own))
        gaps[arm] = [a - b for a, b in zip(train, val, strict=True)]
        figures[f"parameters, {data}, {arm}"] = Figure(sum(p.numel() for p in arms[arm]().parameters()))
        figures[f"training, {data}, {arm}"] = over_seeds(train).figure("%")
        figures[f"validation, {data}, {arm}"] = over_seeds(val).figure("%")
        figures[f"gap, {data}, {arm}"] = over_seeds(gaps[arm]).figure("points")
    smallest, largest = next(iter(gaps.values())), list(gaps.values())[-1]
    growth = paired_difference(largest, smallest)
    figures[f"gap of the largest head, {data}"] = over_seeds(largest).figure("points")
    figures[f"gap of the largest above the smallest head, {data}"] = growth.figure("points")
    return figures, gaps


def bounds(figures: Mapping[str, Figure], names: Sequence[str]) -> tuple[list[float], list[float]]:
    """Lower and upper ends of the 95 % intervals of these figures; infinite where one has none."""
    ends = [figures[name].interval or (-math.inf, math.inf) for name in names]
    return [low for low, _ in ends], [high for _, high in ends]


def _final(curves: Sequence[Curve]) -> tuple[list[float], list[float]]:
    return [curve.final_train_accuracy for curve in curves], [curve.val_accuracy[-1] for curve in curves]
