"""Squeeze-excitation gates: their values on images, how far those differ, and the network with other gates."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vertebra.errors import UsageError

from .preserve import hooks, preserved
from .running_modules import batches_of, tensors_in

Gates = Mapping[str, Tensor]  # path of the layer → (N, C)
GateChange = Callable[[str, Tensor], Tensor]  # path and gates (N, C) → other gates (N, C)


@dataclass(frozen=True)
class GateLayer:
    """A module that multiplies each channel of its input by a gate."""

    path: str
    gate_path: str  # of the module within it that returns the gates
    channels: int


@dataclass(frozen=True)
class GateStatistics:
    """The gates of one layer over images."""

    path: str
    mean: float
    channel_spread: float  # standard deviation over channels, of their means over images
    image_spread: float  # standard deviation over images, mean over channels
    class_spread: (
        float | None
    )  # standard deviation over classes, of their means, mean over channels; None without labels


def gate_layers(network: nn.Module, images: Tensor) -> tuple[GateLayer, ...]:
    """Find the gates, in order of execution, by running the network on at most two images in evaluation mode.

    Recognised is a module whose output (N, C, H, W) is its input times what a module within it returns, (N, C) or
    (N, C, 1, 1): `SqueezeExcitation` here and in torchvision, timm's, and those of most other implementations.

    Raises:
        UsageError: there is none.
    """
    finder = _GateFinder()
    with torch.inference_mode(False), torch.no_grad(), preserved(network) as handles:
        network.eval()
        for path, module in network.named_modules():
            handles.append(module.register_forward_pre_hook(finder.enter))
            handles.append(module.register_forward_hook(partial(finder.leave, path)))
        network(next(batches_of(images))[:2])
    if not finder.found:
        raise UsageError(
            f"no gates were found in this {type(network).__name__}: no module returns its input times what a module "
            "within it returns for each channel. MBConv blocks have squeeze-excitation (efficientnet_b0 to b7, "
            "efficientnet_v2_s to l); EfficientNet-Lite and the other families have none. Gates that a forward() "
            "computes by a function, such as torch.sigmoid, need a module of their own: nn.Sigmoid()."
        )
    return tuple(finder.found)


def record_gates(network: nn.Module, images: Tensor | Iterable[Tensor]) -> dict[str, Tensor]:
    """The gates of each layer on these images, (N, C) by path, in the network's present mode.

    Raises:
        UsageError: there are no gates or no images.
    """
    batches = [images] if isinstance(images, Tensor) else list(images)
    layers = gate_layers(network, next(batches_of(batches)))
    found: dict[str, list[Tensor]] = {layer.path: [] for layer in layers}

    def record(path: str, gates: Tensor) -> Tensor:
        found[path].append(gates.clone())
        return gates

    with torch.inference_mode(False), torch.no_grad(), preserved(network), changed_gates(network, layers, record):
        for batch in batches_of(batches):
            network(batch)
    return {path: torch.cat(gates) for path, gates in found.items()}


def gate_statistics(gates: Gates, labels: Tensor | Sequence[int] | None = None) -> tuple[GateStatistics, ...]:
    """How far the gates of `record_gates` differ by channel, image and class.

    Means of classes of n images differ by chance as well, by about `image_spread` / √n: compare `class_spread` with
    that of shuffled labels.

    Raises:
        UsageError: there is not one label for each image.
    """
    classes = None if labels is None else torch.as_tensor(labels)
    for path, values in gates.items():
        if classes is not None and classes.shape != values.shape[:1]:
            raise UsageError(
                f"there are {len(values)} images in the gates of {path!r}, and labels of shape {tuple(classes.shape)}; "
                "give one label for each image."
            )
    return tuple(
        GateStatistics(
            path,
            float(values.mean()),
            float(values.mean(0).std(correction=0)),
            float(values.std(0, correction=0).mean()),
            None if classes is None else _class_spread(values, classes.to(values.device)),
        )
        for path, values in ((path, values.double()) for path, values in gates.items())
    )


@contextlib.contextmanager
def changed_gates(network: nn.Module, layers: Iterable[GateLayer], change: GateChange) -> Iterator[None]:
    """Within the block the gates of these layers are what `change(path, gates)` makes of them, both (N, C).

    `channel_mean_gates`, `layer_mean_gates` and `other_image_gates` are such changes.
    """

    def hook(layer: GateLayer, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        gates = output.reshape(len(output), layer.channels)
        return change(layer.path, gates).to(output).expand_as(gates).reshape(output.shape)

    with hooks() as handles:
        for layer in layers:
            handles.append(network.get_submodule(layer.gate_path).register_forward_hook(partial(hook, layer)))
        yield


def channel_mean_gates(recorded: Gates) -> GateChange:
    """Each channel's mean over the recorded images, whatever the image."""
    means = {path: values.mean(0, keepdim=True) for path, values in recorded.items()}
    return lambda path, gates: means[path]


def layer_mean_gates(recorded: Gates) -> GateChange:
    """One number a layer: the mean over the recorded images and all channels."""
    means = {path: values.mean().reshape(1, 1) for path, values in recorded.items()}
    return lambda path, gates: means[path]


def other_image_gates(path: str, gates: Tensor) -> Tensor:
    """The gates of the image before in the batch; the first gets those of the last."""
    if len(gates) < 2:
        raise UsageError("the gates of another image need a batch of at least two images, got 1.")
    return gates.roll(1, 0)


def _class_spread(values: Tensor, classes: Tensor) -> float:
    means = torch.stack([values[classes == label].mean(0) for label in sorted(set(classes.tolist()))])
    return float(means.std(0, correction=0).mean())


class _GateFinder:
    """Compares the output of each module with its input times each small output of a module within it."""

    def __init__(self) -> None:
        self.found: list[GateLayer] = []
        self._inside: list[list[tuple[str, Tensor]]] = []  # of each running module: what modules in it returned

    def enter(self, module: nn.Module, args: Any) -> None:
        self._inside.append([])

    def leave(self, path: str, module: nn.Module, args: Any, output: Any) -> None:
        inside = self._inside.pop()
        inputs, count = tensors_in(args), len(self.found)
        if isinstance(output, Tensor) and output.ndim == 4 and inputs and inputs[0].shape == output.shape:
            # The last is the outermost of modules that return the same.
            gate_path = next((path for path, gates in reversed(inside) if _is_product(output, inputs[0], gates)), None)
            if gate_path is not None and path not in {layer.path for layer in self.found}:
                self.found.append(GateLayer(path, gate_path, output.shape[1]))
            elif inside and not inputs[0].any():  # as behind a norm that is initialised to zero
                module(torch.randn_like(inputs[0]))
            if gate_path is not None or len(self.found) > count:
                inside.clear()  # what is around the module has not these gates
        if self._inside:
            self._inside[-1] += inside
            if isinstance(output, Tensor) and output.ndim in (2, 4) and output.shape[2:].numel() == 1:
                self._inside[-1].append((path, output.clone()))


def _is_product(output: Tensor, x: Tensor, gates: Tensor) -> bool:
    if gates.shape[:2] != x.shape[:2] or not output.any():
        return False
    product = x * gates.reshape(*x.shape[:2], 1, 1)
    return torch.allclose(output, product, rtol=1e-3, atol=1e-6 * float(output.abs().max()))
