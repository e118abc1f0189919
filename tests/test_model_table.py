"""The figures of the networks that are listed without torch are those of the registry.

`python tests/test_model_table.py` writes them.
"""

import json
import math
from pathlib import Path

import pytest

from vertebra import model_table
from vertebra.errors import UsageError

PATH = Path(model_table.__file__).with_suffix(".json")


def text_of_today():
    from vertebra.models import registry

    families = {entry.family: registry.network_class(entry.builder).__name__ for entry in registry.MODELS.values()}
    rows = [
        {
            "name": name,
            "family": entry.family,
            "enum": entry.weights.__name__,
            "default": entry.weights["DEFAULT"].name,
            "weights": {member.name: values_of(member) for member in entry.weights},
        }
        for name, entry in sorted(registry.MODELS.items())
    ]
    return json.dumps({"families": families, "networks": rows}, indent=1) + "\n"


def values_of(member):
    top1 = member.meta["_metrics"]["ImageNet-1K"]["acc@1"]
    return {
        "url": member.url,
        "parameters": member.meta["num_params"],
        "gmacs": member.meta["_ops"],
        "mebibytes": member.meta["_file_size"],
        "top1": None if math.isnan(top1) else top1,
        "min_size": max(member.meta["min_size"]),
        "crop_size": member.preprocessing.crop_size,
    }


def test_the_table_is_that_of_the_registry():
    assert PATH.read_text(encoding="ascii") == text_of_today(), "run: python tests/test_model_table.py"


def test_families_are_all_and_in_the_order_of_their_papers():
    assert {network.family for network in model_table.networks().values()} == set(model_table.FAMILIES)
    years = ["vgg", "googlenet", "resnet", "densenet", "mobilenetv2", "efficientnet"]
    assert [family for family in model_table.FAMILIES if family in years] == years


def test_families_of_any_size_are_those_with_a_network_that_takes_one_pixel():
    from vertebra.models import registry

    free = {entry.family for entry in registry.MODELS.values() if entry.weights["DEFAULT"].meta["min_size"] == (1, 1)}
    words = model_table.families_of_any_size()
    assert set(words.replace(" or ", ", ").split(", ")) == free >= {"resnet", "mobilenetv2", "efficientnet"}
    assert words.startswith("resnet, mobilenetv2") and " or " in words


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("resnet50", "ResNet50_Weights.IMAGENET1K_V2"),
        ("ResNet50", "ResNet50_Weights.IMAGENET1K_V2"),
        ("ResNet50_Weights.DEFAULT", "ResNet50_Weights.IMAGENET1K_V2"),
        ("ResNet50_Weights.IMAGENET1K_V1", "ResNet50_Weights.IMAGENET1K_V1"),
        ("VGG16_Weights.IMAGENET1K_FEATURES", "VGG16_Weights.IMAGENET1K_FEATURES"),
    ],
)
def test_weights_are_found_by_either_name(name, found):
    assert repr(model_table.find_weights(name)) == found


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resent50", r"there is no model 'resent50'\. Did you mean 'resnet50'"),
        ("zebra", r"there is no model 'zebra'\. `vertebra models` lists all\."),
        ("ResNet50_Weights.V2", r"there are no weights 'ResNet50_Weights\.V2'.* Did you mean 'ResNet50_Weights\."),
        ("", "there is no model ''"),
    ],
)
def test_what_is_not_there_has_a_hint(name, hint):
    with pytest.raises(UsageError, match=hint):
        model_table.find_weights(name)


def test_the_best_of_weights_leaves_out_those_without_a_classifier():
    network = model_table.find_network("vgg16")
    assert [weights.top1 for weights in network.weights] == [71.592, None]
    assert network.best.top1 == 71.592


if __name__ == "__main__":
    PATH.write_text(text_of_today(), encoding="ascii")
