"""What preparing decides of a photo."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")
from vertebra.card import Decoding, Preprocessing
from vertebra.errors import UsageError
from vertebra.train import Settings
from vertebra.train.prepare import run_preprocessing


def settings(**values):
    return Settings.from_mapping({"data": "x", "method": "scratch", **values}, "test")


def test_what_the_network_sees_of_a_photo():
    published = Preprocessing(224, 256, interpolation="bicubic")
    for values, size, expected in (
        ({}, None, (224, 224)),
        ({"crop_pct": 0.875}, None, (224, 256)),
        ({"preset": "resnet"}, 192, (192, 219)),
        ({"preset": "resnet"}, 32, (32, 32)),  # small pictures are seen whole
    ):
        found = run_preprocessing(settings(**values), published, size)
        assert (found.crop_size, found.resize_size) == expected
        assert found.interpolation == "bicubic"
        assert found.crop_mode == "center", "random crops of training keep about the aspect ratio"
    assert run_preprocessing(settings(bits=12), published).decoding == Decoding(bits=12)
    with pytest.raises(UsageError, match=r"crop_pct is 1\.5; it must be from 0\.1 to 1"):
        settings(crop_pct=1.5)


def test_the_probe_of_many_photos_gets_them_whole():
    published = Preprocessing(224, 256, interpolation="bicubic")
    for values, expected in (
        ({}, (224, "squash")),
        ({"crop_mode": "center"}, (224, "center")),
        ({"crop_pct": 0.875}, (256, "center")),  # timm's name of the share that is cut out of the middle
        ({"crop_pct": 0.875, "crop_mode": "squash"}, (256, "squash")),
    ):
        found = run_preprocessing(settings(method="probe", **values), published, photos=2000)
        assert (found.resize_size, found.crop_mode) == expected
    assert run_preprocessing(settings(method="probe"), published, photos=1999).crop_mode == "center"
    assert run_preprocessing(settings(method="finetune"), published, photos=2000).crop_mode == "center"
    assert run_preprocessing(settings(method="finetune", crop_mode="squash"), published).crop_mode == "squash"
    with pytest.raises(UsageError, match=r"no crop_mode 'border'"):
        settings(method="probe", crop_mode="border")
