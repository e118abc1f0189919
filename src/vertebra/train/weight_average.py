"""An exponential moving average of a network's weights (EMA, Polyak & Juditsky 1992)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .distributed import Distributed


class WeightAverage:
    """Averaged weights and running statistics of a network; with a decay of 0, all methods do nothing."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._network, self._decay = network, decay
        self.tensors: dict[str, Tensor] = {}  # by state-dict key; empty before `reset` or a checkpoint

    def __bool__(self) -> bool:
        return self._decay > 0

    @torch.no_grad()
    def reset(self) -> None:
        """Reset the average to the network's weights."""
        if self:
            self.tensors.update({name: tensor.clone() for name, tensor in self._network.state_dict().items()})

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average after step number `step`, from 0.

        The decay is smaller at first, so that the initial weights are soon forgotten (as in TensorFlow).
        """
        if not self:
            return
        decay = min(self._decay, (1 + step) / (10 + step))
        state = self._network.state_dict()
        floats = [name for name, tensor in state.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([self.tensors[name] for name in floats], [state[name] for name in floats], 1 - decay)
        for name in state.keys() - set(floats):  # batch counts
            self.tensors[name].copy_(state[name])

    def all_reduce_buffers(self, distributed: Distributed) -> None:
        """Average the running statistics over processes; each has those of its own images."""
        names = {name for name, _ in self._network.named_buffers()}
        distributed.all_reduce_mean(tensor for name, tensor in self.tensors.items() if name in names)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Load the averaged weights into the network inside the context."""
        if not self.tensors:
            yield
            return
        own = {name: tensor.clone() for name, tensor in self._network.state_dict().items()}
        try:
            self._network.load_state_dict(self.tensors)
            yield
        finally:
            self._network.load_state_dict(own)
