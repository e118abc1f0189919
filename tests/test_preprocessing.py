"""The record of how photos are prepared: its spellings, its checks, and that of torchvision's and timm's networks."""

import copy
import pickle
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vertebra
from vertebra.card import Card
from vertebra.errors import UsageError
from vertebra.pixels import resize_and_crop
from vertebra.preprocessing import Decoding, Preprocessing, timm_config


def test_it_is_public_and_is_the_card_s() -> None:
    assert vertebra.Preprocessing is Preprocessing
    found = vertebra.Preprocessing(size=96, resize=110, interpolation="bicubic", mean=0.5, std=[0.25, 0.5, 1])
    assert found == Preprocessing(96, 110, "bicubic", (0.5,) * 3, (0.25, 0.5, 1.0), Decoding())
    for same in (copy.deepcopy(found), pickle.loads(pickle.dumps(found)), replace(found), Preprocessing(**vars(found))):
        assert same == found and hash(same) == hash(found)
    card = Card("mine", found)
    assert Card.from_json(card.to_json()) == card
    assert list(asdict(found)) == [
        *("crop_size", "resize_size", "interpolation", "mean", "std", "decoding", "crop_mode")
    ]


@pytest.mark.parametrize(("size", "resize"), [(224, 256), (64, 73), (299, 342), (480, 549)])
def test_without_a_resize_the_usual_share_is_kept(size: int, resize: int) -> None:
    assert Preprocessing(size=size).resize_size == resize


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"needs the side of the network's input: Preprocessing\(size=224"),
        ({"size": 0}, r"size is 0; it is a side in pixels"),
        ({"size": 224.0}, r"size is 224\.0"),
        ({"size": True}, r"size is True"),
        ({"size": 224, "crop_size": 224}, r"size is 224 and crop_size 224; both mean the same"),
        ({"size": 224, "resize": 256, "crop_pct": 0.9}, r"crop_pct is 0\.9 and resize 256"),
        ({"size": 224, "crop_pct": 90}, r"crop_pct is 90; it is the share"),
        ({"size": 224, "interpolation": "bicubik"}, r"Did you mean 'bicubic'"),
        ({"size": 224, "interpolation": "lanczos"}, r"'lanczos'; allowed are nearest, bilinear, bicubic"),
        ({"size": 224, "crop_mode": "border"}, r"crop_mode is 'border'; allowed are center and squash"),
        ({"size": 224, "mean": "0.5"}, r"mean is '0\.5'; give three numbers"),
        ({"size": 224, "mean": ()}, r"mean is \(\)"),
        ({"size": 224, "std": (0.5, float("nan"), 0.5)}, r"std is \(0\.5, nan, 0\.5\)"),
        ({"size": 224, "std": 0}, r"no channel can be divided by 0"),
    ],
)
def test_what_cannot_be_meant(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Preprocessing(**arguments)


# --- of other libraries ----------------------------------------------------------------------------------------------


def picture(width: int, height: int) -> Image.Image:
    random = np.random.default_rng(width * height)
    small = Image.fromarray(random.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


SIZES = [(500, 333), (333, 500), (257, 256), (64, 61), (31, 97)]


@pytest.mark.parametrize(
    "name",
    ["ResNet50_Weights.IMAGENET1K_V2", "Swin_T_Weights.DEFAULT", "ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1"],
)
def test_torchvision_s_weights_give_torchvision_s_pixels(name: str) -> None:
    models = pytest.importorskip("torchvision.models", reason="torchvision is the oracle")
    weights = models.get_weight(name)
    preprocessing = Preprocessing.from_weights(weights)
    assert Preprocessing.from_weights(weights.transforms()) == preprocessing
    for size in SIZES:
        wanted = weights.transforms()(picture(*size)).numpy()
        np.testing.assert_allclose(normalised(picture(*size), preprocessing), wanted, rtol=0, atol=3e-6)
        assert np.array_equal(resize_and_crop(picture(*size), preprocessing), to_bytes(wanted, preprocessing))


@pytest.mark.parametrize(
    "config",
    [
        {"input_size": (3, 224, 224), "crop_pct": 0.875, "interpolation": "bilinear"},
        {"input_size": (3, 224, 224), "crop_pct": 0.9, "mean": (0.5,) * 3, "std": (0.5,) * 3},  # 248, not 249
        {"input_size": (3, 160, 160), "crop_pct": 0.95, "interpolation": "bicubic", "crop_mode": "center"},
        {"input_size": (3, 96, 96), "crop_pct": 1.0, "interpolation": "nearest"},
        {"input_size": (3, 96, 96), "crop_pct": 1.0, "interpolation": "bicubic", "crop_mode": "squash"},
        {"input_size": (3, 96, 96), "crop_pct": 0.9, "interpolation": "bilinear", "crop_mode": "squash"},
        {"input_size": (3, 240, 240), "crop_pct": None, "interpolation": "", "mean": None},
    ],
)
def test_timm_s_config_gives_timm_s_pixels(config: dict[str, Any]) -> None:
    data = pytest.importorskip("timm.data", reason="timm is the oracle")
    model = SimpleNamespace(pretrained_cfg=config)
    preprocessing = Preprocessing.from_timm(model)
    transform = data.create_transform(**data.resolve_data_config({}, model=model))
    for size in SIZES:
        wanted = transform(picture(*size)).numpy()
        np.testing.assert_allclose(normalised(picture(*size), preprocessing), wanted, rtol=0, atol=3e-6)
        assert np.array_equal(resize_and_crop(picture(*size), preprocessing), to_bytes(wanted, preprocessing))


def normalised(image: Image.Image, preprocessing: Preprocessing) -> Any:
    mean, std = (np.asarray(v, np.float32)[:, None, None] for v in (preprocessing.mean, preprocessing.std))
    return (resize_and_crop(image, preprocessing).transpose(2, 0, 1).astype(np.float32) / 255 - mean) / std


def to_bytes(values: Any, preprocessing: Preprocessing) -> Any:
    """The pixels that were normalised."""
    mean, std = (np.asarray(v)[:, None, None] for v in (preprocessing.mean, preprocessing.std))
    return ((values * std + mean) * 255).round().astype(np.uint8).transpose(1, 2, 0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"input_size": (3, 224, 224), "crop_mode": "border"}, r"crop_mode 'border'.*Preprocessing\(size="),
        ({"input_size": (3, 224, 320)}, r"input_size \(3, 224, 320\).*square RGB"),
        ({"input_size": (1, 28, 28)}, r"input_size \(1, 28, 28\)"),
        ({"input_size": (3, 224, 224), "interpolation": "lanczos"}, r"interpolation 'lanczos'"),
    ],
)
def test_what_is_not_done_here_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Preprocessing.from_timm(SimpleNamespace(default_cfg=config))


def test_what_says_nothing_is_refused() -> None:
    assert timm_config(object()) is None and timm_config({"a": 1}) is None
    with pytest.raises(UsageError, match=r"a object has no pretrained_cfg"):
        Preprocessing.from_timm(object())
    for nothing in ("ResNet50_Weights.DEFAULT", object(), SimpleNamespace(transforms=lambda: None)):
        with pytest.raises(UsageError, match=r"has no preprocessing to read"):
            Preprocessing.from_weights(nothing)
