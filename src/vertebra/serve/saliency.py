"""Heat-maps of a class over a photo: their values, and a picture of them.

Where the classes are one linear layer over the mean of the last feature maps, the logit of a class is itself a mean
over places, and each place's share of it is known exactly: the class activation map of Zhou et al.,
https://arxiv.org/abs/1512.04150. Where they are not (VGG), parts of the photo are occluded one after another, and the
map is how much log-probability the class loses: Zeiler and Fergus, https://arxiv.org/abs/1311.2901.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vertebra.card import Preprocessing
from vertebra.graph.onnx_reader import Array, OnnxFile, OnnxNode
from vertebra.pixels import Pixels
from vertebra.preprocessing import centre_crop_box, middle_of_strip, resized_size

Map = NDArray[np.float32]

MAX_SIDE = 1024  # pixels of the picture that comes back
GRID = 7  # places that are occluded, in each direction
_COVER = 1.6  # side of the occluded square, in steps of the grid

# How far the numbers may be from those of the graph for its classifier to count as understood: int8 rounds.
_TOLERANCE = 0.03

# Cold to hot, as RGB; dark ends that read on bright and on dark photos, and distinguishable for the colour-blind.
_COLOURS = np.array([(13, 8, 135), (126, 3, 168), (204, 71, 120), (248, 149, 64), (240, 249, 33)], np.float32)


def find_classifier(graph: OnnxFile) -> Map | None:
    """The weight (K, D) of the one linear layer between embedding and softmax; None where there is none."""
    node = graph.maker.get("probabilities")
    if node is None or node.kind != "Softmax":
        return None
    node = _before(graph, node.inputs[0])
    # A temperature divides the logits, and MatMul leaves the bias to an Add.
    while node is not None and node.kind in ("Div", "Mul", "Add"):
        computed = [name for name in node.inputs if not _constant(graph, name)]
        if len(computed) != 1:
            return None
        node = _before(graph, computed[0])
    if node is None or node.kind not in ("Gemm", "MatMul") or _origin(graph, node.inputs[0]) != "embedding":
        return None
    weight = _values(graph, node.inputs[1])
    if weight is None or weight.ndim != 2:
        return None
    if node.kind == "MatMul" or not node.attributes.get("transB"):
        weight = weight.T
    return np.ascontiguousarray(weight, np.float32)


def is_mean_pooled(weight: Map, features: Array, embedding: Array) -> bool:
    """Whether the embedding is the mean of the feature maps, as the activation map needs: (K, D), (C, h, w), (D,)."""
    if features.ndim != 3 or not features.shape[0] == embedding.shape[0] == weight.shape[1]:
        return False
    mean = features.mean((1, 2))
    return bool(np.abs(mean - embedding).max() <= _TOLERANCE * max(1e-6, float(np.abs(embedding).max())))


def activation_map(weight: Map, features: Map, index: int) -> Map:
    """(K, D), (C, h, w) → (h, w): what each place adds to the logit of a class."""
    found: Map = np.tensordot(weight[index], features, 1)
    return found


def _origin(graph: OnnxFile, name: str) -> str:
    """The tensor before its rounding to 8 bits."""
    while (node := graph.maker.get(name)) is not None and name != "embedding":
        if node.kind not in ("QuantizeLinear", "DequantizeLinear", "Identity"):
            return name
        name = node.inputs[0]
    return name


def _before(graph: OnnxFile, name: str) -> OnnxNode | None:
    return graph.maker.get(_origin(graph, name))


def _constant(graph: OnnxFile, name: str) -> bool:
    return name in graph.tensors or _origin(graph, name) in graph.tensors


def _values(graph: OnnxFile, name: str) -> Array | None:
    """A weight in float, also where it is kept as integers with a scale for each row."""
    if name in graph.tensors:
        return graph.read(name)
    node = graph.maker.get(name)
    if node is None or node.kind != "DequantizeLinear" or node.inputs[0] not in graph.tensors:
        return None
    integers, scale = graph.read(node.inputs[0]).astype(np.float32), graph.read(node.inputs[1])
    zero = graph.read(node.inputs[2]).astype(np.float32) if len(node.inputs) > 2 else np.zeros_like(scale)
    if scale.ndim == 1 and scale.size > 1:
        shape = [1] * integers.ndim
        shape[node.attributes.get("axis", 1)] = -1
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    floats: Array = (integers - zero) * scale
    return floats


def occluded(pixels: Pixels) -> list[Pixels]:
    """The network's input with one place after another occluded by its mean colour: GRID × GRID of them, by rows."""
    side = pixels.shape[0]
    mean = pixels.reshape(-1, 3).mean(0).round().astype(np.uint8)
    reach = _COVER * side / GRID / 2
    found = []
    for row in range(GRID):
        for column in range(GRID):
            top, left = ((place + 0.5) * side / GRID - reach for place in (row, column))
            bottom, right = top + 2 * reach, left + 2 * reach
            copy = pixels.copy()
            copy[max(0, round(top)) : round(bottom), max(0, round(left)) : round(right)] = mean
            found.append(copy)
    return found


def occlusion_map(whole: float, parts: list[float]) -> Map:
    """What the class loses where each place is covered: (GRID, GRID), in differences of log-probabilities."""
    values = np.log(np.maximum([whole, *parts], 1e-9))
    found: Map = (values[0] - values[1:]).reshape(GRID, GRID).astype(np.float32)
    return found


def shrunk(picture: Image.Image) -> Image.Image:
    """A picture of at most MAX_SIDE pixels in each direction."""
    factor = MAX_SIDE / max(picture.size)
    if factor >= 1:
        return picture
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)


def crop_box(height: int, width: int, preprocessing: Preprocessing) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the network's crop, as shares of the picture's sides; may reach outside."""
    x, y, x_end, y_end = middle_of_strip(width, height)
    high, wide = resized_size(y_end - y, x_end - x, preprocessing.resize_size)
    left, top, right, bottom = centre_crop_box(high, wide, preprocessing.crop_size)
    across, down = (x_end - x) / wide, (y_end - y) / high  # pixels of the picture for one of the resized
    return (
        (x + left * across) / width,
        (y + top * down) / height,
        (x + right * across) / width,
        (y + bottom * down) / height,
    )


def draw(heat: Map, picture: Image.Image, box: tuple[float, float, float, float], *, overlay: bool) -> bytes:
    """A PNG of the picture's size: the heat over the network's crop, on the picture or on nothing.

    Args:
        heat: (h, w); what is not above 0 is evidence against the class, or none, and stays cold.
        picture: RGB.
        box: the crop, in shares of the sides.
        overlay: on the picture; else transparent where it is cold and outside the crop.
    """
    width, height = picture.size
    left, top, right, bottom = (round(share * side) for share, side in zip(box, (width, height) * 2, strict=True))
    heat = np.maximum(heat, 0)
    highest = float(heat.max())
    if highest > 0:
        heat = heat / highest
    size = (max(1, right - left), max(1, bottom - top))
    smooth = Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    canvas = Image.new("F", picture.size)
    canvas.paste(smooth, (left, top))  # the crop of a small picture reaches outside of it
    values = np.asarray(canvas).clip(0, 1)
    steps = values * (len(_COLOURS) - 1)
    colours = np.stack([np.interp(steps, range(len(_COLOURS)), _COLOURS[:, i]) for i in range(3)], -1)
    if overlay:
        strength = (0.7 * values)[..., None]
        result = np.asarray(picture, np.float32) * (1 - strength) + colours * strength
        image = Image.fromarray(result.round().astype(np.uint8))
    else:
        alpha = (255 * values)[..., None]
        image = Image.fromarray(np.concatenate([colours, alpha], -1).round().astype(np.uint8))
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)
    return out.getvalue()
