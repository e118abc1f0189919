"""Leave a network as it was: modes, gradients, buffers, hooks and random state, also where a measurement raises."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextlib.contextmanager
def preserved(network: nn.Module) -> Iterator[list[torch.utils.hooks.RemovableHandle]]:
    """Yield a list for the handles of hooks; afterwards they are removed and the network and torch are as before.

    Restored are each module's mode, each parameter's gradient and `requires_grad`, each buffer (running statistics) and
    the random state of the CPU and of the network's devices. Weights are for reading only.
    """
    modes = [(module, module.training) for module in network.modules()]
    parameters = [(p, p.requires_grad, p.grad) for p in network.parameters()]
    gradients = [None if grad is None else grad.clone() for _, _, grad in parameters]
    buffers = [
        (module, name, buffer, None if buffer is None else buffer.clone())
        for module in network.modules()
        for name, buffer in module._buffers.items()
    ]
    with torch.random.fork_rng(devices=_cuda_devices(network)), hooks() as handles:
        try:
            yield handles
        finally:
            for module, mode in modes:
                module.training = mode
            with torch.no_grad():
                for (parameter, requires_grad, grad), values in zip(parameters, gradients, strict=True):
                    parameter.requires_grad_(requires_grad)
                    parameter.grad = grad if grad is None or values is None else grad.copy_(values)
                for module, name, buffer, contents in buffers:
                    module._buffers[name] = buffer if buffer is None or contents is None else buffer.copy_(contents)


@contextlib.contextmanager
def hooks() -> Iterator[list[torch.utils.hooks.RemovableHandle]]:
    """Yield a list for the handles of hooks, which are removed afterwards; nothing else is restored."""
    handles: list[torch.utils.hooks.RemovableHandle] = []
    try:
        yield handles
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def batch_statistics(network: nn.Module) -> Iterator[None]:
    """Batch norms use the statistics of each batch, as in training; all else (dropout, stochastic depth) evaluates.

    What a network at initialisation needs, whose running statistics say nothing yet; they are restored afterwards.
    """
    with preserved(network):
        network.eval()
        for module in network.modules():
            module.training = isinstance(module, _BatchNorm)
        yield


@contextlib.contextmanager
def usable_statistics(network: nn.Module, images: Tensor) -> Iterator[None]:
    """Evaluation mode, in which batch norms whose running statistics nothing has changed yet have those of the images.

    For networks of which one doesn't know whether they were trained; the running statistics are restored afterwards.
    """
    with preserved(network):
        network.eval()
        set_initial_statistics(network, images)
        yield


def set_initial_statistics(network: nn.Module, images: Tensor) -> None:
    """Batch norms whose running statistics nothing has changed yet get those of the images, for good.

    The network must be in evaluation mode, and remains in it.
    """
    norms = [
        module for module in network.modules() if isinstance(module, _BatchNorm) and has_initial_statistics(module)
    ]
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.training, norm.momentum = True, 1.0
        if norms:
            with torch.no_grad():
                network(images.clone())
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.training, norm.momentum = False, momentum


def has_initial_statistics(norm: _BatchNorm) -> bool:
    """Whether a batch norm has running statistics that nothing has changed yet: mean 0, variance 1."""
    mean, var = norm.running_mean, norm.running_var
    return mean is not None and var is not None and bool((mean == 0).all()) and bool((var == 1).all())


def device_of(network: nn.Module) -> torch.device:
    """The device of the network's first parameter or buffer; the CPU where it has none."""
    tensor = next((t for tensors in (network.parameters(), network.buffers()) for t in tensors), None)
    return torch.device("cpu") if tensor is None else tensor.device


def _cuda_devices(network: nn.Module) -> list[int]:
    tensors: list[Tensor] = [*network.parameters(), *network.buffers()]
    return sorted({tensor.device.index or 0 for tensor in tensors if tensor.is_cuda})
