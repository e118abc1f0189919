"""What augmentation makes of a picture."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")
import torch
from PIL import Image

from vertebra.card import Preprocessing
from vertebra.pixels import network_pixels
from vertebra.train import Settings
from vertebra.train.augmentation import augment as augmented
from vertebra.train.batch_loader import Sample, TrainPhotos
from vertebra.train.schedule import AugmentationStrength

PREPROCESSING = Preprocessing(32, 36)


def settings(**values):
    return Settings.from_mapping({"data": "x", "method": "scratch", **values}, "test")


def test_without_augmentation_training_sees_what_is_seen_later(photo_files):
    photos = TrainPhotos(photo_files, np.zeros(9, int), settings(augment="none"), PREPROCESSING)
    pixels, label = photos[Sample(3, 0, 0, 0.5)]
    assert label == 0
    np.testing.assert_array_equal(pixels, network_pixels(photo_files[3], PREPROCESSING))


@pytest.mark.parametrize("augment", ["crop", "flip", "trivial", "rand"])
def test_a_place_in_an_epoch_decides_the_pixels(augment, photo_files):
    photos = TrainPhotos(photo_files, np.zeros(9, int), settings(augment=augment, erasing=0.5), PREPROCESSING)
    state = torch.get_rng_state()
    one, again, other = (photos[draw][0] for draw in (Sample(1, 2, 3, 0), Sample(1, 2, 3, 0), Sample(1, 3, 3, 0)))
    assert torch.equal(torch.get_rng_state(), state)  # which belongs to the training step
    assert one.shape == (32, 32, 3)
    assert one.dtype == torch.uint8
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_erasing_fills_with_the_mean():
    picture = Image.new("RGB", (40, 40), (255, 0, 0))
    torch.manual_seed(0)
    pixels = augmented(picture, settings(augment="none", erasing=1.0), PREPROCESSING, AugmentationStrength(32, 9, 0, 1))
    colours = {tuple(colour) for colour in pixels.reshape(-1, 3).tolist()}
    assert colours == {(255, 0, 0), tuple(int(255 * value) for value in PREPROCESSING.mean)}
