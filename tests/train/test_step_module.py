"""The module that training steps call."""

import copy

import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")
import torch

from vertebra.train import Settings
from vertebra.train.frozen_stages import TrainedStages
from vertebra.train.optimizer import freeze, set_training
from vertebra.train.step_module import step_module


@pytest.mark.parametrize("family", ["vgg", "googlenet", "resnet", "densenet", "mobilenetv2", "efficientnet"])
def test_what_follows_frozen_stages_is_fused_too(kernels, tiny_network, family):
    settings = Settings("x", method="finetune", freeze=2, speed="fused")
    network = tiny_network(family)
    freeze(network, settings.freeze)
    set_training(network, settings)
    x = torch.randn(4, 3, 64, 64)
    found = []
    for speed in ("eager", "fused"):
        own = copy.deepcopy(network)
        maps = next(own.maps_at(own.prepare_input(x), own.stages[1].name)).detach()
        trained = TrainedStages(own, settings.freeze)
        torch.manual_seed(0)
        outputs = step_module(trained, Settings("x", method="finetune", freeze=2, speed=speed))(maps)
        outputs = outputs if isinstance(outputs, torch.Tensor) else outputs.logits
        outputs.square().sum().backward()
        gradients = [parameter.grad for parameter in own.parameters() if parameter.grad is not None]
        found.append([outputs, *gradients, *own.buffers()])
    for one, other in zip(*found, strict=True):
        scale = one.abs().max().clamp(min=1e-2)
        torch.testing.assert_close(one / scale, other / scale, rtol=1e-3, atol=1e-3)
