"""Networks of any origin: weights, the user's own modules, what they return and take."""

import copy

import pytest
import torch
from torch import nn

from vertebra import Preprocessing
from vertebra.errors import UsageError
from vertebra.explore import explore
from vertebra.explore.exploration import _other_subject
from vertebra.explore.subject import Subject, has_statistics_of_photo, load_subject, use_statistics_of
from vertebra.models import create_model


class Net(nn.Module):
    def __init__(self, channels=3, classes=3, give=lambda x, maps: x):
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3, 2)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, classes)
        self.give = give

    def forward(self, x):
        maps = self.norm(self.conv(x)).relu()
        return self.give(self.fc(maps.mean((2, 3))), maps)


def keys(subject):
    return [note.key for note in subject.notes]


def test_a_module_is_copied_to_float32_in_eval_mode_and_stays_as_it_was():
    net = Net().half().train()
    net.norm.running_mean.fill_(0.5)
    before = copy.deepcopy(net.state_dict())
    subject = load_subject(net)
    assert {p.dtype for p in subject.network.parameters()} == {torch.float32}
    assert not subject.network.training and net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.fc.weight.dtype is torch.float16 and not net._forward_hooks
    assert subject.preprocessing == Preprocessing(224)
    assert keys(subject) == ["note.assumed.preprocessing", "note.assumed.classes"]
    assert not subject.is_untrained


def test_batch_norms_of_the_start_show_that_a_module_is_untrained():
    assert load_subject(Net()).is_untrained


@pytest.mark.parametrize(
    ("give", "note"),
    [
        (lambda x, maps: {"maps": maps, "logits": x}, "note.output.first"),
        (lambda x, maps: (maps, x), "note.output.first"),
        (lambda x, maps: maps, "note.output.maps"),
        (lambda x, maps: [maps], "note.output.first_maps"),
        (lambda x, maps: x[:, 0], "note.output.flat"),
    ],
)
def test_what_a_network_returns_instead_of_logits(give, note):
    subject = load_subject(Net(give=give))
    assert note in keys(subject)
    with torch.no_grad():
        assert subject.network(torch.zeros(2, 3, 64, 64)).ndim == 2


def test_a_network_that_returns_nothing_usable_is_refused():
    with pytest.raises(UsageError, match="does not return logits"):
        load_subject(Net(give=lambda x, maps: "logits"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda net: net.to("meta"), "is on the meta device"),
        (lambda net: nn.Sequential(nn.LazyConv2d(2, 1), nn.Flatten()), "has lazy layers"),
        (lambda net: torch.jit.script(nn.Sequential(nn.Flatten())), "is a TorchScript module"),
        (lambda net: nn.Sequential(nn.Flatten(), nn.Linear(7, 2)), "does not run on images"),
    ],
)
def test_what_cannot_be_looked_into_says_why(spoil, message):
    with pytest.raises(UsageError, match=message):
        load_subject(spoil(Net()))


def test_weights_of_a_module_or_function_cannot_be_replaced():
    with pytest.raises(UsageError, match="already has weights"):
        load_subject(Net(), weights="none")


def test_random_weights_on_request_are_of_seed_0_and_labelled():
    first, second = load_subject("resnet18", weights="none"), load_subject("resnet18", weights="none")
    assert first.is_untrained and first.weights == ""
    assert torch.equal(first.network.fc.weight, second.network.fc.weight)
    torch.manual_seed(0)
    assert torch.equal(create_model("resnet18").fc.weight, first.network.fc.weight)


def test_twins():
    net = create_model("resnet18", num_classes=3)
    with torch.no_grad():
        net.bn1.running_mean.fill_(1)
    subject = load_subject(net)
    untrained = _other_subject(subject, "untrained")
    assert untrained.is_untrained and not subject.is_untrained
    assert not untrained.network.bn1.running_mean.any()
    assert not torch.equal(untrained.network.conv1.weight, net.conv1.weight)
    plain = _other_subject(subject, "plain")
    assert torch.equal(plain.network.conv1.weight, net.conv1.weight)
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert not torch.allclose(plain.network(x), subject.network(x))
    with pytest.raises(UsageError, match="has no plain twin"):
        _other_subject(load_subject(Net()), "plain")
    with pytest.raises(UsageError, match="untrained already"):
        _other_subject(untrained, "untrained")


def small(channels=3, **options):
    net = Net(channels, **options)
    net.input_size = (channels, 16, 16)
    return net


@pytest.mark.parametrize(("channels", "note"), [(1, "note.input.grey"), (4, "note.input.repeated")])
def test_other_channels_than_three(channels, note, photo):
    found = explore(photo, small(channels, classes=1))
    assert note in [entry["key"] for entry in found.document["notes"]]
    assert found.document["networks"][0]["input"] == [channels, 16, 16]
    assert [entry["probability"] for entry in found.document["views"][0]["predictions"]] == [1.0]


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    import numpy as np
    from PIL import Image

    path = tmp_path_factory.mktemp("photo") / "grey.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8)).save(path)
    return path


def test_batch_norms_of_random_weights_have_the_statistics_of_the_photo():
    network = create_model("resnet18", num_classes=3)
    subject = Subject("net", network.eval(), Preprocessing(64), (), "", True, has_random_weights=True)
    image = torch.randn(1, 3, 64, 64) * 3 + 1
    use_statistics_of(subject, image)
    values = network.conv1(image)
    torch.testing.assert_close(network.bn1.running_mean, values.mean((0, 2, 3)))
    torch.testing.assert_close(network.bn1.running_var, values.var((0, 2, 3)))
    assert not any(module.training for module in network.modules()) and network.bn1.momentum == 0.1
    assert has_statistics_of_photo(subject)
    before = copy.deepcopy(network.state_dict())
    use_statistics_of(subject, -image)  # of the second photo
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(("random", "side"), [(False, 64), (True, 32)], ids=["given", "a map of one value"])
def test_batch_norms_otherwise_stay(random, side):
    network = create_model("resnet18", num_classes=3).eval()
    before = copy.deepcopy(network.state_dict())
    subject = Subject("net", network, Preprocessing(side), (), "", True, has_random_weights=random)
    use_statistics_of(subject, torch.randn(1, 3, side, side))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not network.bn1.training and not has_statistics_of_photo(subject)
