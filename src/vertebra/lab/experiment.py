"""What an experiment is: a claim with what should hold, a measurement, and a rule that turns it into a verdict.

A module of `experiments/` has `CLAIM`, `measure`, `judge` and `draw`, in this order; `judge` is a pure function of the
measurement. Where the claim can be asked of any network it also has `measure_networks`, `judge_networks` and
`draw_networks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from vertebra.progress import Progress, silent

from .figure_text import interval, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas
    from torch import nn


class Verdict(StrEnum):
    """What the measurement says of the claim."""

    HOLDS = "holds"
    IN_PART = "holds in part"
    FAILS = "does not hold"
    OPEN = "not decided here"


class Kind(StrEnum):
    """How a claim is decided."""

    COUNT = "count"  # counting, structure or algebra: no training, no timing
    INIT = "init"  # gradients or values of untrained networks
    TIMING = "timing"  # arms measured in turns on this machine
    TRAINING = "training"  # small networks, several seeds


@dataclass(frozen=True)
class Expected:
    """A number that the claim or its source leads to expect; never the result."""

    value: float
    source: str
    tolerance: float = 0.0  # relative, or absolute where 0 is expected: how far off a value is still called equal


@dataclass(frozen=True)
class Claim:
    """One row of the table of claims: what is said, where, what should hold, and how it is decided."""

    family: str
    stated_by: str  # "article l.7", "paper", "code l.100"
    claim: str
    claim_ja: str
    should_hold: str
    source: str  # of what should hold
    rule: str  # how the measurement becomes a verdict, in words
    decided_by: tuple[Kind, ...]
    title: str  # of the picture
    caption: str  # what to see in it
    seconds: float  # a full run on two cores, about
    expected: Mapping[str, Expected] = field(default_factory=dict)  # by name of a figure
    seeds: int = 0  # that a full run takes; 0: nothing in it is random
    is_quick: bool = True  # whether `--quick` runs it (its counts, where it has more than these)
    least_data: tuple[int, int] | None = None  # classes, and photos of each, that --data must have; None: no use
    networks_title: str = ""  # of the picture of the user's networks
    networks_caption: str = ""


@dataclass(frozen=True)
class Figure:
    """One measured number."""

    value: float
    unit: str = ""
    n: int = 1  # measurements that it is the mean or median of
    interval: tuple[float, float] | None = None  # 95 %

    def text(self) -> str:
        """`"89.4 %"`, `"1.52 × (95 %: 1.41 to 1.63 ×, n = 5)"`."""
        notes = [f"95 %: {interval(self.interval, self.unit)}"] if self.interval is not None else []
        notes += [f"n = {self.n:,}"] if self.n > 1 else []
        return number(self.value, self.unit) + (f" ({', '.join(notes)})" if notes else "")

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Figure:
        """The figure that `asdict` returned."""
        interval = values["interval"]
        return Figure(**{**values, "interval": None if interval is None else (interval[0], interval[1])})


@dataclass(frozen=True)
class Measured:
    """All that an experiment measured, as JSON can hold it: what the rule and the picture are made from."""

    figures: Mapping[str, Figure]
    series: Mapping[str, Any] = field(default_factory=dict)

    def value(self, name: str) -> float:
        """The value of a figure."""
        return self.figures[name].value

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return {"figures": {name: asdict(f) for name, f in self.figures.items()}, "series": dict(self.series)}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Measured:
        """The measurement that `to_dict` returned."""
        figures = {name: Figure.from_dict(f) for name, f in values["figures"].items()}
        return Measured(figures, values["series"])


@dataclass(frozen=True)
class Judgement:
    """A verdict, why, and the figures that decided it."""

    verdict: Verdict
    reason: str  # a fixed sentence without numbers: these are in the figures
    decided_by: tuple[str, ...] = ()  # names of figures, the most important first


@dataclass(frozen=True)
class Setup:
    """How to run an experiment."""

    seeds: int = 3
    quick: bool = False
    device: str = "cpu"
    data: Path | None = None
    progress: Progress = silent


class Experiment(Protocol):
    """A module of `experiments/`."""

    CLAIM: Claim

    def measure(self, setup: Setup) -> Measured:
        """Run it."""

    def judge(self, measured: Measured) -> Judgement:
        """Apply the rule."""

    def draw(self, measured: Measured, canvas: Canvas) -> None:
        """Make the picture; title and caption are there already."""


class NetworksExperiment(Experiment, Protocol):
    """One that can be asked of any network too."""

    def measure_networks(self, setup: Setup, networks: Mapping[str, nn.Module]) -> Measured:
        """Run it on these networks."""

    def judge_networks(self, measured: Measured) -> Judgement:
        """Apply the rule to them."""

    def draw_networks(self, measured: Measured, canvas: Canvas) -> None:
        """Make the picture that compares them."""


def takes_networks(module: Experiment) -> NetworksExperiment | None:
    """The experiment, if it can be asked of any network."""
    return cast(NetworksExperiment, module) if hasattr(module, "measure_networks") else None
