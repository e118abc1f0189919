"""One trunk with heads of different size."""

import numpy as np
import pytest
import torch

from vertebra.lab.pretrained_features import Accuracy, linear_head_accuracy
from vertebra.lab.progress_parts import part_of
from vertebra.lab.small_data import ImageSet
from vertebra.lab.vgg_heads import few_digits, vgg_with_head


def test_the_trunk_is_the_same_and_the_head_is_not():
    pooled, dense = vgg_with_head(None), vgg_with_head(64)
    assert pooled.features.state_dict().keys() == dense.features.state_dict().keys()
    assert [type(layer).__name__ for layer in pooled.classifier] == ["Linear"]
    assert pooled(torch.zeros(2, 3, 12, 12)).shape == dense(torch.zeros(2, 3, 12, 12)).shape == (2, 10)


def test_narrow_layers_begin_with_he_initialisation():
    layer = vgg_with_head(64).classifier[3]
    assert float(layer.weight.detach().std()) == pytest.approx((2 / 64) ** 0.5, rel=0.1)


def test_few_digits_have_margins():
    images = few_digits(0)
    assert images.train.shape == (100, 12, 12, 3) and not images.train[:, :2].any()


def test_features_are_split_as_the_images_are():
    """Of images that are one colour a class a linear head on any features gets all right, if labels stay with them."""
    pixels = np.repeat(np.array([[[[0, 0, 0]]], [[[255, 40, 0]]]], np.uint8), 12, axis=0)
    pixels = np.tile(pixels, (1, 32, 32, 1))
    images = ImageSet("colours", ("a", "b"), pixels, np.repeat([0, 1], 12), np.arange(24), (None,) * 24)
    assert linear_head_accuracy(images, [0, 1], 5) == [Accuracy(train=100, val=100)] * 2


def test_parts_of_a_task_add_up():
    seen = []
    part_of(lambda *call: seen.append(call), 1, 3)("fit", 2, 10)
    part_of(lambda *call: seen.append(call), 1, 3)("read", 2)
    assert seen == [("fit", 12, 30), ("read", 2, None)]
