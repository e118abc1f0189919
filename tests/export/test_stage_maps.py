"""The first stages in ONNX Runtime give torch's maps, of each image alone."""

import numpy as np
import pytest

pytest.importorskip("torch")
import torch

from vertebra.card import Preprocessing
from vertebra.export.stage_maps import StageMaps
from vertebra.export.torch_check import MAX_RELATIVE_DIFFERENCE
from vertebra.train.frozen_stages import TorchMaps, TrainedStages
from vertebra.train.frozen_views import map_shape, pools_maps
from vertebra.train.loss import to_images

SIZE = 64
PREPROCESSING = Preprocessing(SIZE, SIZE, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))


def test_the_maps_are_torchs_and_the_other_stages_go_on_from_them(tiny_family, tiny_network):
    network = tiny_network(tiny_family)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as after training
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    images = np.random.default_rng(0).integers(0, 256, (9, SIZE, SIZE, 3), np.uint8)
    x = to_images(torch.from_numpy(images), PREPROCESSING)
    with torch.inference_mode():
        expected, logits = network.forward_stages(x), network(x)
    for number, wanted in enumerate(expected, start=1):
        pools = pools_maps(network, number)
        assert pools is (number == len(network.stages) and tiny_family != "vgg")
        wanted = wanted.mean((2, 3), keepdim=True) if pools else wanted
        stage = network.stages[number - 1].name
        maps = StageMaps(network, PREPROCESSING, stage, 2, pools=pools)
        found = maps(images)
        by_torch = TorchMaps(network, PREPROCESSING, stage, torch.device("cpu"), pools=pools)(images)
        np.testing.assert_allclose(by_torch.transpose(0, 3, 1, 2), wanted.numpy(), rtol=1e-4, atol=1e-4)
        assert found.shape[1:] == map_shape(network, number, SIZE)
        scale = float(wanted.abs().max())
        np.testing.assert_allclose(
            found.transpose(0, 3, 1, 2), wanted.numpy(), rtol=0, atol=MAX_RELATIVE_DIFFERENCE * scale
        )
        with torch.inference_mode():
            rest = TrainedStages(network, number)(torch.from_numpy(found).permute(0, 3, 1, 2))
        torch.testing.assert_close(rest, logits, rtol=1e-3, atol=1e-3 * float(logits.abs().max()))
        if number == 1:
            with torch.inference_mode():
                again = StageMaps(network, PREPROCESSING, stage, 1)
            np.testing.assert_array_equal(again(images), found)
            for start in range(len(images)):
                np.testing.assert_array_equal(maps(images[start : start + 1])[0], found[start])


@pytest.mark.parametrize(
    "make",
    [
        lambda network, stage: StageMaps(network, PREPROCESSING, stage, 1),
        lambda network, stage: TorchMaps(network, PREPROCESSING, stage, torch.device("cpu")),
    ],
)
def test_its_version_depends_on_the_weights_of_these_stages(make, tiny_network):
    network = tiny_network("resnet")
    first, *_, last = network.stages

    def version():
        return make(network, first.name).version

    before = version()
    with torch.no_grad():
        network.get_submodule(last.module)[0].conv1.weight.add_(1)
    assert version() == before
    with torch.no_grad():
        network.conv1.weight.add_(1)
    assert version() != before
