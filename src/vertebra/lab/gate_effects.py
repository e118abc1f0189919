"""What gates do: how far they differ by channel, image and class, and what accuracy is left with other gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vertebra.errors import UsageError
from vertebra.introspect import (
    GateLayer,
    batch_statistics,
    changed_gates,
    changed_values,
    channel_mean_gates,
    gate_layers,
    gate_statistics,
    layer_mean_gates,
    other_image_gates,
    record_gates,
    usable_statistics,
)
from vertebra.models import ConvNet
from vertebra.train.loss import to_images

from .experiment import Figure, Measured, Setup
from .fit import val_inputs
from .fit_all import Arm
from .seed_statistics import over_seeds, paired_difference
from .small_data import Images
from .small_networks import seeded
from .small_photos import photos
from .user_networks import image_size, random_images

OWN, CHANNEL_MEAN, LAYER_MEAN, OTHER = "own gates", "channel means", "one gate a layer", "another image's gates"
SPREADS = ("channels", "images", "classes", "shuffled classes")
_IMAGES = 16  # of noise, or of each class
_SHUFFLES = 20  # of the labels, of which the largest spread counts


def spreads_by_layer(gates: Mapping[str, Tensor], labels: Tensor | None = None) -> dict[str, list[float]]:
    """Standard deviations of the gates in each layer over each of `SPREADS`; over classes only with labels."""
    found = gate_statistics(gates, labels)
    spreads = {"channels": [own.channel_spread for own in found], "images": [own.image_spread for own in found]}
    if labels is not None:
        generator = torch.Generator().manual_seed(0)
        orders = [torch.randperm(len(labels), generator=generator) for _ in range(_SHUFFLES)]
        shuffled = [[own.class_spread or 0 for own in gate_statistics(gates, labels[order])] for order in orders]
        spreads["classes"] = [own.class_spread or 0 for own in found]
        spreads["shuffled classes"] = max(shuffled, key=sum)
    return spreads


def gate_effects(network: ConvNet, images: Images) -> dict[str, Any]:
    """Spreads by layer, the share of gates that other channels change, and accuracies with other gates, both in %."""
    # In random order, as the image before must not be of the same class.
    order = torch.randperm(len(images.val), generator=torch.Generator().manual_seed(images.seed))
    x, labels = val_inputs(network, images)[order], torch.from_numpy(images.val_labels)[order]
    layers, gates = gate_layers(network, x), record_gates(network, x)
    changes = {
        OWN: lambda _, own: own,
        CHANNEL_MEAN: channel_mean_gates(gates),
        LAYER_MEAN: layer_mean_gates(gates),
        OTHER: other_image_gates,
    }
    accuracy = {}
    for name, change in changes.items():
        with changed_gates(network, layers, change), torch.inference_mode():
            predicted = network(x).argmax(1).cpu()
        accuracy[name] = 100 * float((predicted == labels).double().mean())
    follow = 100 * fmean(_share_that_follows(network, layer, x[:32], gates) for layer in layers)
    return {"spreads": spreads_by_layer(gates, labels), "accuracy": accuracy, "follow": follow}


def untrained_spreads(arm: Arm, images: Images) -> dict[str, list[float]]:
    """Spreads by layer before training, with the statistics of the batch in the norms."""
    network = seeded(partial(arm, num_classes=len(images.classes)), images.seed)
    with batch_statistics(network):
        gates = record_gates(network, val_inputs(network, images))
    return spreads_by_layer(gates, torch.from_numpy(images.val_labels))


def _share_that_follows(network: nn.Module, layer: GateLayer, x: Tensor, gates: Mapping[str, Tensor]) -> float:
    """Of the other channels' gates, the share that another value of the first channel changes."""

    def change(values: Tensor) -> Tensor:
        values = values.clone()
        values[:, 0] += 1
        return values

    with changed_values(network, layer.path, change):
        changed = record_gates(network, x)[layer.path]
    return float(((changed - gates[layer.path][: len(x)]).abs().amax(0)[1:] > 1e-6).double().mean())


def effect_figures(
    spreads: Mapping[str, Sequence[float]], accuracy: Mapping[str, Sequence[float]]
) -> dict[str, Figure]:
    """Spreads, accuracies, and what other gates than the image's own cost in accuracy, over seeds."""
    figures = {f"spread over {over}": over_seeds(own).figure() for over, own in spreads.items()}
    figures |= {f"accuracy: {gates}": over_seeds(own).figure("%") for gates, own in accuracy.items()}
    for gates in (LAYER_MEAN, CHANNEL_MEAN, OTHER):
        figures[f"cost of {gates}"] = paired_difference(accuracy[OWN], accuracy[gates]).figure("points")
    return figures


def network_spreads(name: str, network: nn.Module, setup: Setup) -> Measured:
    """The spreads of a user's network, mean of its layers, on noise or on the user's photos; series by layer.

    Batch norms that saw no image yet have the statistics of the first batch.

    Raises:
        UsageError: it has no gates.
    """
    network.to(setup.device)
    labels = None
    batches = [random_images(network, _IMAGES)]
    if setup.data is not None:
        own = photos(setup.data, image_size(network), max_per_class=_IMAGES, progress=setup.progress).split(0)
        labels = torch.from_numpy(np.concatenate([own.train_labels, own.val_labels]))
        pixels = torch.from_numpy(np.concatenate([own.train, own.val]))
        batches = [to_images(part.to(setup.device), own.preprocessing) for part in torch.split(pixels, _IMAGES)]
    try:
        with usable_statistics(network, batches[0]):
            gates = record_gates(network, batches)
        spreads = spreads_by_layer(gates, labels)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from None
    return Measured({f"spread over {over}": Figure(fmean(own)) for over, own in spreads.items()}, {"layers": spreads})
