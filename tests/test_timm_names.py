"""Names of timm's: which are networks of here, which are near to one, which are spelt wrongly."""

import pytest

from vertebra.errors import UsageError
from vertebra.model_table import FAMILY_CLASSES
from vertebra.timm_names import ALIASES, TAGS, explain_unknown, read_name

timm = pytest.importorskip("timm", reason="timm is the oracle")
pytest.importorskip("torch")

from vertebra.models import get_model_weights, list_models  # noqa: E402

NETWORKS = dict.fromkeys(list_models())


def test_aliases_and_tags_are_names_of_timm_and_of_here() -> None:
    from timm.models._registry import get_deprecated_models, get_pretrained_cfg

    for name, alias in ALIASES.items():
        assert timm.is_model(name) or name in get_deprecated_models()
        assert alias.name in NETWORKS
    for name, tags in TAGS.items():
        found = read_name(name, NETWORKS)
        assert found is not None
        for tag, member in tags.items():
            assert get_pretrained_cfg(f"{name}.{tag}") is not None
            assert member in get_model_weights(found.alias.name).__members__


def test_torchvisions_weights_are_the_same_files_in_timm() -> None:
    from timm.models._registry import get_pretrained_cfg

    compared = 0
    for name, tags in TAGS.items():
        for tag, member in tags.items():
            url = get_pretrained_cfg(f"{name}.{tag}").url
            if url and "pytorch.org" in url:
                assert url == get_model_weights(name)[member].url
                compared += 1
    assert compared > 15


def test_every_network_of_timm_is_here_or_has_a_nearest() -> None:
    for name in timm.list_models(exclude_filters="test_*"):
        if read_name(name, NETWORKS) is not None:
            continue
        text = explain_unknown(name, NETWORKS, FAMILY_CLASSES)
        nearest = text.rpartition("the nearest is '")[2].partition("'")[0]
        assert nearest in NETWORKS, text


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("vit_base_patch16_224", "not among the families (VGG, GoogLeNet, ResNet, DenseNet, MobileNetV2, Eff"),
        ("convnext_tiny", "the nearest is 'efficientnet_v2_s'"),
        ("convnext_tiny.fb_in22k", "the nearest is 'efficientnet_v2_s'"),
        ("swin_t", "the nearest is 'efficientnet_v2_s'"),
        ("regnety_032", "the nearest is 'resnet50'"),
        ("inception_v3", "the nearest is 'googlenet'"),
        ("mobilenetv3_large_100", "the nearest is 'mobilenet_v2'"),
        ("mobilenet_v3_large", "the nearest is 'mobilenet_v2'"),
        ("squeezenet1_0", "the nearest is 'mobilenet_v2'"),
        ("alexnet", "the nearest is 'vgg11'"),
        ("resnet50d", "there is no model 'resnet50d'; the nearest is 'resnet50', which has other layers"),
        ("resnet26", "the nearest is 'resnet18'"),
        ("seresnet50", "the nearest is 'resnet50'"),
        ("resnetv2_101", "the nearest is 'resnet101'"),
        ("gluon_resnet50_v1b", "the network is 'resnet50', and those weights are not here"),
        ("hf-hub:timm/resnet50.a1_in1k", "plain names"),
        # What is only spelt otherwise.
        ("resnt50", "Did you mean 'resnet50'"),
        ("resnet-50", "Did you mean 'resnet50'"),
        ("resnet", "Did you mean 'resnet50'"),
        ("resnet_50", "Did you mean 'resnet50'"),
        ("wide_resnet50", "Did you mean 'wide_resnet50_2'"),
        ("vgg16bn", "Did you mean 'vgg16_bn'"),
        ("mobilenetv2", "Did you mean 'mobilenet_v2'"),
        ("efficientnetb0", "Did you mean 'efficientnet_b0'"),
        ("densnet121", "Did you mean 'densenet121'"),
        ("something", "`vertebra models` lists all"),
    ],
)
def test_what_is_said_of_other_names(name: str, said: str) -> None:
    assert read_name(name, NETWORKS) is None
    assert said in explain_unknown(name, NETWORKS, FAMILY_CLASSES)


def test_the_table_of_networks_knows_the_names_too() -> None:
    from vertebra.model_table import find_network

    assert find_network("mobilenetv2_100").name == "mobilenet_v2"
    assert find_network("resnet50.tv_in1k").default.name == "ResNet50_Weights.IMAGENET1K_V1"
    for name, said in [
        ("mobilenetv2_050", "no weights for mobilenetv2_050"),
        ("resnet50.a1_in1k", "no weights 'a1_in1k'"),
        ("swin_t", "the nearest is 'efficientnet_v2_s'"),
    ]:
        with pytest.raises(UsageError, match=said):
            find_network(name)
