"""Training over the feature maps of frozen stages, which ONNX Runtime computes, for new crops or once for each view.

Those of a view are kept on disk, rounded to float16 whether they were there or not. So what is there after a kill, with
a deleted cache or on a full disk decides how long a step takes, and not what it learns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vertebra.cache import warn_once
from vertebra.card import Preprocessing
from vertebra.decoding import decoder_versions
from vertebra.export.stage_maps import StageMaps
from vertebra.machine import usable_cores
from vertebra.models import ConvNet
from vertebra.models.stages import recorded_layers, run_in_sequence
from vertebra.pixels import FIT_VERSION, Pixels, network_pixels

from .batch_loader import Batch, TrainPhotos
from .distributed import Distributed
from .feature_files import NotFiniteError, decode, encode
from .frozen_photos import MapOrPixels, MapReader, StoredBatch, ViewPhotos, prediction_map, stack
from .frozen_views import (
    make_room,
    map_shape,
    maps_folder,
    mark_as_used,
    needed_bytes,
    obstacle,
    obstacle_to_reuse,
    pools_maps,
)
from .loss import to_images
from .run_folder import TrainError
from .train_settings import Settings
from .validation import Split


class TrainedStages(nn.Module):
    """What follows the frozen stages of a network: map (N, C, h, w) → logits (N, num_classes)."""

    def __init__(self, network: ConvNet, frozen: int) -> None:
        super().__init__()
        self.network = network
        last, parts = network.stages[frozen - 1].name, list(recorded_layers(network))
        start = [name for name, _ in parts].index(last) + 1
        self._layers = tuple(layer for _, layers in parts[start:] for layer in layers)  # a tuple registers no module

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, h, w) → logits (N, num_classes)."""
        return self.network.forward_head(run_in_sequence(x, *self._layers))


class TorchMaps:
    """As `StageMaps`, by torch on a GPU; there a map may depend on the rest of the batch by rounding."""

    def __init__(
        self, network: ConvNet, preprocessing: Preprocessing, stage: str, device: torch.device, *, pools: bool = False
    ) -> None:
        self._network, self._preprocessing, self._stage = network, preprocessing, stage
        self._device, self._pools = device, pools
        digest = hashlib.sha256(f"{stage} {pools}".encode())
        stages = [found.name for found in network.stages]
        for found in network.stages[: stages.index(stage) + 1]:
            for path in found.modules:
                for name, tensor in network.get_submodule(path).state_dict().items():
                    digest.update(f"{path}.{name} {tuple(tensor.shape)}".encode())
                    digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        self.version = f"{digest.hexdigest()} by torch {torch.__version__} on {device.type}"

    def __call__(self, images: Pixels) -> NDArray[np.float32]:
        """uint8 (N, H, W, 3) → float32 (N, h, w, C)."""
        before = [(module, module.training) for module in self._network.modules()]
        self._network.eval()
        try:
            with torch.inference_mode():
                x = to_images(torch.from_numpy(images).to(self._device), self._preprocessing)
                maps = next(self._network.maps_at(self._network.prepare_input(x), self._stage))
                maps = self._network.pool(maps)[:, :, None, None] if self._pools else maps
                found: NDArray[np.float32] = maps.permute(0, 2, 3, 1).float().cpu().contiguous().numpy()
                return found
        finally:
            for module, training in before:
                module.training = training


class FrozenStages:
    """The frozen stages of a network whose weights are loaded: makes batches of maps, and stores those of views.

    With `is_stored` epochs share the maps of `settings.frozen_views` views, and validation photos have one. The store
    is named after the weights, the preprocessing and all versions that its maps depend on.
    """

    def __init__(
        self,
        settings: Settings,
        network: ConvNet,
        preprocessing: Preprocessing,
        distributed: Distributed,
        *,
        is_stored: bool,
    ) -> None:
        self.is_stored = is_stored
        self.settings, self.network, self.preprocessing = settings, network, preprocessing
        self.trained = TrainedStages(network, settings.freeze)
        self._device = distributed.device
        self._threads = max(1, usable_cores() // distributed.local_size)

    @staticmethod
    def of_run(
        settings: Settings,
        network: ConvNet,
        preprocessing: Preprocessing,
        distributed: Distributed,
        *splits: Split,
    ) -> FrozenStages | None:
        """Return the frozen stages of a run whose views have been chosen; None: they run with the others, in torch."""
        is_stored = bool(settings.frozen_views) and obstacle_to_reuse(settings, network) is None
        is_stored = is_stored and all(split.digests for split in splits)  # runs of the first versions have none
        if obstacle(settings, network) or (distributed.device.type != "cpu" and not is_stored):
            return None
        return FrozenStages(settings, network, preprocessing, distributed, is_stored=is_stored)

    @cached_property
    def _compute(self) -> StageMaps | TorchMaps:
        """Computes maps: ONNX Runtime on a CPU, torch on a GPU."""
        frozen = self.settings.freeze
        stage, pools = self.network.stages[frozen - 1].name, pools_maps(self.network, frozen)
        if self._device.type != "cpu":
            return TorchMaps(self.network, self.preprocessing, stage, self._device, pools=pools)
        return StageMaps(self.network, self.preprocessing, stage, self._threads, pools=pools)

    def prepare(self) -> None:
        """Do once, in this thread, what `load` needs in several."""
        _ = self.reader if self.is_stored else self._compute

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of a map."""
        return map_shape(self.network, self.settings.freeze, self.preprocessing.crop_size)

    @cached_property
    def reader(self) -> MapReader:
        """Reads the store."""
        import torchvision

        versions = f"{decoder_versions()}, torchvision {torchvision.__version__}, fit {FIT_VERSION}"
        context = f"maps of {self._compute.version} of {self.preprocessing} by {versions}"
        key = hashlib.sha256(context.encode()).hexdigest()
        return MapReader(maps_folder() / f"{self.settings.model}-{key[:24]}", context)

    def photos(self, train: Split, val: Split) -> TrainPhotos:
        """Return the data set of training photos; makes room for the maps of both splits, if they are stored."""
        if not self.is_stored:
            return TrainPhotos(train.paths, train.labels, self.settings, self.preprocessing)
        make_room(needed_bytes(self.settings, self.shape, len(train.labels), len(val.labels)), self.reader.folder)
        return ViewPhotos(train.paths, train.labels, self.settings, self.preprocessing, train.digests, self.reader)

    def batches(self, loaded: Iterable[StoredBatch | Batch | str]) -> Iterator[Batch | str]:
        """Yield batches of maps, float32 (N, h, w, C), and labels; for an unreadable photo, the reason."""
        try:
            for batch in loaded:
                if isinstance(batch, StoredBatch):
                    yield self._maps(batch), batch.labels
                elif isinstance(batch, str):
                    yield batch
                else:
                    yield torch.from_numpy(self._compute(batch[0].numpy())), batch[1]
        finally:
            self.save()

    def load(self, split: Split, number: int) -> MapOrPixels:
        """Return the map of a validation photo, or its pixels; an ImageError if it cannot be read."""
        if not self.is_stored:
            return MapOrPixels(torch.from_numpy(network_pixels(split.paths[number], self.preprocessing).copy()), "")
        return prediction_map(split, number, self.preprocessing, self.reader)

    def logits(self, items: Sequence[MapOrPixels], device: torch.device) -> Tensor:
        """Return the logits (N, K) of what `load` gave."""
        logits: Tensor = self.trained(self._maps(stack(items)).permute(0, 3, 1, 2).to(device))
        return logits

    def save(self) -> None:
        """Write new maps to disk, close their files, and mark them as used."""
        if not self.is_stored:
            return
        self.reader.store.close()
        mark_as_used(self.reader.folder)

    def _maps(self, batch: StoredBatch) -> Tensor:
        """Return the maps (N, h, w, C) of a batch."""
        found = torch.empty(len(batch.is_stored), int(np.prod(self.shape)))
        found[batch.is_stored] = batch.maps if len(batch.maps) else found[:0]
        if len(batch.pixels):
            found[~batch.is_stored] = torch.from_numpy(self._computed(batch.pixels.numpy(), batch.keys))
        return found.view(-1, *self.shape)

    def _computed(self, pixels: NDArray[np.uint8], keys: Sequence[str]) -> NDArray[np.float32]:
        """Return the maps (N, h·w·C) of pixels; if they are stored, rounded to float16, and store those with a key."""
        if not self.is_stored:
            return self._compute(pixels).reshape(len(pixels), -1)
        store, rows = self.reader.store, []
        try:
            for values, key in zip(self._compute(pixels), keys, strict=True):
                row = encode(values)
                if key and key not in store:
                    store.put_row(key, row)
                rows.append(decode(row))
        except NotFiniteError:
            raise TrainError(
                f"the maps of the {self.settings.freeze} frozen stages are NaN or infinite: the network's weights are "
                "damaged. Start a new run with other --weights."
            ) from None
        if store.is_full:
            warn_once(
                f"{store.folder} cannot be written, or the disk is full: the frozen stages are computed again in each "
                "epoch for photos whose maps are not there. Nothing else changes."
            )
        return np.stack(rows)
