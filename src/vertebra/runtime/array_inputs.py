"""NumPy arrays and torch tensors as images: checks of type, shape and channel order, and undoing of normalisation.

torch is not imported here: a caller that has a tensor has imported it.
"""

from __future__ import annotations

import sys
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vertebra.errors import UsageError, first_line
from vertebra.pixels import Pixels
from vertebra.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

CHANNELS = (1, 3, 4)  # grey, RGB, RGBA

# Fractions of an 8-bit level; float16 rounds by up to a fifth.
_TOLERANCES = {"float16": 0.25, "float32": 0.05, "float64": 0.05}

# Common normalisations, to name the one that was found instead of the file's.
_COMMON_NORMALISATIONS = (((0.5,) * 3, (0.5,) * 3), (IMAGENET_MEAN, IMAGENET_STD), ((127 / 255,) * 3, (128 / 255,) * 3))


class Tensor(Protocol):
    """A torch.Tensor, on whatever device."""

    def detach(self) -> Any:
        """Without gradients."""

    def numpy(self) -> Any:
        """As an array of NumPy."""


def is_tensor(value: object) -> bool:
    """Whether it is a torch tensor."""
    kind = getattr(sys.modules.get("torch"), "Tensor", None)
    return kind is not None and isinstance(value, kind)


def is_array(value: object) -> bool:
    """Whether it is a NumPy array or a torch tensor."""
    return isinstance(value, np.ndarray) or is_tensor(value)


def parse_pixels(value: Any, where: str) -> tuple[list[Pixels], bool]:
    """Parse an array or tensor into images, each uint8 (H, W), (H, W, 3) or (H, W, 4), and whether it is a batch.

    Allowed is uint8: NumPy (H, W), (H, W, C) or (N, H, W, C), torch (H, W), (C, H, W) or (N, C, H, W), where C is 1
    (grey), 3 (RGB) or 4 (RGBA). `where` names it in errors.

    Raises:
        UsageError: the type or shape is not allowed, or the shape is ambiguous.
    """
    _check_dtype(value, where)
    shape, first = tuple(value.shape), is_tensor(value)
    batch = len(shape) == 4
    if len(shape) not in (2, 3, 4):
        raise UsageError(f"{_name(value, where)}; {_allowed_shapes(value)}.")
    _require_channel_order(value, where)
    array = _to_numpy(value, where)
    if len(shape) > 2:
        array = np.moveaxis(array, -3, -1) if first else array
        array = array[..., 0] if array.shape[-1] == 1 else array
    return (list(array) if batch else [array]), batch


def undo_normalisation(value: Any, where: str, preprocessing: Preprocessing) -> tuple[list[Pixels], bool]:
    """Restore the 8-bit pixels of normalised values, each uint8 (S, S, 3); and whether it is a batch.

    An exported file takes 8 bits and normalises them, so the normalisation of `value`, float (3, S, S) or
    (N, 3, S, S), is undone. Each value must be one of the 256 normalised levels. `where` names it in errors.

    Raises:
        UsageError: the type or shape is not allowed, the values are not normalised in this way, or it is ambiguous.
    """
    size, shape = preprocessing.crop_size, tuple(value.shape)
    wanted = f"preprocessed=True is for floats (3, {size}, {size}) or (N, 3, {size}, {size})"
    dtype = _dtype(value)
    if dtype == "bfloat16":
        raise UsageError(
            f"{_name(value, where)}: bfloat16 has too few digits for the 256 levels of a pixel. Normalise in float32."
        )
    if dtype not in _TOLERANCES:
        hint = " Leave preprocessed out for pixels of 8 bits." if dtype == "uint8" else ""
        raise UsageError(f"{_name(value, where)}; {wanted}.{hint}")
    if getattr(value, "requires_grad", False):
        raise UsageError(f"{_name(value, where)} that requires a gradient. Write x.detach().")
    _reject_mask(value, where)
    if len(shape) not in (3, 4) or shape[-3:] != (3, size, size):
        hint = ""
        if shape[-3:] == (size, size, 3):
            hint = f" Its channels are last: write {_permute_code(value, first=True)}."
        elif shape[-3:-2] == (3,):
            hint = f" Resize and crop it to {size} × {size}, as the network's own transforms do."
        raise UsageError(f"{_name(value, where)}; {wanted}.{hint}")
    array = _to_numpy(value, where)
    images = [array] if array.ndim == 3 else list(array)
    _check_values(images, where, preprocessing, value)
    found = [np.rint(_denormalise(image, preprocessing.mean, preprocessing.std)).astype(np.uint8) for image in images]
    return [np.ascontiguousarray(pixels.transpose(1, 2, 0)) for pixels in found], array.ndim == 4


# --- type and order ---------------------------------------------------------------------------------------------------


def _dtype(value: Any) -> str:
    return str(value.dtype).removeprefix("torch.")


def _name(value: Any, where: str) -> str:
    kind = "torch tensor" if is_tensor(value) else "NumPy array"
    return f"{where} is a {kind} {_dtype(value)} {tuple(value.shape)}"


def _allowed_shapes(value: Any) -> str:
    shapes = "(H, W), (C, H, W) or (N, C, H, W)" if is_tensor(value) else "(H, W), (H, W, C) or (N, H, W, C)"
    return f"allowed is uint8 {shapes}, where C is 1 (grey), 3 (RGB) or 4 (RGBA)"


def _scale_code(value: Any) -> str:
    """Code that converts values from 0 to 1 to uint8."""
    return "(x * 255).round().byte()" if is_tensor(value) else '(x * 255).round().astype("uint8")'


def _cast_code(value: Any) -> str:
    return "x.byte()" if is_tensor(value) else 'x.astype("uint8")'


def _permute_code(value: Any, *, first: bool) -> str:
    """Code that moves the channels to the front (`first`) or to the end."""
    batch = value.ndim == 4
    order = {(False, True): "2, 0, 1", (False, False): "1, 2, 0", (True, True): "0, 3, 1, 2"}.get((batch, first))
    return f"x.{'permute' if is_tensor(value) else 'transpose'}({order or '0, 2, 3, 1'})"


def _check_dtype(value: Any, where: str) -> None:
    dtype = _dtype(value)
    _reject_mask(value, where)
    if dtype == "uint8":
        return
    if "float" in dtype:
        raise UsageError(
            f"{_name(value, where)}, and how floats were scaled cannot be known. Give uint8 from 0 to 255, which is "
            f"{_scale_code(value)} where they are from 0 to 1; or preprocessed=True where they are normalised as this "
            "network's own transforms do it."
        )
    hint = ""
    if dtype.startswith(("int", "uint")):
        hint = f" Where its values are from 0 to 255, write {_cast_code(value)}."
        if dtype == "uint16" and value.ndim == 2 and not is_tensor(value):
            hint += " Where they are 16 bits of grey, write PIL.Image.fromarray(x)."
    raise UsageError(f"{_name(value, where)}; {_allowed_shapes(value)}.{hint}")


def _reject_mask(value: Any, where: str) -> None:
    if isinstance(value, np.ma.MaskedArray):
        raise UsageError(f"{_name(value, where)} with a mask, which would be ignored. Write x.filled(255) or x.data.")


def _require_channel_order(value: Any, where: str) -> None:
    """Reject channels on the wrong axis, and shapes where either axis may be the channels."""
    shape, first = tuple(value.shape)[-3:], is_tensor(value)
    if len(shape) == 2:
        return
    here, there = (shape[0], shape[-1]) if first else (shape[-1], shape[0])
    if here in CHANNELS and there not in CHANNELS:
        return
    what = _name(value, where)
    if here not in CHANNELS and there in CHANNELS:
        ends = ("last", "first") if first else ("first", "last")
        raise UsageError(
            f"{what}, whose channels are {ends[0]}; a {'torch tensor' if first else 'NumPy array'} has them {ends[1]}. "
            f"Write {_permute_code(value, first=first)}."
        )
    if here in CHANNELS:
        array = "x.numpy()" if first else "x"
        each = "For each image of the batch write" if value.ndim == 4 else "Write"
        raise UsageError(
            f"{what}, whose channels may be first or last. {each} PIL.Image.fromarray({array}) where they are last, "
            f"PIL.Image.fromarray({array}.transpose(1, 2, 0)) where they are first."
        )
    hint = ""
    if value.ndim == 3:
        hint = " Where it is several images of grey, give a list of them: list(x)."
    raise UsageError(f"{what}; {_allowed_shapes(value)}.{hint}")


def _to_numpy(value: Any, where: str) -> NDArray[Any]:
    if not is_tensor(value):
        return np.asarray(value)
    try:
        array: NDArray[Any] = value.detach().cpu().numpy()
    except (TypeError, RuntimeError) as error:  # it is sparse, quantised, or has no values at all
        raise UsageError(f"{_name(value, where)} that has no plain values ({first_line(error)}).") from error
    return array


# --- values -----------------------------------------------------------------------------------------------------------


def _denormalise(image: NDArray[Any], mean: tuple[float, ...], std: tuple[float, ...]) -> NDArray[np.float64]:
    """Normalised (3, H, W) → 0 to 255."""
    middle, scale = (np.reshape(np.array(each, np.float64), (-1, 1, 1)) for each in (mean, std))
    return np.asarray((image.astype(np.float64) * scale + middle) * 255.0)


def _are_levels(images: list[NDArray[Any]], mean: tuple[float, ...], std: tuple[float, ...]) -> bool:
    """Whether all values are normalised integers from 0 to 255."""
    tolerance = _TOLERANCES[str(images[0].dtype)]
    for image in images:
        levels = _denormalise(image, mean, std)
        whole = np.rint(levels)
        if whole.min() < 0 or whole.max() > 255 or np.abs(levels - whole).max() > tolerance:
            return False
    return True


def _check_values(images: list[NDArray[Any]], where: str, preprocessing: Preprocessing, value: Any) -> None:
    """Reject values that are not normalised pixels, or may be plain ones."""
    if not images:
        return
    if not all(np.isfinite(image).all() for image in images):
        raise UsageError(f"{where} has values that are NaN or infinite.")
    mean, std = preprocessing.mean, preprocessing.std
    own = f"(x - mean) / std with the mean {_format(mean)} and the std {_format(std)}, x from 0 to 1"
    fits = _are_levels(images, mean, std)
    for scale, hint in (((1.0,), _scale_code(value)), ((1 / 255,), _cast_code(value))):
        if (mean, std) == ((0.0,) * len(mean), scale * len(std)) or not _are_levels(images, (0.0,), scale):
            continue
        plain = f"pixels from 0 to {'1' if scale == (1.0,) else '255'} that are not normalised"
        state = f"either is normalised or has {plain}, which its values do not tell" if fits else f"has {plain}"
        raise UsageError(f"{where} {state}. Give it as uint8 without preprocessed: {hint}. Normalised is {own}.")
    if fits:
        return
    for other in _COMMON_NORMALISATIONS:
        if _are_levels(images, *other):
            raise UsageError(
                f"{where} is normalised with the mean {_format(other[0])} and the std {_format(other[1])}. This "
                f"network takes {own}."
            )
    low, high = min(float(image.min()) for image in images), max(float(image.max()) for image in images)
    all_levels = [_denormalise(image, mean, std) for image in images]
    if any(np.rint(levels).min() < 0 or np.rint(levels).max() > 255 for levels in all_levels):
        raise UsageError(
            f"{where} has values from {low:.3g} to {high:.3g}, which the normalisation does not give: {own}."
        )
    farthest = max(float(np.abs(levels - np.rint(levels)).max()) for levels in all_levels)
    guess = " They may be from 0 to 1 and not normalised." if low >= 0 and high <= 1 else ""
    raise UsageError(
        f"{where} has values up to {farthest:.2f} of a level between two of the 256 levels of a pixel, as after floats "
        f"are resized or augmented.{guess} An exported file takes 8 bits: resize before scaling, or round to uint8 and "
        f"leave preprocessed out. Normalised is {own}."
    )


def _format(values: tuple[float, ...]) -> str:
    shown = [f"{value:.4g}" for value in values]
    return shown[0] if len(set(shown)) == 1 else f"({', '.join(shown)})"
