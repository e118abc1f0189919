"""Whether the feature maps of frozen stages are kept, and of how many views of each photo.

A view is the pixels of one random crop and mirroring. Without stored maps each epoch makes new ones; with them, epoch
number e uses view e mod `frozen_views`, and the frozen stages run once for a view instead of once an epoch.
"""

from __future__ import annotations

import contextlib
import math
import os
from dataclasses import replace
from pathlib import Path

import torch

from vertebra.cache import cache_dir
from vertebra.errors import UsageError
from vertebra.models import ConvNet, GoogLeNet
from vertebra.models.meta_copy import to_meta
from vertebra.storage.bounded_folder import BoundedFolder
from vertebra.units import size

from .train_settings import Settings

# Chosen is one view for that many epochs, but no fewer than two: with one, nothing but the order would change.
_EPOCHS_A_VIEW, _MIN_VIEWS = 4, 2
_IN_USE_SECONDS = 3600.0  # since a run marked its store as used: longer than most epochs


def obstacle(settings: Settings, network: ConvNet) -> str | None:
    """Return why the frozen stages cannot run apart from the others; None: they can."""
    if not settings.freeze:
        return "no stage is frozen (freeze)"
    if isinstance(network, GoogLeNet) and network.aux_logits:
        return "GoogLeNet's auxiliary classifiers take maps of inner stages"
    for name in ("mixup", "cutmix"):
        if getattr(settings, name):
            return f"{name} mixes images anew in each epoch"  # and a mixture of maps is not the map of a mixture
    if settings.progressive > 1:
        return "progressive changes the image size"
    return None


def obstacle_to_reuse(settings: Settings, network: ConvNet) -> str | None:
    """Return why maps cannot be used in several epochs; None: they can."""
    if reason := obstacle(settings, network):
        return reason
    # Other pixels in each epoch are what these settings are for; a few views would take that away.
    if settings.erasing:
        return "erasing makes other pixels in each epoch"
    if settings.augment in ("trivial", "rand"):
        return f"augment={settings.augment} makes other pixels in each epoch"
    if settings.balance == "sampler" and settings.augment != "none":
        return "balance=sampler takes photos of rare classes many times in an epoch, each time another crop"
    return None


def require_effect(settings: Settings, network: ConvNet) -> None:
    """Raise a `UsageError` if `frozen_views` is given and would do nothing."""
    if settings.frozen_views and (reason := obstacle_to_reuse(settings, network)):
        raise UsageError(f"frozen_views is {settings.frozen_views}, which would do nothing: {reason}. Leave it out.")
    if (settings.frozen_views or 0) > 1 and settings.augment == "none":
        raise UsageError(
            f"frozen_views is {settings.frozen_views}, and with augment=none a photo has one view. Leave it out."
        )


def choose_views(
    settings: Settings, network: ConvNet, image_size: int, photos: int, validation: int
) -> tuple[int, list[str]]:
    """Return the number of views whose maps are kept (0: none), and notes; `settings.frozen_views` if that is given.

    Chosen are as many as `_EPOCHS_A_VIEW` says and the disk has room for, and none where that would save less than half
    of the work. A photo without random crops has one view.

    Args:
        settings: of the run.
        network: the network.
        image_size: of the input, in pixels.
        photos: number of training photos.
        validation: number of validation photos, which have one view.
    """
    if settings.frozen_views == 0 or obstacle_to_reuse(settings, network):
        return 0, []
    height, width, channels = map_shape(network, settings.freeze, image_size)
    row = 2 * height * width * channels
    least = 1 if settings.augment == "none" else _MIN_VIEWS
    wanted = 1 if settings.augment == "none" else max(least, -(-settings.epochs // _EPOCHS_A_VIEW))
    views = settings.frozen_views or wanted
    if settings.frozen_views is None and settings.epochs < 2 * views:
        return 0, []
    room = bounded_maps().limit()
    fits = int((room / row - validation) // max(1, photos))
    stages = f"the {settings.freeze} frozen stages ({channels} × {height} × {width}, {row / 1e3:,.0f} kB a photo)"
    if fits < (settings.frozen_views or least):
        return 0, [
            f"The maps of {stages} are computed again in each epoch: {views} views of each photo would take "
            f"{size(row * (views * photos + validation))}, and maps may take {size(int(room))} in {maps_folder()}."
        ]
    views = min(views, fits)
    needed = needed_bytes(replace(settings, frozen_views=views), (height, width, channels), photos, validation)
    what = "one view" if views == 1 else f"{views} views"
    instead = "" if settings.augment == "none" else ", instead of a new crop in each epoch (frozen_views=0)"
    return views, [
        f"The maps of {stages} are computed once, for {what} of each photo{instead}, and kept in {maps_folder()}: "
        f"{size(needed)}."
    ]


def needed_bytes(settings: Settings, shape: tuple[int, int, int], photos: int, validation: int) -> int:
    """Return the bytes of the maps of a run, whose training and validation photos are counted."""
    return 2 * math.prod(shape) * (max(1, settings.frozen_views or 0) * photos + validation)


def map_shape(network: ConvNet, stages: int, image_size: int) -> tuple[int, int, int]:
    """Return height, width and channels of the maps that are kept of the first stages."""
    if pools_maps(network, stages):
        return 1, 1, network.stages[-1].channels
    pixels = torch.empty(1, 3, image_size, image_size, device="meta")
    meta: ConvNet = to_meta(network)  # type: ignore[assignment]
    _, channels, height, width = next(meta.maps_at(meta.prepare_input(pixels), meta.stages[stages - 1].name)).shape
    return height, width, channels


def pools_maps(network: ConvNet, stages: int) -> bool:
    """Whether the maps are kept pooled: all stages are frozen, and the average over a map (not in VGG) follows.

    The average of a single value is that value, so the head takes such a map as it is.
    """
    if stages < len(network.stages):
        return False
    channels = network.stages[-1].channels
    meta: ConvNet = to_meta(network)  # type: ignore[assignment]
    return meta.pool(torch.empty(1, channels, 3, 3, device="meta")).shape[1] == channels


# --- disk -------------------------------------------------------------------------------------------------------------


def maps_folder() -> Path:
    """Return the folder of the stores of all runs."""
    return cache_dir() / "maps"


def bounded_maps() -> BoundedFolder:
    """Return the bound of that folder, which is created; each run marks its store as used in every epoch."""
    with contextlib.suppress(OSError):  # a read-only cache
        maps_folder().mkdir(parents=True, exist_ok=True)
    return BoundedFolder(maps_folder(), in_use=_IN_USE_SECONDS)


def make_room(needed: int, own: Path) -> None:
    """Delete the maps of the runs that used theirs longest ago, until a store has room for `needed` bytes."""
    with contextlib.suppress(OSError):
        mark_as_used(own)
        needed -= sum(file.stat().st_size for file in own.iterdir())
    bounded_maps().make_room(max(0, needed))


def mark_as_used(store: Path) -> None:
    """Note that a run uses a store."""
    with contextlib.suppress(OSError):  # a read-only cache
        os.utime(store)
