"""Networks for small pictures: the first two halvings left out."""

import pytest
import tiny

torch = pytest.importorskip("torch")

from vertebra.models import create_model  # noqa: E402

NAMES = [*tiny.one_of_each(), "efficientnet_b0", "efficientnet_v2_s"]


@pytest.mark.parametrize("name", NAMES)
def test_small_pictures_keep_four_times_the_resolution(name):
    with torch.device("meta"):
        network = create_model(name, weights=None, num_classes=10)
        before = network.stages
        network.reset_resolution()
        maps = network.eval().forward_stages(torch.empty(2, 3, 64, 64))
    assert len(maps) == len(before)
    for stage, found, old in zip(network.stages, maps, before, strict=True):
        assert found.shape[1] == stage.channels
        assert abs(found.shape[2] - 64 / stage.stride) <= 2  # convolutions without padding leave out some pixels
        assert stage.stride == max(1, old.stride // 4)


def test_a_large_first_kernel_is_drawn_anew():
    network = create_model("resnet18", weights=None)
    network.reset_resolution()
    assert network.conv1.weight.shape == (64, 3, 3, 3)
    assert 0.02 < network.conv1.weight.std().item() < 0.2
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 1000)


@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_b0"])
def test_a_dict_of_tensors_alone_leaves_the_resolution_open(name, tmp_path):
    network = create_model(name, num_classes=3)
    network.reset_resolution()
    state, path = network.state_dict(), tmp_path / "small.pth"
    torch.save(state, path)
    kept = create_model(name, weights=path)
    assert kept.hidden_settings["low_resolution"] and not kept.resolution_assumed
    torch.save(dict(state), path)
    bare = create_model(name, weights=path)
    assert bare.resolution_assumed and not bare.hidden_settings["low_resolution"]
    told = create_model(name, weights=path, low_resolution=True)
    assert told.hidden_settings["low_resolution"] and not told.resolution_assumed
    x = torch.rand(1, 3, 32, 32)
    assert torch.equal(told.eval()(x), network.eval()(x))
    torch.save(dict(create_model("resnet18", num_classes=3).state_dict()), path)
    assert not create_model("resnet18", weights=path).resolution_assumed  # its first kernels tell
