"""The gap between training and validation accuracy of trained networks, by the size of their head."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from vertebra.models import ConvNet

from .experiment import Figure
from .fit import Curve
from .seed_statistics import SeedStatistics, over_seeds, paired_difference

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
        figures[f"training, {data}, {arm}"] = seed_figure(over_seeds(train), "%")
        figures[f"validation, {data}, {arm}"] = seed_figure(over_seeds(val), "%")
        figures[f"gap, {data}, {arm}"] = seed_figure(over_seeds(gaps[arm]), "points")
    smallest, largest = next(iter(gaps.values())), list(gaps.values())[-1]
    growth = paired_difference(largest, smallest)
    figures[f"gap of the largest head, {data}"] = seed_figure(over_seeds(largest), "points")
    figures[f"gap of the largest above the smallest head, {data}"] = seed_figure(growth, "points")
    return figures, gaps


def seed_figure(found: SeedStatistics, unit: str) -> Figure:
    """The mean with its interval."""
    return Figure(found.mean, unit, found.n, found.interval)


def _final(curves: Sequence[Curve]) -> tuple[list[float], list[float]]:
    return [curve.final_train_accuracy for curve in curves], [curve.val_accuracy[-1] for curve in curves]
