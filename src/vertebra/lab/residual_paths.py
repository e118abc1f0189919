"""What passes a residual network through its additions: gradients by path length, inputs that survive, lost blocks."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vertebra.errors import UsageError
from vertebra.introspect import (
    PathGradient,
    contributions,
    path_length_gradients,
    residual_blocks,
    surviving_inputs,
    usable_statistics,
)
from vertebra.introspect.preserve import device_of
from vertebra.models import ConvNet
from vertebra.models.resnet import BasicBlock
from vertebra.train.loss import to_images

from .experiment import Figure, Measured
from .fit import evaluate
from .seed_statistics import over_seeds
from .small_data import Images
from .user_networks import small_images

SAMPLES, _TESTED, _ON_PATHS = 12, 64, 16  # paths of each length, images, those of them whose gradient is taken
_LONGEST_SHARE = 0.95  # of the gradient, up to the length that is told
_SAMPLES_OF_ANY = 5
_IMAGES, _STEPS = 8, 12  # of the user's networks: images, and lengths between none and all of the blocks


def accuracies_without_blocks(network: ConvNet, images: Images) -> list[float]:
    """Validation accuracy, in %, with one block replaced by the identity, for each that keeps the shape.

    To leave the branch out of a residual block is the same: what enters it has passed a ReLU already.
    """
    found = []
    for name, block in list(network.named_modules()):
        if isinstance(block, BasicBlock) and block.stride == 1 and block.conv1.in_channels == block.conv2.out_channels:
            network.set_submodule(name, nn.Identity())
            found.append(100 * evaluate(network, images.val, images.val_labels, images.preprocessing)[1])
            network.set_submodule(name, block)
    return found


def passed(
    network: nn.Module, inputs: Tensor, lengths: Sequence[int] | None = None, samples: int = SAMPLES
) -> dict[str, Any]:
    """Share of the gradient by path length, the skip's share of each sum, and of what enters a chain in what leaves it.

    In the mode that the network is in; all shares are in %.

    Raises:
        UsageError: there are no residual blocks.
    """
    sums = contributions(network, inputs)
    lengths = range(len(sums) + 1) if lengths is None else lengths
    paths = path_length_gradients(network, inputs[:_ON_PATHS], lengths, samples)
    return {
        "blocks": len(sums),
        "paths": _shares(paths, len(sums)),
        "skips": [100 * c.skip**2 / (c.skip**2 + c.branch**2) if c.skip or c.branch else 0.0 for c in sums],
        "survives": [100 * chain.share for chain in surviving_inputs(network, inputs) if len(chain.blocks) > 1],
    }


def path_figures(found: dict[str, Any]) -> dict[str, Figure]:
    """What `passed` found, as figures of one network."""
    blocks = found["blocks"]
    lengths = list(map(int, found["paths"]))
    cumulated = [sum(list(found["paths"].values())[: place + 1]) for place in range(len(lengths))]
    longest, middle = (
        next((length for length, share in zip(lengths, cumulated, strict=True) if share >= wanted), blocks)
        for wanted in (100 * _LONGEST_SHARE, 50)
    )
    figures = {
        "blocks": Figure(blocks),
        "median path": Figure(100 * middle / blocks, "% of the blocks"),
        "longest path of 95 % of the gradient": Figure(100 * longest / blocks, "% of the blocks"),
        "smallest share of a skip in its sum": Figure(min(found["skips"]), "%"),
    }
    if found["survives"]:
        figures["input left behind a stage, least"] = Figure(min(found["survives"]), "%")
    return figures


def network_paths(network: nn.Module, device: str) -> Measured:
    """Any residual network, on small images of noise.

    Raises:
        UsageError: it has no residual blocks.
    """
    images = small_images(network.to(device), _IMAGES)
    count = len(residual_blocks(network, images))
    lengths = sorted({round(count * step / _STEPS) for step in range(_STEPS + 1)})
    with usable_statistics(network, images):
        found = passed(network, images, lengths, _SAMPLES_OF_ANY)
    return Measured(path_figures(found), found)


def deleted_and_passed(network: ConvNet, images: Images) -> dict[str, Any]:
    """What a trained network of small images lacks without a block, and what passes it; nothing if it adds nothing."""
    found: dict[str, Any] = {"deleted": accuracies_without_blocks(network, images), "passed": None}
    pixels = torch.from_numpy(images.val[:_TESTED]).to(device_of(network))
    with contextlib.suppress(UsageError):  # of a plain network
        found["passed"] = passed(network, to_images(pixels, images.preprocessing))
    return found


def mean_shares(found: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean over the seeds of the gradient's share by path length."""
    return (
        {length: statistics.fmean(own["paths"][length] for own in found) for length in found[0]["paths"]}
        if found
        else {}
    )


def mean_figures(found: Iterable[Mapping[str, Figure]]) -> dict[str, Figure]:
    """Each figure over the seeds."""
    own = list(found)
    return {
        name: over_seeds([f[name].value for f in own]).figure(own[0][name].unit) for name in (own[0] if own else ())
    }


def _shares(paths: Sequence[PathGradient], count: int) -> dict[str, float]:
    """In % of all, by length; lengths between those measured have what lies on the line between their logarithms."""
    known = {path.length: math.log(path.norm) if path.norm else -math.inf for path in paths}
    lengths = sorted(known)
    totals = {}
    for length in range(count + 1):
        below, above = max(k for k in lengths if k <= length), min(k for k in lengths if k >= length)
        part = 0.0 if above == below else (length - below) / (above - below)
        norm = known[below] if not part else (1 - part) * known[below] + part * known[above]
        totals[length] = math.exp(norm + math.log(math.comb(count, length)))
    whole = sum(totals.values()) or math.nan
    return {str(length): 100 * total / whole for length, total in totals.items()}
