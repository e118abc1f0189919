"""What a layer does in its block, and what it is called: keys of the page's texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from vertebra.graph.cost import CONVOLUTIONS, Kind, format_sides
from vertebra.graph.rows import Row

from .layer_grouping import WEIGHTED, Layer, is_addition

Label = dict[str, Any]  # {"key": of a text, "values": of its {names}, "count": how many of them one after the other}

# As people write them; any other is named by its operation.
_FUNCTIONS = {"relu": "ReLU", "relu6": "ReLU6", "silu": "SiLU", "gelu": "GELU", "hardswish": "hard-swish"}
_KEYS = {
    "max_pool2d": "label.max_pool",
    "avg_pool2d": "label.avg_pool",
    "global_avg_pool": "label.global_avg_pool",
    "adaptive_avg_pool2d": "label.adaptive_avg_pool",
    "batch_norm": "label.batch_norm",
    "layer_norm": "label.layer_norm",
    "concat": "label.concatenation",
    "linear": "label.linear",
}
_ROLES = {"concat": "concatenation", "linear": "linear"}
_ARITHMETIC = frozenset({"add", "sub", "mul", "div"})  # with one activation: a constant is the other operand
_KINDS = {Kind.NORM: "norm", Kind.ELEMENTWISE: "activation", Kind.POOL: "pool", Kind.VIEW: "view"}


def operation_role(row: Row) -> str:
    """What one operation does."""
    if row.kind in CONVOLUTIONS:
        return "depthwise" if row.kind is Kind.DEPTHWISE else "conv"
    if is_addition(row):
        return "addition"
    if row.kind is Kind.ELEMENTWISE and (len(row.inputs) > 1 or row.op in _ARITHMETIC):
        return "product" if row.op == "mul" and len(row.inputs) > 1 else "operation"
    return _ROLES.get(row.op) or _KINDS.get(row.kind, "operation")


def label(row: Row) -> list[Label]:
    """What an operation is called, and its stride."""
    values: dict[str, str | int] = {}
    if row.kind in CONVOLUTIONS:
        values["kernel"] = row.detail.partition(",")[0]
        key = "label.depthwise" if row.kind is Kind.DEPTHWISE else "label.conv"
        if row.kind is Kind.GROUPED:
            key, values["groups"] = "label.grouped", row.groups
    elif is_addition(row):
        key = "label.addition"
    elif row.op == "mul" and len(row.inputs) > 1:
        key = "label.product"
    else:
        key = _KEYS.get(row.op, "label.named")
        if key in ("label.max_pool", "label.avg_pool"):
            values["kernel"] = row.detail.partition(",")[0]
        if key == "label.named":
            values["name"] = _FUNCTIONS.get(row.op, row.op)
    words = [{"key": key, "values": values, "count": 1}]
    if (row.kind in CONVOLUTIONS or "kernel" in values) and max(row.stride, default=1) > 1:
        sides = row.stride if len(set(row.stride)) > 1 else row.stride[:1]
        words.append({"key": "label.stride", "values": {"stride": format_sides(sides)}, "count": 1})
    return words


def layer_label(layer: Layer, role: str) -> list[Label]:
    """What a layer is called."""
    if role in ("gate", "input"):
        return [{"key": f"label.{role}", "values": {}, "count": 1}]
    return label(layer.main)


def named(name: str) -> Label:
    """The name of a class, without underscores before it."""
    return {"key": "label.named", "values": {"name": name.lstrip("_")}, "count": 1}


def repeated(labels: Sequence[Label]) -> list[Label]:
    """Equal ones after each other as one, with their count."""
    return [first | {"count": len(list(same))} for first, same in groupby(labels)]


def say(labels: Sequence[Label], texts: Mapping[str, str]) -> str:
    """Labels in words: `"Transition, 12 × DenseLayer"`."""
    words = []
    for each in labels:
        text = texts[each["key"]].format_map(each["values"])
        words.append(f"{each['count']} × {text}" if each["count"] > 1 else text)
    return texts["label.separator"].join(words)


def layer_roles(layers: Sequence[Layer], is_block: bool) -> list[str]:
    """The role of each layer of one block, or of a stage outside of its blocks."""
    return [_role(layer, layers, is_block) for layer in layers]


def _role(layer: Layer, layers: Sequence[Layer], is_block: bool) -> str:
    if layer.is_gate:
        return "gate"
    own = operation_role(layer.main)
    if not is_block or layer.main.kind not in CONVOLUTIONS or own == "depthwise":
        return own
    if _is_shortcut(layer, layers):
        return "shortcut"
    depthwise = next((i for i, each in enumerate(layers) if each.main.kind is Kind.DEPTHWISE), None)
    before = [each for each in layers if each.rows[-1].index in layer.rows[0].inputs]
    after = [each for each in layers if layer.rows[-1].index in each.rows[0].inputs]
    inputs, outputs = layer.main.input_shapes[0][1], layer.main.output_shape[1]
    if layer.main.kind is Kind.POINTWISE:
        if depthwise is not None:
            return "expand" if layers.index(layer) < depthwise else "project"
        if any(_is_spatial(each) for each in after):
            return "reduce"
        if any(_is_spatial(each) for each in before):
            return "expand" if outputs > inputs else "project"
        if any(each.main.kind is Kind.POOL for each in before):
            return "project"
        if any(each.main.kind is Kind.POOL for each in after):
            return "reduce"
    elif outputs > inputs and any(each.main.kind is Kind.POINTWISE for each in after):
        return "fused"
    return own


def _is_spatial(layer: Layer) -> bool:
    return layer.main.kind in CONVOLUTIONS and layer.main.kind is not Kind.POINTWISE


def _is_shortcut(layer: Layer, layers: Sequence[Layer]) -> bool:
    """Whether it is alone between the block's input and an addition whose other side has more layers."""
    within = {row.index: each for each in layers for row in each.rows}
    if any(index in within for index in layer.rows[0].inputs):
        return False
    for each in layers:
        sides = each.main.inputs
        if is_addition(each.main) and layer.rows[-1].index in sides:
            others = [within[index] for index in sides if index in within and within[index] is not layer]
            return any(index in within for other in others for index in other.rows[0].inputs)
    return False


def is_classifier(row: Row, last: Row) -> bool:
    """Whether it is the matrix product whose result the network returns."""
    return row.kind in WEIGHTED and row.index == last.index
