"""Locates the logits, the embedding and the last feature map of any classifier, by one run with hooks.

Our families define them; other networks, and ours with a changed `forward` or hooks, do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from vertebra.errors import UsageError, VertebraError, first_line

Outputs: TypeAlias = tuple[Tensor, Tensor, Tensor]  # logits (N, K), embedding (N, D), features (N, C, h, w)

Call: TypeAlias = tuple[str, nn.Module, Any, Any]  # a module's path, itself, its arguments, its output


class ObservedNetwork(nn.Module):
    """Any classifier: (N, 3, H, W) → logits, embedding, features.

    The embedding is the input of the last linear layer, and the features are the map that is averaged before it.
    Without such a layer, the embedding is the mean of the last feature map; without feature maps, the features are
    the embedding as a 1 × 1 map.
    """

    def __init__(self, network: nn.Module, size: int) -> None:
        super().__init__()
        self.network = network
        self.num_classes = 0
        self.linear: str | None = None  # path of the layer that returns the logits
        self.map: tuple[str, str] | None = None  # a path, and whether its "input" or its "output" is the feature map
        self._locate_outputs(size)

    def forward(self, x: Tensor) -> Outputs:
        """(N, 3, H, W) → logits (N, K), embedding (N, D), features (N, C, h, w)."""
        seen: dict[str, Tensor] = {}
        hooks = []
        if self.linear is not None:
            hooks.append(
                self.network.get_submodule(self.linear).register_forward_pre_hook(
                    lambda module, args: seen.update(embedding=args[0])
                )
            )
        if self.map is not None:
            path, side = self.map
            hooks.append(
                self.network.get_submodule(path).register_forward_hook(
                    lambda module, args, output: seen.update(features=args[0] if side == "input" else output)
                )
            )
        try:
            logits = extract_logits(self.network(x))
        finally:
            for hook in hooks:
                hook.remove()
        features, embedding = seen.get("features"), seen.get("embedding")
        if embedding is None:
            embedding = logits if features is None else features.mean((2, 3))
        return logits, embedding, embedding[:, :, None, None] if features is None else features

    def _locate_outputs(self, size: int) -> None:
        """Run the network once to find the layer that returns the logits, and the map that is averaged."""
        calls: list[Call] = []
        hooks = [
            module.register_forward_hook(
                lambda module, args, output, path=path: calls.append((path, module, args, output))
            )
            for path, module in self.network.named_modules()
            if path
        ]
        x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
        try:
            with torch.inference_mode():
                logits = extract_logits(self.network(x))
        except VertebraError:
            raise
        except Exception as error:
            raise UsageError(
                f"the network fails on images of {size} × {size} pixels ({type(error).__name__}: "
                f"{first_line(error)}). It must take them as (N, 3, H, W), and give logits (N, K); another size is "
                "given by preprocessing=."
            ) from error
        finally:
            for hook in hooks:
                hook.remove()
        if logits.ndim != 2 or len(logits) != 2 or not logits.is_floating_point():
            raise UsageError(
                f"the network gives {_describe(logits)} for 2 images; it must give logits (2, K), one number a class. "
                "Export the classifier alone, or wrap it in a module whose forward() returns them."
            )
        self.num_classes = logits.shape[1]
        if self.num_classes > 1 and _are_probabilities(logits):
            raise UsageError(
                "the network gives probabilities, whose sum is 1 for each image, so it ends in a softmax of its own or "
                "in their mean, and the softmax of an exported file takes logits. Return what is before it, or the "
                "logarithm of the probabilities."
            )
        embedding = None
        for path, module, args, output in reversed(calls):
            if isinstance(module, nn.Linear) and _is_same(output, logits) and args[0].ndim == 2:
                self.linear, embedding = path, args[0]
                break
        self.map = _last_map(calls, embedding)


def _last_map(calls: Sequence[Call], embedding: Tensor | None) -> tuple[str, str] | None:
    """Find the map whose mean is the embedding; else one flattened for a linear layer; else the last averaged."""
    made = [(path, output) for path, _, _, output in reversed(calls) if _is_map(output)]
    for path, output in made:
        if embedding is not None and output.shape[1] == embedding.shape[1]:
            mean = output.mean((2, 3))
            if torch.allclose(mean, embedding, rtol=1e-3, atol=1e-4 * float(embedding.abs().max())):
                return path, "output"
    flat = {args[0].shape[1] for _, module, args, _ in calls if isinstance(module, nn.Linear) and args[0].ndim == 2}
    for path, output in made:
        if output[0].numel() in flat:
            return path, "output"
    for path, _, args, output in reversed(calls):
        if args and _is_map(args[0]) and isinstance(output, Tensor) and _is_mean_of(args[0], output):
            return path, "input"
    return None


def _is_map(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 4 and value.shape[0] == 2 and min(value.shape[2:]) > 1


def _is_mean_of(features: Tensor, output: Tensor) -> bool:
    mean = features.mean((2, 3))
    return output.numel() == mean.numel() and torch.allclose(output.flatten(1), mean, rtol=1e-3, atol=1e-5)


def _is_same(output: Any, logits: Tensor) -> bool:
    same = isinstance(output, Tensor) and output.numel() == logits.numel()
    return same and output.data_ptr() == logits.data_ptr()


def _are_probabilities(outputs: Tensor) -> bool:
    return bool((outputs >= 0).all()) and torch.allclose(outputs.sum(1), torch.ones(len(outputs)), atol=1e-4)


def extract_logits(output: Any) -> Tensor:
    """Extract the logits from a network's output; a `UsageError` if it has several parts and none named `logits`."""
    if isinstance(output, Mapping):
        named = output.get("logits")
    else:
        named = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(named, Tensor):
        raise UsageError(
            f"the network gives {_describe(output)}; it must give a tensor of logits (N, K). Wrap it in a module whose "
            "forward() returns them."
        )
    return named


def _describe(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor {tuple(output.shape)} of {output.dtype}"
    if isinstance(output, Mapping):
        return f"a dict of {', '.join(map(repr, output))}"
    if isinstance(output, tuple | list):
        return f"a {type(output).__name__} of {len(output)}"
    return f"a {type(output).__name__}"
