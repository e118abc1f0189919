"""What settings need of a network, photos and processes is refused before anything is computed."""

import pytest

pytest.importorskip("torch")

import torch

from vertebra.errors import UsageError
from vertebra.models import create_model
from vertebra.train import Settings
from vertebra.train.batch_limits import check_photos, check_settings, min_images, smallest_step_size
from vertebra.train.batch_loader import batches_of_epoch

NOTE = "accumulate is 8, and some steps are computed in 3 parts: batch norm needs two images of 32 × 32 pixels in each."


def settings(**values):
    return Settings("x", **{"method": "finetune", "model": "resnet18"} | values)


@pytest.mark.parametrize(
    ("values", "processes", "message"),
    [
        ({"model": "resnet19"}, 1, "Did you mean 'resnet1"),
        ({"dropout": 0.5}, 1, "dropout is 0.5, which would do nothing: resnet18 has no dropout layer"),
        ({"freeze": 9}, 1, "freeze is 9, and the network has 5 stages"),
        ({"model": "vgg11", "image_size": 8}, 1, r"image_size is 8: vgg11 needs .* 32 pixels.*--set image_size=32"),
        ({"batch_size": 1, "image_size": 32}, 1, r"batch_size is 1: batch norm .* 32 × 32 .*--batch-size 2 or more\."),
        ({"batch_size": 3}, 4, r"batch_size is 3, and 4 processes share a step: .*--batch-size 4 or more, or fewer"),
        ({"batch_size": 5, "image_size": 32}, 3, r"two images of 32 × 32 pixels in each\. Take --batch-size 6 or more"),
        ({"image_size": 48, "progressive": 3, "batch_size": 1}, 1, "batch norm needs two images of 48 × 48"),
    ],
)  # fmt: skip
def test_what_is_refused_at_once(values, processes, message):
    with pytest.raises(UsageError, match=message):
        check_settings(settings(**values), processes)


@pytest.mark.parametrize(
    ("values", "processes"),
    [
        ({}, 32), ({"batch_size": 1}, 1), ({"batch_size": 1, "image_size": 64}, 1),
        ({"batch_size": 8, "image_size": 32}, 4),
        ({"dropout": 0.5, "model": "mobilenet_v2"}, 1),
        ({"batch_size": 1, "image_size": 32, "freeze": 5}, 1),
        ({"batch_size": 1, "image_size": 32, "model": "vgg11"}, 1),
        ({"batch_size": 1, "image_size": 32, "method": "scratch"}, 1),  # which keeps the resolution of small pictures
    ],
)  # fmt: skip
def test_what_is_allowed(values, processes):
    check_settings(settings(**values), processes)


@pytest.mark.parametrize("model", ["resnet18", "googlenet", "mobilenet_v2"])
@pytest.mark.parametrize("size", [32, 64])
def test_it_says_what_torch_says(model, size):
    """One image is enough exactly where the network can be trained on one."""
    network = create_model(model, weights=None, num_classes=2)
    found = min_images(network, settings(model=model), size)
    network.train()
    if found == 1:
        network(torch.rand(1, 3, size, size))
    else:
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            network(torch.rand(1, 3, size, size))
    network(torch.rand(2, 3, size, size))


def test_the_network_is_left_as_it_was():
    network = create_model("resnet18", weights=None).eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert check_photos(settings(batch_size=8, accumulate=8), network, 32, 20, 1) == (
        2,
        [NOTE],
    )
    assert check_photos(settings(batch_size=8, accumulate=8), network, 64, 20, 1) == (1, [])
    assert not any(module.training for module in network.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("photos", [1, 5, 9, 24, 1001])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 8, 2000])
def test_the_smallest_step(photos, batch_size):
    batches = batches_of_epoch(torch.zeros(photos).long().numpy(), settings(batch_size=batch_size), 0)
    assert smallest_step_size(photos, batch_size) == min(map(len, batches))


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_that_are_none(seed):
    with pytest.raises(UsageError, match=rf"seed is {seed}; it must be from 0 to 9223372036854775807\."):
        settings(seed=seed)
