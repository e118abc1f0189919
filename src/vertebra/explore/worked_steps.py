"""What follows a sum of products in its layer: batch norm and activation, as numbers that a page can apply to it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vertebra.graph.cost import Kind

from .observation import Observation

_BATCH_NORM = frozenset(
    {"native_batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit", "cudnn_batch_norm"}
)
# Functions of one number, by ATen's name, with what they take besides: name on the page → argument.
_ACTIVATIONS: dict[str, dict[str, str]] = {
    "relu": {},
    "hardtanh": {"low": "min_val", "high": "max_val"},
    "clamp": {"low": "min", "high": "max"},
    "clamp_min": {"low": "min"},
    "silu": {},
    "sigmoid": {},
    "hardswish": {},
    "hardsigmoid": {},
    "tanh": {},
    "leaky_relu": {"slope": "negative_slope"},
}
_NAMES = {"hardtanh": "clip", "clamp": "clip", "clamp_min": "clip"}


def rows_of_chain(observation: Observation, row: int) -> list[int]:
    """A weighted row, and the norms and activations behind it that read nothing else, as far as they are known."""
    rows, readers = observation.structure.rows, observation.structure.readers
    chain = [row]
    while len(following := readers[chain[-1]]) == 1:
        (after,) = following
        if rows[after].inputs != (chain[-1],) or rows[after].kind not in (Kind.NORM, Kind.ELEMENTWISE):
            break
        if step_of(observation, after, channel=0) is None:
            break
        chain.append(after)
    return chain


def step_of(observation: Observation, row: int, channel: int) -> dict[str, Any] | None:
    """A norm or activation at a channel, as {"op": name, …numbers}; None: one that is not a function of one number."""
    op = observation.structure.nodes[row].op
    arguments = observation.values.arguments[row]
    if op in _BATCH_NORM:
        return _batch_norm(arguments, channel)
    if op in _ACTIVATIONS:
        numbers = {name: arguments[argument] for name, argument in _ACTIVATIONS[op].items()}
        if any(isinstance(number, Tensor) for number in numbers.values()):
            return None
        given = {name: None if number is None else real(float(number)) for name, number in numbers.items()}
        return {"op": _NAMES.get(op, op), **({"low": None, "high": None} if op in _NAMES else {}), **given}
    if op == "_prelu_kernel":
        slopes = arguments["weight"].flatten()
        return {"op": "leaky_relu", "slope": real(float(slopes[channel if len(slopes) > 1 else 0]))}
    return None


def _batch_norm(arguments: Mapping[str, Any], channel: int) -> dict[str, Any]:
    x = arguments["input"]
    mean, variance = arguments.get("running_mean"), arguments.get("running_var")
    from_batch = mean is None or variance is None or bool(arguments.get("training", False))
    if mean is None or variance is None or from_batch:  # without running statistics: those of this photo's map
        of_channel = x[:, channel].detach().double()
        numbers = float(of_channel.mean()), float(of_channel.var(correction=0))
    else:
        numbers = float(mean[channel]), float(variance[channel])
    weight, bias = (
        None if arguments[name] is None else real(float(arguments[name][channel])) for name in ("weight", "bias")
    )
    return {
        "op": "batch_norm",
        "mean": real(numbers[0]),
        "var": real(numbers[1]),
        "eps": float(arguments["eps"] if "eps" in arguments else arguments["epsilon"]),
        "weight": weight,
        "bias": bias,
        "from_batch": from_batch,
    }


def real(value: float) -> float | str:
    """A number for JSON: "NaN", "Infinity" and "-Infinity" as JavaScript reads them."""
    if math.isnan(value):
        return "NaN"
    return value if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")


def at_cell(value: Tensor, cell: tuple[int, ...], is_map: bool) -> float:
    """The number at (channel, row, column) of (1, C, H, W), or at (channel, row) of (rows, C)."""
    channel, *position = cell
    if is_map:
        return float(value[(0, channel, *position)])
    return float(value[(*position, channel) if position else (0, channel)])
