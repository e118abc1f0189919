"""Heat-maps of a class over a photo, by class activation or by occlusion.

If the head is global average pooling and one linear layer, the logit of a class is a mean over positions of the last
feature maps: the class activation map of Zhou et al., https://arxiv.org/abs/1512.04150. For other heads (VGG), parts of
the photo are occluded one after another, and the map is the loss of log-probability: Zeiler and Fergus,
https://arxiv.org/abs/1311.2901.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vertebra.card import Preprocessing
from vertebra.graph.onnx_reader import Array, OnnxFile, OnnxNode
from vertebra.pixels import Pixels
from vertebra.preprocessing import center_crop_box, strip_crop_box

Map = NDArray[np.float32]

MAX_SIDE = 1024  # pixels of the returned image
GRID = 7  # occluded positions in each direction
_COVER = 1.6  # side of the occluded square, in grid steps

# Relative difference between the embedding and the mean of the features that int8 rounding may cause.
_TOLERANCE = 0.03

# Low to high, as RGB: readable on bright and dark photos, and for the colour-blind.
_COLOURS = np.array([(13, 8, 135), (126, 3, 168), (204, 71, 120), (248, 149, 64), (240, 249, 33)], np.float32)


def find_classifier(graph: OnnxFile) -> Map | None:
    """The weight (K, D) of the single linear layer between embedding and softmax, or None."""
    node = graph.makers.get("probabilities")
    if node is None or node.kind != "Softmax":
        return None
    node = _find_producer(graph, node.inputs[0])
    # A temperature divides the logits, and after MatMul the bias is an Add.
    while node is not None and node.kind in ("Div", "Mul", "Add"):
        computed = [name for name in node.inputs if not _is_constant(graph, name)]
        if len(computed) != 1:
            return None
        node = _find_producer(graph, computed[0])
    if (
        node is None
        or node.kind not in ("Gemm", "MatMul")
        or _before_quantization(graph, node.inputs[0]) != "embedding"
    ):
        return None
    weight = _read_weight(graph, node.inputs[1])
    if weight is None or weight.ndim != 2:
        return None
    if node.kind == "MatMul" or not node.attributes.get("transB"):
        weight = weight.T
    return np.ascontiguousarray(weight, np.float32)


def is_mean_pooled(weight: Map, features: Array, embedding: Array) -> bool:
    """Whether the embedding (D,) is the mean of the features (C, h, w), which a class activation map requires."""
    if features.ndim != 3 or not features.shape[0] == embedding.shape[0] == weight.shape[1]:
        return False
    mean = features.mean((1, 2))
    return bool(np.abs(mean - embedding).max() <= _TOLERANCE * max(1e-6, float(np.abs(embedding).max())))


def activation_map(weight: Map, features: Map, index: int) -> Map:
    """(K, D), (C, h, w) → (h, w): the contribution of each position to the logit of a class."""
    heat: Map = np.tensordot(weight[index], features, 1)
    return heat


def _before_quantization(graph: OnnxFile, name: str) -> str:
    """The name of the tensor before it was quantized."""
    while (node := graph.makers.get(name)) is not None and name != "embedding":
        if node.kind not in ("QuantizeLinear", "DequantizeLinear", "Identity"):
            return name
        name = node.inputs[0]
    return name


def _find_producer(graph: OnnxFile, name: str) -> OnnxNode | None:
    return graph.makers.get(_before_quantization(graph, name))


def _is_constant(graph: OnnxFile, name: str) -> bool:
    return name in graph.tensors or _before_quantization(graph, name) in graph.tensors


def _read_weight(graph: OnnxFile, name: str) -> Array | None:
    """A weight as floats; an int8 weight is dequantized."""
    if name in graph.tensors:
        return graph.read(name)
    node = graph.makers.get(name)
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


def occlude(pixels: Pixels) -> list[Pixels]:
    """GRID × GRID copies of the network's input, each with one square in its mean colour, row by row."""
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
    """The log-probability that the class loses at each occluded position, (GRID, GRID)."""
    values = np.log(np.maximum([whole, *parts], 1e-9))
    heat: Map = (values[0] - values[1:]).reshape(GRID, GRID).astype(np.float32)
    return heat


def shrink(picture: Image.Image) -> Image.Image:
    """Resize an image to at most MAX_SIDE pixels in each direction."""
    factor = MAX_SIDE / max(picture.size)
    if factor >= 1:
        return picture
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)


def crop_box(height: int, width: int, preprocessing: Preprocessing) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the network's crop as shares of the image's sides; may extend outside it."""
    x, y, x_end, y_end = strip_crop_box(width, height)
    high, wide = preprocessing.resized(y_end - y, x_end - x)
    left, top, right, bottom = center_crop_box(high, wide, preprocessing.crop_size)
    across, down = (x_end - x) / wide, (y_end - y) / high  # pixels of the photo per resized pixel
    return (
        (x + left * across) / width,
        (y + top * down) / height,
        (x + right * across) / width,
        (y + bottom * down) / height,
    )


def draw_heatmap(heat: Map, picture: Image.Image, box: tuple[float, float, float, float], *, overlay: bool) -> bytes:
    """A PNG of the picture's size with the heat over the network's crop.

    Args:
        heat: (h, w); values of 0 and below are not drawn.
        picture: RGB.
        box: the crop, as `crop_box` gives it.
        overlay: draw on the picture; else on a transparent background.
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
    canvas.paste(smooth, (left, top))  # the crop may extend outside a small picture
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
