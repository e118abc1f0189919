"""Forward passes and training steps of networks, timed in turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from vertebra.introspect import Timings, time_interleaved
from vertebra.models.dense_training import layer_by_layer

from .experiment import Figure, Setup

# Images that are timed on a GPU. With few it waits for the launches of its kernels, so that a network's time tells how
# many operations it has and nothing of their arithmetic or memory traffic.
GPU_BATCH = 64


def timed_batch(device: str, on_cpu: int) -> int:
    """How many images to time at once."""
    return on_cpu if device == "cpu" else GPU_BATCH


def time_forward(
    setup: Setup, networks: Mapping[str, nn.Module], shapes: Mapping[str, Sequence[int]] | Sequence[int], seconds: float
) -> Timings:
    """Time networks in evaluation mode, without gradients, on random inputs of (N, C, H, W), by name or one for all."""
    inputs = _inputs(setup, networks, shapes)
    arms = {name: partial(_placed(setup, network).eval(), inputs[name]) for name, network in networks.items()}
    with torch.inference_mode():
        return time_interleaved(arms, seconds=seconds, device=setup.device)


def time_training_steps(
    setup: Setup,
    networks: Mapping[str, nn.Module],
    shapes: Mapping[str, Sequence[int]] | Sequence[int],
    *,
    seconds: float | None = None,
    rounds: int | None = None,
) -> Timings:
    """Time steps of SGD on random images, forward and backward; networks return logits, and stay trained.

    The learning rate is so small that no network diverges. Layers run one by one, as the claims speak of them.
    """
    inputs = _inputs(setup, networks, shapes)
    arms = {name: partial(_step, _placed(setup, network).train(), inputs[name]) for name, network in networks.items()}
    with layer_by_layer():
        return time_interleaved(arms, seconds=seconds, rounds=rounds, warmup=1, device=setup.device)


def _inputs(
    setup: Setup, networks: Mapping[str, nn.Module], shapes: Mapping[str, Sequence[int]] | Sequence[int]
) -> dict[str, Tensor]:
    own = shapes if isinstance(shapes, Mapping) else dict.fromkeys(networks, shapes)
    return {name: _placed(setup, torch.randn(*own[name], device=setup.device)) for name in networks}


_Placed = TypeVar("_Placed", Tensor, nn.Module)


def _placed(setup: Setup, value: _Placed) -> _Placed:
    """On the device; on a GPU in channels-last, which its matrix units read: else each map is transposed for them."""
    if setup.device != "cpu":
        value = value.to(memory_format=torch.channels_last)
    return value.to(setup.device)


def _step(network: nn.Module, images: Tensor) -> None:
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6)
    optimizer.zero_grad()
    logits = network(images)
    logits = logits if isinstance(logits, Tensor) else logits[0]  # GoogLeNet's come with those of its auxiliary heads
    loss = cross_entropy(logits, torch.arange(len(images), device=images.device) % logits.shape[1])
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def ratio_figure(timings: Timings, arm: str, reference: str) -> Figure:
    """How often one arm takes as long as the other, with its interval."""
    ratio = timings.ratio(arm, reference)
    return Figure(ratio.median, "×", ratio.n, (ratio.low, ratio.high))
