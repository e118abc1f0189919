"""What networks cost in training and inference: parameters, MACs, bytes kept for the backward pass, and time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from vertebra.anatomy import inspect
from vertebra.introspect import Timings, count_saved_bytes, preserved

from .cost_shares import NOT_RUN, parameters_not_run
from .experiment import Figure, Setup
from .forward_timing import ratio_figure, time_forward, time_training_steps, timed_batch
from .user_networks import image_size, random_images

PARAMETERS, MACS, KEPT = "parameters", "MACs", "kept for backward"
STEP, INFERENCE = "training step", "inference"
VALUES_KEPT = f"{KEPT}, without positions of maxima"
_BATCH = 2


@dataclass(frozen=True)
class Costs:
    """What each network costs: figures by "NETWORK: cost", and what was timed."""

    figures: Mapping[str, Figure]
    timings: Mapping[str, Timings]  # of STEP and INFERENCE; empty where nothing was timed

    @property
    def kinds(self) -> tuple[str, ...]:
        """The costs that were measured."""
        return (PARAMETERS, MACS, KEPT, *self.timings)

    def ratio(self, cost: str, network: str, reference: str) -> Figure:
        """How much more one network costs than another, in times; of measured times with a 95 % interval."""
        if cost in self.timings:
            return ratio_figure(self.timings[cost], network, reference)
        own, other = (self.figures[f"{name}: {cost}"].value for name in (network, reference))
        return Figure(own / other if other else math.inf if own else 1, "×")

    def most(self, cost: str, names: Sequence[str]) -> str:
        """The network that costs more than each other, or "" if none is shown to."""
        return next((n for n in names if all(costs_more(self.ratio(cost, n, o)) for o in names if o != n)), "")

    def least(self, cost: str, names: Sequence[str]) -> str:
        """The network than which each other costs more, or "" if none is shown to be."""
        return next((n for n in names if all(costs_more(self.ratio(cost, o, n)) for o in names if o != n)), "")


def costs_more(ratio: Figure) -> bool:
    """Whether a ratio is above 1, with all of its interval."""
    return (ratio.interval or (ratio.value,))[0] > 1


def measure_costs(setup: Setup, networks: Mapping[str, nn.Module], size: int | None = None) -> Costs:
    """Count for one image, and unless the run is quick time all networks in turns, on batches of two (more on a GPU).

    Args:
        setup: how.
        networks: classifiers by name; where nothing is timed they may be on the meta device.
        size: of the images, in pixels; None: what each network is for.
    """
    figures: dict[str, Figure] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for done, (name, network) in enumerate(networks.items()):
        setup.progress("counting", done, len(networks))
        side = image_size(network) if size is None else size
        images = random_images(network, _BATCH, side)
        shapes[name] = (timed_batch(setup.device, _BATCH), *images.shape[1:])
        found = inspect(network, images.shape[1:])
        with preserved(network):
            saved = count_saved_bytes(network.train(), images)
        figures[f"{name}: {PARAMETERS}"] = Figure(found.parameters)
        if (unused := parameters_not_run(found.rows)).value:
            figures[f"{name}: {NOT_RUN}"] = unused
        figures[f"{name}: {MACS}"] = Figure(found.macs)
        figures[f"{name}: {KEPT}"] = Figure(saved.total / _BATCH / 1e6, "MB an image")
        figures[f"{name}: {VALUES_KEPT}"] = Figure((saved.total - saved.indices) / _BATCH / 1e6, "MB an image")
    timings = {} if setup.quick else _time(setup, networks, shapes)
    for kind, times in timings.items():
        figures |= {f"{name}: {kind}": Figure(times.median_ms(name), "ms", times.rounds) for name in networks}
    return Costs(figures, timings)


def _time(setup: Setup, networks: Mapping[str, nn.Module], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Timings]:
    setup.progress("timing training steps")
    steps = time_training_steps(setup, networks, shapes, seconds=20)
    setup.progress("timing inference")
    return {STEP: steps, INFERENCE: time_forward(setup, networks, shapes, seconds=8)}
