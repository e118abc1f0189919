"""The preprocessing of published weights, bit for bit against torchvision's preset."""

from __future__ import annotations

import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as oracle
from torchvision.transforms._presets import ImageClassification as TorchvisionPreset

from vertebra.card import Decoding, Preprocessing
from vertebra.errors import ImageError, UsageError, VertebraWarning
from vertebra.models._preset import ImageClassification
from vertebra.preprocessing import center_crop_box, resized_size

CARD = Preprocessing(crop_size=28, resize_size=32)


def theirs(card: Preprocessing, antialias: bool | None = True) -> TorchvisionPreset:
    mode = InterpolationMode(card.interpolation)
    return TorchvisionPreset(
        crop_size=card.crop_size,
        resize_size=card.resize_size,
        interpolation=mode,
        mean=card.mean,
        std=card.std,
        antialias=antialias,
    )


def assert_same(card: Preprocessing, image: Any, antialias: bool | None = True) -> None:
    untouched = image.clone() if isinstance(image, Tensor) else image.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision warns of antialias=False on pictures
        expected = theirs(card, antialias)(image)
    got = ImageClassification(card, antialias=antialias)(image)
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    assert min(got.shape) == 1 or got.stride() == expected.stride()  # the stride of a single element means nothing
    assert torch.equal(got, expected)
    if isinstance(image, Tensor):
        assert torch.equal(image, untouched)
    else:
        assert image.tobytes() == untouched.tobytes()


def noise(*shape: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


sides = st.integers(1, 80)
cards = st.builds(
    Preprocessing,
    crop_size=st.integers(1, 60),
    resize_size=st.integers(1, 60),
    interpolation=st.sampled_from(["nearest", "bilinear", "bicubic"]),
    mean=st.just((0.485, 0.456, 0.406)) | st.just((127 / 255,) * 3),
    std=st.just((0.229, 0.224, 0.225)) | st.just((128 / 255,) * 3),
)


@settings(max_examples=150, deadline=None)
@given(card=cards, height=sides, width=sides, seed=st.integers(0, 99))
def test_pictures_of_any_shape(card: Preprocessing, height: int, width: int, seed: int) -> None:
    if max(height, width) <= 16 * min(height, width):  # of a longer strip the middle is taken
        assert_same(card, Image.fromarray(noise(height, width, 3, seed=seed), "RGB"))


@settings(max_examples=200, deadline=None)
@given(
    card=cards,
    height=sides,
    width=sides,
    batch=st.sampled_from([(), (1,), (3,)]),
    dtype=st.sampled_from(["uint8", "float32", "float64", "float16", "bfloat16", "int16", "int32", "uint16"]),
    antialias=st.sampled_from([True, True, False, None]),
    channels_last=st.booleans(),
)
def test_tensors_of_any_shape_and_type(
    card: Preprocessing,
    height: int,
    width: int,
    batch: tuple[int, ...],
    dtype: str,
    antialias: bool | None,
    channels_last: bool,
) -> None:
    kind = getattr(torch, dtype)
    values = torch.from_numpy(noise(*batch, 3, height, width))
    image = (values / 255).to(kind) if kind.is_floating_point else values.to(torch.int32).mul(100).to(kind)
    if channels_last:
        image = image.movedim(-3, -1).contiguous().movedim(-1, -3)
    assert_same(card, image, antialias)


@pytest.mark.parametrize("mode", ["L", "P", "1", "I;16", "I", "F", "RGB", "CMYK", "RGBA"])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_every_mode_with_one_mean_for_all_channels(mode: str, interpolation: str) -> None:
    picture = Image.fromarray(noise(50, 70, 3), "RGB")
    if mode == "I;16":
        picture = Image.fromarray(noise(50, 70).astype(np.uint16) * 200)
        assert picture.mode == "I;16"
    elif mode == "P":
        picture = picture.convert("P", palette=Image.Palette.ADAPTIVE)
    else:
        picture = picture.convert(mode)
    card = replace(CARD, interpolation=interpolation, mean=(0.45,), std=(0.23,))
    assert_same(card, picture)
    assert_same(replace(card, crop_size=40), picture)  # filled with black at the sides


@pytest.mark.parametrize("mode", ["RGBA", "CMYK"])
def test_four_channels_with_four_means(mode: str) -> None:
    picture = Image.fromarray(noise(50, 70, 3), "RGB").convert(mode)
    assert_same(replace(CARD, mean=(0.4, 0.5, 0.6, 0.7), std=(0.1, 0.2, 0.3, 0.4)), picture)


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA", "LA", "CMYK", "PA", "YCbCr", "HSV"])
def test_a_picture_of_another_mode_is_turned_to_rgb_where_three_channels_are_wanted(mode: str) -> None:
    picture = Image.fromarray(noise(50, 70, 3), "RGB").convert("L" if mode == "PA" else "RGB").convert(mode)
    untouched = picture.tobytes()
    assert torch.equal(ImageClassification(CARD)(picture), theirs(CARD)(picture.convert("RGB")))
    assert picture.tobytes() == untouched and picture.mode == mode


def test_of_a_strip_the_middle_is_taken() -> None:
    strip = Image.new("RGB", (20_000, 1))
    strip.paste((255, 255, 255), (9_998, 0, 10_002, 1))
    assert ImageClassification(replace(CARD, mean=(0.0,) * 3, std=(1.0,) * 3))(strip).mean() > 0.95


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (256, 256), (224, 300), (1000, 257), (64, 48)])
@pytest.mark.parametrize(
    "card",
    [
        Preprocessing(crop_size=224),
        Preprocessing(crop_size=224, resize_size=232),
        Preprocessing(crop_size=384, resize_size=384, interpolation="bicubic"),
        Preprocessing(crop_size=480, resize_size=480, mean=(0.5,) * 3, std=(0.5,) * 3),
        Preprocessing(224, 256, "bicubic", mean=(127 / 255,) * 3, std=(128 / 255,) * 3),
    ],
    ids=lambda card: f"{card.resize_size}-{card.crop_size}-{card.interpolation}",
)
def test_published_presets_on_photo_sizes(card: Preprocessing, size: tuple[int, int]) -> None:
    pixels = noise(size[1], size[0], 3)
    assert_same(card, Image.fromarray(pixels, "RGB"))
    assert_same(card, torch.from_numpy(pixels).permute(2, 0, 1))
    assert_same(card, torch.from_numpy(pixels).permute(2, 0, 1).float().div(255).unsqueeze(0))


# --- geometry --------------------------------------------------------------------------------------------------------


@given(height=st.integers(1, 9000), width=st.integers(1, 9000), target=st.integers(1, 700))
def test_the_resized_size_is_torchvisions(height: int, width: int, target: int) -> None:
    if target * int(target * max(height, width) / min(height, width)) > 178_956_970:
        with pytest.raises(ImageError):
            resized_size(height, width, target)
    else:
        assert list(resized_size(height, width, target)) == oracle._compute_resized_output_size(
            (height, width), [target]
        )


@given(height=st.integers(1, 40), width=st.integers(1, 40), size=st.integers(1, 40))
def test_the_crop_box_cuts_what_torchvision_cuts(height: int, width: int, size: int) -> None:
    positions = torch.arange(1, height * width + 1).view(1, height, width)
    expected = oracle.center_crop(positions, [size])
    picture = Image.fromarray(positions[0].numpy().astype(np.int32))
    got = np.array(picture.crop(center_crop_box(height, width, size)))
    assert np.array_equal(got, expected[0].numpy())


def test_a_strip_that_would_fill_the_memory_is_refused() -> None:
    with pytest.raises(ImageError, match=r"20000 × 1 pixels; with a shorter side of 256"):
        ImageClassification(Preprocessing(224, mean=(0.5,), std=(0.5,)))(Image.new("RGB", (20000, 1)))
    with pytest.raises(ImageError, match=r"1 × 20000 pixels"):
        ImageClassification(Preprocessing(224))(torch.zeros(3, 20000, 1))
    assert resized_size(1, 2000, 256) == (256, 512_000)


@pytest.mark.parametrize("resize", [28, 32])
def test_squashed_is_what_torchvision_makes_of_both_sides(resize: int) -> None:
    card = replace(CARD, resize_size=resize, crop_mode="squash", mean=(0.0,) * 3, std=(1.0,) * 3)
    random = np.random.default_rng(0)
    for size in ((30, 47), (47, 30), (40, 40)):
        pixels = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        tensor = torch.from_numpy(pixels).permute(2, 0, 1)
        for given_, shown in ((Image.fromarray(pixels), Image.fromarray(pixels)), (tensor, tensor)):
            resized = oracle.resize(shown, [resize, resize], InterpolationMode.BILINEAR, antialias=True)
            expected = oracle.center_crop(resized, [28])
            expected = oracle.pil_to_tensor(expected) if isinstance(expected, Image.Image) else expected
            assert torch.equal(ImageClassification(card)(given_), expected / 255)
        grey = replace(card, mean=(0.0,), std=(1.0,))
        one = Image.fromarray(pixels[..., 0])
        expected = oracle.center_crop(oracle.resize(one, [resize, resize], InterpolationMode.BILINEAR), [28])
        assert torch.equal(ImageClassification(grey)(one), oracle.pil_to_tensor(expected) / 255)


# --- the object ------------------------------------------------------------------------------------------------------


def test_looks_like_torchvisions() -> None:
    for card in (Preprocessing(224), Preprocessing(28, 30, "bicubic", (0.5,), (0.25,))):
        ours, other = ImageClassification(card), theirs(card)
        assert repr(ours) == repr(other)
        for name in ("crop_size", "resize_size", "mean", "std", "antialias"):
            assert getattr(ours, name) == getattr(other, name)
        assert (ours.interpolation.name, ours.interpolation.value) == (
            other.interpolation.name,
            other.interpolation.value,
        )
    text = ImageClassification(Preprocessing(224, 232)).describe()
    assert "resize_size=[232]" in text
    assert "crop_size=[224]" in text
    assert "InterpolationMode.BILINEAR" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"interpolation": "bilinaer"},
            r"'bilinaer'; allowed are nearest, bilinear, bicubic\. Did you mean 'bilinear'",
        ),
        ({"interpolation": "lanczos"}, r"'lanczos'; allowed are"),
        ({"crop_size": 0}, r"crop_size is 0"),
        ({"resize_size": -3}, r"resize_size is -3"),
        ({"std": (0.1, 0.0, 0.1)}, r"std is \(0\.1, 0\.0, 0\.1\)"),
    ],
)
def test_settings_that_are_not_allowed(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ImageClassification(replace(CARD, **change))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("photo.jpg", r"the input is a str; allowed are a PIL image and a tensor.*PIL\.Image\.open"),
        (np.zeros((3, 40, 40), np.uint8), r"the input is a ndarray"),
        (torch.zeros(40, 40), r"shape \(40, 40\)"),
        (torch.zeros(0, 3, 40, 40), r"not empty"),
        (torch.zeros(3, 40, 0), r"not empty"),
        (torch.zeros(1, 40, 40), r"has 1 channel and the preprocessing is for 3"),
        (torch.zeros(2, 4, 40, 40), r"has 4 channels"),
    ],
    # Named by their types: the default would hold addresses, which differ between the processes of one run.
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_inputs_that_are_not_allowed(image: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ImageClassification(CARD)(image)


def test_a_picture_without_pixels_or_cut_short_is_told(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"the picture has no pixels \(0 × 5\)"):
        ImageClassification(CARD)(Image.new("RGB", (0, 5)))
    path = tmp_path / "photo.png"
    Image.fromarray(noise(60, 60, 3), "RGB").save(path)
    path.write_bytes(path.read_bytes()[:3000])
    with Image.open(path) as picture, pytest.raises(ImageError, match=r"photo\.png is damaged or truncated"):
        ImageClassification(CARD)(picture)


def test_a_picture_of_12_bits_in_16_is_told(tmp_path: Path) -> None:
    grey = np.arange(40 * 40, dtype=np.uint16).reshape(40, 40) % 256
    Image.fromarray(grey * 16).save(tmp_path / "deep.png")
    Image.fromarray(grey.astype(np.uint8)).save(tmp_path / "plain.png")
    card = Preprocessing(32, 40)
    with Image.open(tmp_path / "deep.png") as picture:
        with pytest.warns(VertebraWarning, match=r"below 4,096 .*decoding=vertebra\.card\.Decoding\(bits=12\)"):
            dark = ImageClassification(card)(picture)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = ImageClassification(replace(card, decoding=Decoding(bits=12)))(picture)
            ImageClassification(replace(card, decoding=Decoding(bits=16)))(picture)
    with Image.open(tmp_path / "plain.png") as picture:
        expected = ImageClassification(card)(picture)
    assert (found - expected).abs().max() < 0.03 and dark.max() < -1


def test_torchvision_is_not_imported() -> None:
    code = "import sys, vertebra.models._preset; print([m for m in sys.modules if m.startswith('torchvision')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
