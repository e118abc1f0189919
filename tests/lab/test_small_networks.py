"""Networks for small images: shapes, what each option changes, and random weights."""

from functools import partial

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from vertebra.errors import UsageError  # noqa: E402
from vertebra.lab.small_networks import SmallMBConvNet, SmallResNet, SmallVGG, seeded, small_densenet  # noqa: E402

BUILDERS = {
    "residual": partial(SmallResNet, 8, 4),
    "plain": partial(SmallResNet, 8, 4, residual=False),
    "without norm": partial(SmallResNet, 8, 4, batch_norm=False),
    "mbconv": partial(SmallMBConvNet, 4, repeats=1),
    "efficientnet": partial(SmallMBConvNet, 4, repeats=1, squeeze_excitation=True, activation_layer=nn.SiLU),
    "dense convolution": partial(SmallMBConvNet, 4, repeats=1, spatial="dense"),
    "densenet": partial(small_densenet, (2, 2, 2), 4),
    "pooled": partial(SmallVGG, (4, "M", 8)),
    "fully connected": partial(SmallVGG, (4, "M", 8), 16, 3),
}


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_every_network_takes_small_images_and_tells_its_stages(build):
    network = build(num_classes=7).eval()
    for size in (8, 12, 32):
        x = torch.randn(2, 3, size, size)
        assert network(x).shape == (2, 7)
        maps = network.forward_stages(x)
        assert [(m.shape[1], m.shape[2]) for m in maps] == [(s.channels, size // s.stride) for s in network.stages]
    assert (network.stem_module.kernel_size, network.stem_module.stride) == ((3, 3), (1, 1))
    assert network.num_classes == 7
    least = network.min_size
    assert network(torch.randn(1, 3, least, least)).shape == (1, 7)
    assert build(in_channels=1)(torch.randn(2, 1, 8, 8)).shape == (2, 10)


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_depth_is_the_number_of_layers_with_weights_and_shortcuts_have_none():
    for depth in (8, 20, 56):
        with torch.device("meta"):
            network, plain = SmallResNet(depth, 8), SmallResNet(depth, 8, residual=False)
        layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        assert len(layers) == depth
        assert count(network) == count(plain)
    with torch.device("meta"):
        assert count(SmallResNet(56, 16)) == pytest.approx(0.85e6, rel=0.01)  # He et al. 2015, Table 6
        assert count(SmallResNet(20, 16)) == pytest.approx(0.27e6, rel=0.01)
    for depth in (2, 7, 21, -4):
        with pytest.raises(UsageError, match=f"depth is {depth}; it must be 6n"):
            SmallResNet(depth)


def test_the_plain_network_is_the_residual_one_with_the_branch_alone():
    residual, plain = (seeded(partial(SmallResNet, 8, 4, residual=r), 1) for r in (True, False))
    assert all(torch.equal(a, b) for a, b in zip(residual.parameters(), plain.parameters(), strict=True))
    assert list(residual.state_dict()) == list(plain.state_dict())
    x = torch.rand(2, 8, 8, 8)
    block, alone = residual.layer2[0].eval(), plain.layer2[0].eval()
    inner = block.relu(block.bn1(block.conv1(x[:, :4])))
    branch = block.bn2(block.conv2(inner))
    shortcut = torch.cat([x[:, :4, ::2, ::2], torch.zeros(2, 4, 4, 4)], 1)
    assert torch.equal(block(x[:, :4]), torch.relu(branch + shortcut))
    assert torch.equal(alone(x[:, :4]), torch.relu(branch))


def test_zero_initialised_blocks_begin_as_the_identity():
    x = torch.rand(2, 4, 8, 8)
    assert torch.equal(SmallResNet(14, 4, zero_init_residual=True).layer1(x), x)
    assert not torch.equal(SmallResNet(14, 4).layer1(x), x)
    assert SmallResNet(8, 4, zero_init_residual=True, batch_norm=False)(torch.rand(1, 3, 8, 8)).isfinite().all()


def test_inverted_residuals_and_their_options():
    x = torch.randn(4, 4, 8, 8)
    blocks = {
        name: seeded(partial(SmallMBConvNet, 4, repeats=1, **options), 0).features[1].eval()
        for name, options in {
            "linear": {},
            "relu6": {"bottleneck": "relu6"},
            "dense": {"spatial": "dense"},
            "se": {"squeeze_excitation": True, "activation_layer": nn.SiLU},
        }.items()
    }
    linear = blocks["linear"].block(x)
    assert linear.min() < 0
    assert torch.equal(blocks["relu6"].block(x), linear.clamp(0, 6))
    assert [m.groups for m in blocks["linear"].modules() if isinstance(m, nn.Conv2d)] == [1, 24, 1]
    assert [m.groups for m in blocks["dense"].modules() if isinstance(m, nn.Conv2d)] == [1, 1, 1]
    assert len([m for m in blocks["se"].modules() if isinstance(m, nn.SiLU)]) == 3
    assert blocks["linear"].use_res_connect
    assert len(SmallMBConvNet(4, repeats=3).features) == 10


def test_heads_on_one_trunk_have_the_parameters_of_the_protocol():
    with torch.device("meta"):
        heads = [SmallVGG(), SmallVGG(hidden_size=64), SmallVGG(hidden_size=1024)]
    assert [round(count(network) / 1e6, 3) for network in heads] == [0.017, 0.095, 2.257]


def test_random_weights_depend_on_the_seed_alone_and_are_those_of_the_family():
    state = torch.random.get_rng_state()
    for build in BUILDERS.values():
        one, again, other = (torch.cat([p.flatten() for p in seeded(build, s).parameters()]) for s in (0, 0, 1))
        assert torch.equal(one, again)
        assert not torch.equal(one, other)
    assert torch.equal(state, torch.random.get_rng_state())
    # Deviations as the families' papers and torchvision have them: Kaiming's by fan-out (DenseNet: fan-in), and of the
    # linear layer torch's own in ResNet, 0.01 elsewhere.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        residual, dense = SmallResNet(8, 32), small_densenet((4,), 32)
        inverted, vgg = SmallMBConvNet(16, repeats=1), SmallVGG((32, 64), 64, 2)
    for weight, fan in (
        (residual.layer3[0].conv1.weight, 9 * 128),
        (inverted.features[2].block[0][0].weight, 96),
        (inverted.features[2].block[1][0].weight, 9 * 96),
        (vgg.features[3].weight, 9 * 64),
        (dense.features.denseblock1.denselayer4.conv1.weight, 160),
    ):
        assert weight.std().item() == pytest.approx((2 / fan) ** 0.5, rel=0.1)
    assert residual.fc.weight.std().item() == pytest.approx((3 * 128) ** -0.5, rel=0.1)
    for classifier in (inverted.classifier, vgg.classifier[0], vgg.classifier[-1]):
        assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.1)
