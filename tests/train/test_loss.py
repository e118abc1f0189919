"""The loss of a step, and the images that it is of."""

import math

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")
import torch

from vertebra.card import Preprocessing
from vertebra.models.googlenet import GoogLeNetOutputs
from vertebra.pixels import network_pixels
from vertebra.train import Settings
from vertebra.train.loss import Loss, to_images

PREPROCESSING = Preprocessing(32, 36)


def settings(**values):
    return Settings.from_mapping({"data": "x", "method": "scratch", **values}, "test")


def test_auxiliary_losses_weigh_three_tenths():
    labels = torch.tensor([0, 1])
    loss = Loss(settings(label_smoothing=0.0), np.array([0, 1]), 2, torch.device("cpu"))
    even = torch.zeros(2, 2)
    assert loss(even, labels).item() == pytest.approx(2 * math.log(2))
    three = GoogLeNetOutputs(even, even, even)
    assert loss(three, labels).item() == pytest.approx(1.6 * 2 * math.log(2))


def test_rare_classes_weigh_more():
    labels = np.array([0] * 9 + [1])
    loss = Loss(settings(balance="loss", label_smoothing=0.0), labels, 2, torch.device("cpu"))
    even = torch.zeros(10, 2)
    assert loss(even, torch.from_numpy(labels)).item() == pytest.approx(10 * math.log(2), rel=1e-5)
    assert loss.weight[1] / loss.weight[0] == pytest.approx(9)


@pytest.mark.parametrize("options", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_mixing(options):
    chosen = settings(**options)
    loss = Loss(chosen, np.arange(4), 4, torch.device("cpu"))
    torch.manual_seed(1)
    images, targets = loss.mix(torch.rand(4, 3, 8, 8), torch.arange(4), chosen.mixup)
    assert images.shape == (4, 3, 8, 8)
    assert torch.allclose(targets.sum(1), torch.ones(4))
    assert targets.shape == (4, 4)
    assert loss(torch.zeros(4, 4), targets).item() == pytest.approx(4 * math.log(4))


def test_images_equal_those_of_the_preset(photo_files):
    from vertebra.decoding import open_image
    from vertebra.models._preset import ImageClassification

    pixels = torch.from_numpy(network_pixels(photo_files[0], PREPROCESSING).copy()).unsqueeze(0)
    found = to_images(pixels, PREPROCESSING)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found[0], ImageClassification(PREPROCESSING)(open_image(photo_files[0])))
