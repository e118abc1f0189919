"""An exponential moving average of a network's weights (EMA, Polyak & Juditsky 1992)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .distributed import Distributed


class WeightAverage:
    """Averaged weights and running statistics of a network.

    With a decay of 0 there is no average, and every method leaves the network's own weights alone.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._network, self._decay = network, decay
        self.tensors: dict[str, Tensor] = {}  # by their names in the state dict; empty before `reset` or a checkpoint

    def __bool__(self) -> bool:
        return self._decay > 0

    @torch.no_grad()
    def reset(self) -> None:
        """Begin with the network's own weights."""
        if self:
            self.tensors.update({name: tensor.clone() for name, tensor in self._network.state_dict().items()})

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After step number `step`, counted from 0.

        A new average follows faster, so that the initial weights are soon forgotten (as in TensorFlow's).
        """
        if not self:
            return
        decay = min(self._decay, (1 + step) / (10 + step))
        state = self._network.state_dict()
        floats = [name for name, tensor in state.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([self.tensors[name] for name in floats], [state[name] for name in floats], 1 - decay)
        for name in state.keys() - set(floats):  # counts of batches
            self.tensors[name].copy_(state[name])

    def all_reduce_buffers(self, distributed: Distributed) -> None:
        """Average the running statistics, which each process has of its own images."""
        names = {name for name, _ in self._network.named_buffers()}
        distributed.all_reduce_mean(tensor for name, tensor in self.tensors.items() if name in names)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the network has the averaged weights."""
        if not self.tensors:
            yield
            return
        own = {name: tensor.clone() for name, tensor in self._network.state_dict().items()}
        try:
            self._network.load_state_dict(self.tensors)
            yield
        finally:
            self._network.load_state_dict(own)
