"""Blocks replaced throughout a network: the counts that are known of the papers' networks, and what else must stay."""

import copy

import pytest
import torch
from torch import nn

from vertebra import inspect, models
from vertebra.errors import UsageError
from vertebra.introspect.block_swaps import (
    PlainBasicBlock,
    PlainBottleneck,
    move_stride_to_1x1,
    remove_shortcuts,
    replace_activations,
    replace_bottlenecks,
    replace_depthwise,
)
from vertebra.introspect.densenet_variants import simplify_densenet
from vertebra.introspect.head_swaps import add_fully_connected_layers, pool_globally
from vertebra.introspect.inception_variants import (
    DenseInception,
    InceptionWith5x5,
    ReducedInception,
    UnreducedInception,
    UnreducedInceptionWith5x5,
)
from vertebra.introspect.mbconv_swaps import (
    add_squeeze_excitation,
    fuse_mbconv,
    remove_squeeze_excitation,
    separate_mbconv,
)
from vertebra.models.googlenet import BasicConv2d, InceptionAux
from vertebra.models.layers import Conv2dSame, SqueezeExcitation
from vertebra.models.mbconv import FusedMBConv, MBConv
from vertebra.models.resnet import BasicBlock, Bottleneck
from vertebra.models.state_dict import meta_build


def on_meta(name, **options):
    with meta_build():
        return models.get_model(name, **options)


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def googlenet_of(block):
    return on_meta("googlenet", aux_logits=False, blocks=(BasicConv2d, block, InceptionAux))


# The network, its parameters, its MACs for 224 × 224 pixels.
KNOWN = {
    "one 3×3": (lambda: googlenet_of(DenseInception), 29_923_848, 4_983_701_504),
    "1×1, then 3×3": (lambda: googlenet_of(ReducedInception), 10_694_280, 2_352_271_360),
    "no reductions": (lambda: googlenet_of(UnreducedInception), 18_389_512, 3_281_731_584),
    "5×5": (lambda: googlenet_of(InceptionWith5x5), 7_005_832, 1_582_671_872),
    "5×5, no reductions": (lambda: googlenet_of(UnreducedInceptionWith5x5), 25_311_752, 4_426_547_200),
    "VGG, pooled": (lambda: pool_globally(on_meta("vgg16")), 15_227_688, None),
    "GoogLeNet, VGG's head": (
        lambda: add_fully_connected_layers(on_meta("googlenet", aux_logits=False)),
        232_003_208,
        None,
    ),
    "wide plain blocks": (lambda: replace_bottlenecks(on_meta("resnet50")), 341_832_488, 55_507_943_424),
    "stride on the 1×1": (lambda: move_stride_to_1x1(on_meta("resnet50")), 25_557_032, 3_857_973_248),
    "dense 3×3": (lambda: replace_depthwise(on_meta("mobilenet_v2")), 44_050_952, 5_549_139_968),
    "no bottleneck": (lambda: simplify_densenet(on_meta("densenet121"), bottleneck=False), 10_869_096, None),
    "no halving": (lambda: simplify_densenet(on_meta("densenet121"), halving=False), 13_908_584, None),
    "neither": (
        lambda: simplify_densenet(on_meta("densenet121"), bottleneck=False, halving=False),
        20_812_904,
        4_723_682_304,
    ),
    "no gates": (lambda: remove_squeeze_excitation(on_meta("efficientnet_b0")), 4_652_008, 385_187_552),
    "all fused": (lambda: fuse_mbconv(on_meta("efficientnet_b4")), 132_121_624, None),
    "V2-S separate": (lambda: separate_mbconv(on_meta("efficientnet_v2_s")), 20_807_722, None),
}


@pytest.mark.parametrize("case", KNOWN)
def test_known_counts(case):
    make, known_parameters, known_macs = KNOWN[case]
    network = make()
    assert all(parameter.is_meta for parameter in network.parameters())
    assert parameters(network) == known_parameters
    if known_macs is not None:
        assert inspect(network, 224).macs == known_macs


def test_stages_are_fused_by_number_or_name_with_a_kernel_of_3():
    fused = fuse_mbconv(on_meta("efficientnet_b4"), (1, "stage2", 3), kernel=3)
    assert parameters(fused) == 19_944_398
    assert round(inspect(fused, 380).macs / 1e9, 2) == 7.34
    kinds = [[type(block) for block in stage] for stage in fused.features[1:8]]
    assert [FusedMBConv in stage for stage in kinds] == [True] * 3 + [False] * 4
    assert parameters(fuse_mbconv(on_meta("efficientnet_b4"), (1, 2, 3))) > 19_944_398  # stage 3 has 5×5


def test_separated_and_fused_again_is_the_same_network(tiny_network):
    network = tiny_network("efficientnet", kind="v2")
    before = copy.deepcopy(network)
    again = fuse_mbconv(separate_mbconv(network), (1, 2))
    assert again is network
    assert str(again) == str(before)
    assert list(again.state_dict()) == list(before.state_dict())


@pytest.mark.parametrize("kind", ["b", "lite"])
def test_a_fused_block_keeps_norm_activation_padding_and_stochastic_depth(kind, tiny_network):
    network = tiny_network("efficientnet", kind=kind)
    network.features[2][0].stochastic_depth.p = 0.125
    network.features[2][0].block[0][1].eps = 0.5
    old = copy.deepcopy(network.features[2][0])
    network.train()
    fuse_mbconv(network)
    block = network.features[2][0]
    assert type(block) is FusedMBConv
    assert block.training
    assert block.stochastic_depth.p == 0.125
    assert block.block[0][1].eps == 0.5
    assert type(block.block[0][2]) is type(old.block[0][2])
    assert type(block.block[0][0]) is (Conv2dSame if kind == "lite" else nn.Conv2d)
    assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 5)
    back = separate_mbconv(network, squeeze_excitation=kind != "lite").features[2][0]
    assert type(back) is MBConv
    assert {k: v.shape for k, v in back.state_dict().items()} == {k: v.shape for k, v in old.state_dict().items()}


def test_new_layers_are_initialised_as_the_family_does(tiny_network):
    torch.manual_seed(0)
    fused = fuse_mbconv(tiny_network("efficientnet"))
    weight = fused.features[4][0].block[1][0].weight  # 96 → 24, 1×1: a fan-out of 24, where torch looks at the fan-in
    assert weight.std().item() == pytest.approx((2 / 24) ** 0.5, rel=0.05)


def test_squeeze_excitation_goes_and_comes_back(tiny_network):
    network = tiny_network("efficientnet")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    removed = remove_squeeze_excitation(network, ("stage2",))
    gated = [any(isinstance(m, SqueezeExcitation) for m in stage.modules()) for stage in removed.features[1:6]]
    assert gated == [True, False, True, True, True]
    again = add_squeeze_excitation(removed)
    assert list(again.state_dict()) == list(before)
    kept = [key for key, value in again.state_dict().items() if torch.equal(value, before[key])]
    assert {key.split(".fc")[0] for key in before.keys() - set(kept)} == {"features.2.0.block.2"}
    with pytest.raises(UsageError, match="no depthwise block without squeeze-excitation"):
        add_squeeze_excitation(again)
    inverted = add_squeeze_excitation(tiny_network("mobilenetv2"))
    gates = [m for m in inverted.modules() if isinstance(m, SqueezeExcitation)]
    assert [gate.fc1.out_channels for gate in gates] == [8, 2, 2, 4, 4, 6]  # a quarter of 32, 8, 8, 16, 16, 24
    assert inverted(torch.zeros(1, 3, 32, 32)).shape == (1, 5)


@pytest.mark.parametrize(
    ("family", "options", "plain"),
    [
        ("resnet", {}, PlainBasicBlock),
        ("resnet", {"block": "Bottleneck"}, PlainBottleneck),
        ("mobilenetv2", {}, None),
        ("efficientnet", {"kind": "v2"}, None),
    ],
)
def test_without_shortcuts_the_branches_alone_remain(family, options, plain, tiny_network):
    network = tiny_network(family, **options)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        answer = network(x)
        removed = remove_shortcuts(network)
        assert not torch.equal(removed(x), answer)
    assert {key for key in before if key not in removed.state_dict()} == {key for key in before if "downsample" in key}
    assert all(torch.equal(value, before[key]) for key, value in removed.state_dict().items())
    graph = inspect(removed, 64)
    assert not [row for row in graph.rows if row.op == "add"]
    if plain is not None:
        assert type(removed.layer2[0]) is plain
        built = models.ResNet(plain, [1] * 4)
        assert list(built.state_dict()) == list(removed.state_dict())
    with pytest.raises(UsageError, match="no residual block"):
        remove_shortcuts(removed)


def test_only_the_stages_asked_for_change(tiny_network):
    network = remove_shortcuts(tiny_network("resnet"), ["layer2", 3])
    assert [type(network.get_submodule(f"layer{i}")[0]) for i in (1, 2, 3, 4)] == [
        BasicBlock,
        PlainBasicBlock,
        PlainBasicBlock,
        BasicBlock,
    ]


def test_a_stage_is_not_another_whose_path_begins_alike():
    network = replace_depthwise(on_meta("mobilenet_v2"), (1,))  # features.1, and not features.10 to features.17
    assert sum(m.groups == 1 and m.kernel_size == (3, 3) for m in network.modules() if isinstance(m, nn.Conv2d)) == 2


def test_a_wide_plain_block_keeps_the_shortcut(tiny_network):
    network = tiny_network("resnet", block="Bottleneck", depth=2)
    shortcut = network.layer2[0].downsample
    block = replace_bottlenecks(network).layer2[0]
    assert type(block) is BasicBlock
    assert block.downsample is shortcut
    assert not any(isinstance(module, Bottleneck) for module in network.modules())
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 5)


def test_activations_are_replaced_and_the_sigmoids_of_gates_stay(tiny_network):
    network = tiny_network("efficientnet")
    x = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        answer = network(x)
        changed = replace_activations(network, nn.ReLU6)
        assert not torch.equal(changed(x), answer)
        kinds = {type(module) for module in changed.modules()}
        assert nn.ReLU6 in kinds
        assert nn.Sigmoid in kinds
        assert nn.SiLU not in kinds
        assert all(module.inplace for module in changed.modules() if isinstance(module, nn.ReLU6))
        assert torch.equal(replace_activations(changed, nn.SiLU)(x), answer)
    with pytest.raises(UsageError, match="no activation layer of type ReLU6"):
        replace_activations(changed, nn.ReLU, (nn.ReLU6,))
    with pytest.raises(UsageError, match="no activation layer"):
        replace_activations(tiny_network("googlenet"), nn.SiLU)  # its ReLU are calls


def test_shared_modules_stay_shared_and_any_module_can_be_given():
    relu = nn.ReLU()
    network = replace_activations(nn.Sequential(relu, nn.Sequential(relu)), nn.SiLU)
    assert isinstance(network[0], nn.SiLU)
    assert network[0] is network[1][0]
    assert isinstance(replace_activations(relu, nn.SiLU), nn.SiLU)  # the network itself
    conv = nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=8, bias=True, dtype=torch.float64)
    dense = replace_depthwise(conv)
    assert (dense.weight.shape, dense.stride, dense.bias.dtype) == ((16, 8, 3, 3), (2, 2), torch.float64)


def test_densenet_without_either_runs_and_keeps_its_stem(tiny_network):
    network = tiny_network("densenet")
    stem = network.stem_module.weight.clone()
    changed = simplify_densenet(network, bottleneck=False, halving=False)
    assert torch.equal(changed.stem_module.weight, stem)
    assert [stage.channels for stage in changed.stages] == [16, 32, 48, 64, 80]
    assert changed(torch.zeros(1, 3, 32, 32)).shape == (1, 5)
    with pytest.raises(UsageError, match="without bottleneck layers"):
        simplify_densenet(changed)
    with pytest.raises(UsageError, match="memory_efficient"):
        simplify_densenet(tiny_network("densenet", memory_efficient=True), bottleneck=False)


def test_heads_run_and_say_what_they_cannot_do(tiny_network):
    pooled = pool_globally(tiny_network("vgg"))
    assert pooled(torch.zeros(1, 3, 64, 64)).shape == (1, 5)
    assert pooled.reset_classifier(3) is None
    assert pooled.head_module.in_features == 16
    wide = add_fully_connected_layers(tiny_network("googlenet", aux_logits=False), 12, pooled_size=2)
    wide.train()
    assert wide(torch.zeros(2, 3, 64, 64)).shape == (2, 5)
    assert wide.dropout.p == 0
    for wrong in (tiny_network("densenet"), nn.Linear(3, 3)):
        with pytest.raises(UsageError, match="pooling cannot be replaced"):
            pool_globally(wrong)
    with pytest.raises(UsageError, match="hidden_size is 0"):
        add_fully_connected_layers(tiny_network("vgg"), 0)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (("layr2",), r"no stage 'layr2'; it has stem, layer1, .*Did you mean 'layer2'"),
        ((7,), r"no stage 7; it has"),
        (("stem",), r"no residual block in stem"),
    ],
)
def test_wrong_stages(stages, message, tiny_network):
    with pytest.raises(UsageError, match=message):
        remove_shortcuts(tiny_network("resnet"), stages)


def test_what_a_network_does_not_have(tiny_network):
    with pytest.raises(UsageError, match="names no stages"):
        replace_activations(nn.Sequential(nn.ReLU()), nn.SiLU, stages=(1,))
    with pytest.raises(UsageError, match="ResNet has no Bottleneck"):
        replace_bottlenecks(tiny_network("resnet"))
    with pytest.raises(UsageError, match="ResNet has no MBConv"):
        fuse_mbconv(tiny_network("resnet"))
    dilated = on_meta("resnet50", replace_stride_with_dilation=[False, True, True])
    with pytest.raises(UsageError, match="dilation=2"):
        replace_bottlenecks(dilated)
    assert type(dilated.layer1[0]) is Bottleneck  # nothing is replaced then


class _Named(nn.Conv2d):
    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, groups=channels)


def test_a_convolution_with_a_constructor_of_its_own_is_told():
    with pytest.raises(UsageError, match="a convolution is a _Named, which cannot be built like"):
        replace_depthwise(nn.Sequential(_Named(4)))
