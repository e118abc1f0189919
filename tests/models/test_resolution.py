"""Networks for small pictures: the first two halvings left out."""

import pytest

torch = pytest.importorskip("torch")

from vertebra.models import create_model  # noqa: E402

NAMES = ("vgg11", "googlenet", "resnet18", "densenet121", "mobilenet_v2", "efficientnet_b0", "efficientnet_v2_s")


@pytest.mark.parametrize("name", NAMES)
def test_small_pictures_keep_four_times_the_resolution(name):
    with torch.device("meta"):
        network = create_model(name, weights=None, num_classes=10)
        before = network.stages
        network.reset_resolution()
        maps = network.eval().forward_stages(torch.empty(2, 3, 32, 32))
    assert maps[-1].shape[2:] == (4, 4)
    for stage, found, old in zip(network.stages, maps, before, strict=True):
        assert found.shape[1:] == (stage.channels, 32 // stage.stride, 32 // stage.stride)
        assert stage.stride == max(1, old.stride // 4)


def test_a_large_first_kernel_is_drawn_anew():
    network = create_model("resnet18", weights=None)
    network.reset_resolution()
    assert network.conv1.weight.shape == (64, 3, 3, 3)
    assert 0.02 < network.conv1.weight.std().item() < 0.2
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 1000)
