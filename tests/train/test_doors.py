"""Whichever door a photo comes in by, a network sees the same pixels of it, bit for bit."""

import importlib.util
import io
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from PIL import Image

from vertebra.card import Decoding, Preprocessing
from vertebra.data import Dataset, Photo
from vertebra.decoding import decode
from vertebra.models._preset import ImageClassification
from vertebra.pixels import network_pixels, resize_and_crop
from vertebra.runtime.predictor import Predictor
from vertebra.serve.image_decoding import network_input
from vertebra.train import Settings
from vertebra.train.batch_loader import Sample, TrainPhotos
from vertebra.train.dataset_features import infer_dataset

PREPROCESSING = Preprocessing(48, 56, "bicubic", (0.0,) * 3, (1.0,) * 3)
SIZE = (90, 70)


def noise(mode):
    values = np.random.default_rng(0).integers(0, 256, (SIZE[1] // 5, SIZE[0] // 5, 4), dtype=np.uint8)
    picture = Image.fromarray(values).resize(SIZE, Image.Resampling.BICUBIC)
    if mode == "RGBA":
        return picture
    if mode == "I;16":
        return Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 16)
    if mode in ("I", "F"):
        return Image.fromarray(np.asarray(picture.convert("L")).astype({"I": np.int32, "F": np.float32}[mode]) * 100)
    if mode == "PA":
        return picture.convert("RGB").quantize(32).convert("PA")
    return picture.convert("LA").convert("LA") if mode == "LA" else picture.convert("RGB").convert(mode)


def clear(picture):
    picture.putalpha(0)
    return picture


def marked(picture):
    picture.paste((10, 20, 30), (30, 20, 60, 50))
    return picture


def exif(orientation):
    found = Image.Exif()
    found[0x0112] = orientation
    return found


PHOTOS = {
    "rgb.png": (lambda: noise("RGB"), {}),
    "rgb.jpg": (lambda: noise("RGB"), {}),
    "grey.jpg": (lambda: noise("L"), {}),
    "cmyk.jpg": (lambda: noise("CMYK"), {}),
    "cmyk.tif": (lambda: noise("CMYK"), {}),
    "ycbcr.tif": (lambda: noise("YCbCr"), {}),
    "lab.tif": (lambda: noise("LAB"), {}),
    "line.png": (lambda: noise("1"), {}),
    "alpha.png": (lambda: noise("RGBA"), {}),
    "alpha.webp": (lambda: noise("RGBA"), {"lossless": True}),
    "grey alpha.png": (lambda: noise("LA"), {}),
    "clear.png": (lambda: clear(noise("RGBA")), {}),
    "clear.tga": (lambda: clear(noise("RGBA")), {}),
    "palette.png": (lambda: noise("P"), {}),
    "palette.gif": (lambda: noise("P"), {"transparency": 3}),
    "key.png": (lambda: marked(noise("RGB")), {"transparency": (10, 20, 30)}),
    "deep.png": (lambda: noise("I;16"), {}),
    "deep.tif": (lambda: noise("I;16"), {"compression": "tiff_lzw"}),
    "deep.jp2": (lambda: noise("I;16"), {}),
    "integers.tif": (lambda: noise("I"), {}),
    "floats.tif": (lambda: noise("F"), {}),
    **{f"turned {n}.jpg": (lambda: noise("RGB"), {"exif": exif(n)}) for n in range(2, 9)},
    "turned.png": (lambda: noise("RGBA"), {"exif": exif(6)}),
    "turned.tif": (lambda: noise("RGB"), {"exif": exif(8)}),
    "turned.webp": (lambda: noise("RGB"), {"exif": exif(5)}),
    "turned.avif": (lambda: noise("RGB"), {"exif": exif(6)}),
    "strip.png": (lambda: noise("RGB").resize((900, 7)), {}),
    "small.png": (lambda: noise("RGB").resize((20, 9)), {}),
    "large.jpg": (lambda: noise("RGB").resize((1200, 900)), {}),
}
if importlib.util.find_spec("pillow_heif") is not None:
    PHOTOS |= {"turned.heic": (lambda: noise("RGBA"), {"exif": exif(6)})}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("doors")
    if "turned.heic" in PHOTOS:
        import pillow_heif

        pillow_heif.register_heif_opener()  # for `Image.save`, and for those who open a picture themselves
    for name, (make, options) in PHOTOS.items():
        make().save(root / name, **options)
    return root


def of_dataset(path, preprocessing):
    """What the probe and the evaluation send through a network."""
    seen = []

    def call(pixels, outputs):
        seen.append(pixels[0])
        return [np.zeros((len(pixels), 1), np.float32)]

    runner = SimpleNamespace(call=call, plan=SimpleNamespace(lanes=1, threads=1, micro_batch=1))
    dataset = Dataset("one", (Photo(path, "a", None),), ("a",), path.parent)
    infer_dataset(dataset, preprocessing, runner, "embedding", task="predicting")
    return seen[0]


def of_training(path, preprocessing):
    settings = Settings.from_mapping({"data": "x", "method": "scratch", "augment": "none"}, "test")
    photos = TrainPhotos([path], np.zeros(1, np.int64), settings, preprocessing)
    return photos[Sample(0, 0, 0, 1.0)][0].numpy()


def of_transforms(source, preprocessing):
    with Image.open(source) as picture:
        found = ImageClassification(preprocessing)(picture) * 255
    return found.round().to(torch.uint8).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("decoding", [Decoding(), Decoding(bits=12), Decoding(rule=1)], ids=str)
@pytest.mark.parametrize("name", PHOTOS)
def test_one_road(folder, tmp_path, monkeypatch, tiny_model, name, decoding):
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path))
    path = folder / name
    preprocessing = Preprocessing(48, 56, "bicubic", (0.0,) * 3, (1.0,) * 3, decoding)
    expected = network_pixels(path, preprocessing)
    data = path.read_bytes()
    predictor = Predictor(tiny_model)
    predictor.preprocessing = preprocessing
    doors = {
        "bytes": network_pixels(data, preprocessing),
        "decode and fit": resize_and_crop(decode(path, decoding=decoding).picture, preprocessing),
        "transforms": of_transforms(path, preprocessing),
        "transforms of an open file": of_transforms(io.BytesIO(data), preprocessing),
        "data set": of_dataset(path, preprocessing),
        "training": of_training(path, preprocessing),
        "prediction": predictor.preprocess(path, name),
        "server": network_input(data, name, preprocessing, 10**8).pixels,
    }
    for door, found in doors.items():
        np.testing.assert_array_equal(found, expected, err_msg=door)


def test_the_table_has_photos_that_pillow_alone_would_show_otherwise(folder):
    """The road matters: most of these differ from a mere conversion to RGB."""
    other = []
    for name in PHOTOS:
        with Image.open(folder / name) as picture:
            plain = resize_and_crop(picture.convert("RGB"), PREPROCESSING)
        if not np.array_equal(plain, network_pixels(folder / name, PREPROCESSING)):
            other.append(name)
    assert {"alpha.png", "clear.tga", "deep.png", "turned 6.jpg", "floats.tif", "key.png"} - set(other) == {"clear.tga"}
