"""Side by side: totals, levels, the Pareto front, the plot."""

import json

import pytest
from PIL import Image
from torch import nn

import vertebra
from vertebra.errors import UsageError

NAMES = ("vgg11", "resnet50", "mobilenet_v2", "densenet121", "efficientnet_b0", "googlenet")


@pytest.fixture(scope="module")
def comparison():
    return vertebra.compare(NAMES, device="laptop")


def test_levels_add_up(comparison):
    for entry in comparison.entries:
        levels = entry.levels.values()
        assert sum(group.macs for group in levels) == entry.anatomy.macs
        assert sum(group.parameters for group in levels) + unused(entry) == entry.anatomy.parameters
        assert set(entry.levels) <= set(comparison.levels)
    assert comparison.levels == ("1/1", "1/2", "1/4", "1/8", "1/16", "1/32", "head")


def unused(entry):
    return sum(row.parameters for row in entry.anatomy.rows if row.kind.value == "not run")


def test_a_level_is_the_resolution_that_a_stage_ends_with(comparison):
    resnet = comparison.entries[1]
    stages = {stage.name: stage for stage in resnet.anatomy.stages}
    assert resnet.levels["1/8"].rows == stages["layer2"].rows
    assert resnet.levels["1/4"].rows == stages["stem"].rows + stages["layer1"].rows
    assert resnet.levels["head"].rows == stages["classifier"].rows


def test_the_front_holds_what_nothing_beats(comparison):
    front = comparison.front
    assert [entry.anatomy.name for entry in front] == ["mobilenet_v2", "efficientnet_b0", "resnet50"]
    for entry in comparison.entries:
        better = [
            other
            for other in comparison.entries
            if other.cost <= entry.cost and other.published.top1 > entry.published.top1
        ]
        assert (entry in front) == (not better)


def test_json(comparison):
    found = json.loads(json.dumps(comparison.to_dict()))
    assert found["front"] == ["mobilenet_v2", "efficientnet_b0", "resnet50"]
    assert found["networks"][1]["published"]["weights"] == "ResNet50_Weights.IMAGENET1K_V2"
    assert found["networks"][1]["levels"]["1/8"]["macs"] == comparison.entries[1].levels["1/8"].macs
    assert found["cost"] == "at least, ms on laptop (AMD Ryzen 7 7840U)"


def test_without_times_the_cost_is_arithmetic():
    found = vertebra.compare(["resnet18", "resnet50"], 64, device=None)
    assert found.cost_label == "GMACs"
    assert [entry.cost for entry in found.entries] == [entry.anatomy.macs / 1e9 for entry in found.entries]
    assert found.to_dict()["networks"][0]["ms"] is None


def test_the_plot_is_a_picture(comparison, tmp_path):
    comparison.to_png(tmp_path / "front.png")
    with Image.open(tmp_path / "front.png") as image:
        assert image.format == "PNG"
        colours = image.convert("RGB").getcolors(1 << 24)
        assert any(colour == (31, 119, 180) for _, colour in colours), "the front is drawn"


def test_a_network_of_ones_own_has_no_accuracy(tmp_path):
    own = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    found = vertebra.compare([own, "resnet18"], 64, device="laptop")
    assert [entry.anatomy.name for entry in found.front] == ["resnet18"]
    assert found.entries[0].levels.keys() == {"1/2", "head"}
    with pytest.raises(UsageError, match="none of these networks has a published accuracy"):
        vertebra.compare([own, own], 64, device=None).to_png(tmp_path / "x.png")


def test_one_network_is_no_comparison():
    with pytest.raises(UsageError, match="two networks or more"):
        vertebra.compare(["resnet18"])
    with pytest.raises(UsageError, match="models is 'resnet18'"):
        vertebra.compare("resnet18")
