"""Validate a run's settings against its network, photos and processes, before training starts.

`Settings` validates the settings themselves.
"""

from __future__ import annotations

import torch

from vertebra.errors import UsageError
from vertebra.models import ConvNet, create_model
from vertebra.preprocessing import SMALL

from .frozen_views import require_effect
from .optimizer import dropout_rates, freeze, set_training
from .schedule import augmentation_strength
from .train_settings import Settings


def check_settings(settings: Settings, processes: int, *, is_new: bool = True) -> None:
    """Validate the settings of a new or resumed run against the network on the meta device, before photos are read."""
    with torch.device("meta"):
        network = create_model(settings.model, weights=None)
        if settings.dropout is not None and not dropout_rates(network, settings):
            raise UsageError(
                f"dropout is {settings.dropout:g}, which would do nothing: {settings.model} has no dropout layer. "
                "Leave it out."
            )
        freeze(network, settings.freeze)
        if is_new:
            require_effect(settings, network)
        size = settings.image_size
        if size is not None and size <= SMALL and settings.method == "scratch":
            network.reset_resolution()
    minimum = 1 if size is None else min_images(network, settings, size)
    if settings.batch_size < minimum * processes:
        raise UsageError(
            f"batch_size is {settings.batch_size}{_too_few_images(minimum, processes, size)} Take --batch-size "
            f"{minimum * processes} or more{', or fewer processes' if processes > 1 else ''}."
        )


def check_photos(settings: Settings, network: ConvNet, size: int, photos: int, processes: int) -> tuple[int, list[str]]:
    """Return the minimum number of images of a micro-batch, and notes.

    `size` is the image size at the end of training, in pixels, `photos` the number of training photos. A UsageError if
    the smallest step of an epoch has too few images for all processes.
    """
    minimum = min_images(network, settings, size)
    smallest = smallest_step_size(photos, settings.batch_size)
    if smallest < minimum * processes:
        enough = (
            batch
            for batch in range(settings.batch_size, photos + 1)
            if smallest_step_size(photos, batch) >= minimum * processes
        )
        batch = next(enough, None)
        fewer = ", or fewer processes" if processes > 1 else ""
        remedy = f"Take --batch-size {batch}{fewer}" if batch else f"Add photos{fewer}"
        raise UsageError(
            f"of {photos:,} photos in steps of at most {settings.batch_size}, the smallest step has {smallest}"
            f"{_too_few_images(minimum, processes, size)} {remedy}."
        )
    parts = max(1, smallest // processes // minimum)
    notes = []
    if minimum > 1 and settings.accumulate > parts:
        notes.append(
            f"accumulate is {settings.accumulate}, and some steps are computed in {parts} parts: batch norm needs two "
            f"images of {size} × {size} pixels in each."
        )
    return minimum, notes


def smallest_step_size(photos: int, batch_size: int) -> int:
    """Return the number of images in the smallest step of an epoch, whose photos are split evenly."""
    return photos // -(-photos // batch_size)


def min_images(network: ConvNet, settings: Settings, size: int) -> int:
    """Return 2 if batch norm would have a single value per channel, which has no variance, else 1."""
    smallest = augmentation_strength(settings, size, 0.0).size
    if smallest < network.min_size:
        grown = "" if smallest == size else f", which with progressive = {settings.progressive} begin at {smallest}"
        raise UsageError(
            f"image_size is {size}{grown}: {settings.model} needs images of {network.min_size} pixels at least. Take "
            f"--set image_size={max(size, network.min_size)} or more{', or progressive=0' if grown else ''}."
        )
    before = [module.training for module in network.modules()]
    set_training(network, settings)
    try:
        # On the meta device only shapes are computed, and the running statistics of the network stay as they are.
        named = (*network.named_parameters(), *network.named_buffers())
        tensors = {name: torch.empty_like(tensor, device="meta") for name, tensor in named}
        for pixels in {smallest, size}:
            torch.func.functional_call(network, tensors, (torch.empty(1, 3, pixels, pixels, device="meta"),))
    except UsageError:
        raise
    except ValueError:  # "Expected more than 1 value per channel when training"
        return 2
    finally:
        for module, training in zip(network.modules(), before, strict=True):
            module.training = training
    return 1


def _too_few_images(minimum: int, processes: int, size: int | None) -> str:
    each = "each of them needs" if processes > 1 else "it needs"
    shared = f", and {processes} processes share a step" if processes > 1 else ""
    if minimum == 1:
        return f"{shared}: {each} one image."
    return f"{shared}: batch norm needs two images of {size} × {size} pixels{' in each' if processes > 1 else ''}."
