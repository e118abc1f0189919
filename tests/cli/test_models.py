"""The table of networks and its filters."""

import pytest

from vertebra import list_models
from vertebra.cli.models import Sort

FIELDS = ["name", "family", "parameters", "gmacs", "mb", "min_size", "top1", "weights"]


def names(result):
    return [row["name"] for row in result.json]


def test_json_has_every_network(vertebra):
    result = vertebra("models", "--json")
    assert result.code == 0
    assert names(result) == list_models()
    assert all(list(row) == FIELDS for row in result.json)
    (row,) = (row for row in result.json if row["name"] == "resnet50")
    assert row == {
        "name": "resnet50",
        "family": "resnet",
        "parameters": 25_557_032,
        "gmacs": 4.089,
        "mb": 102.54,
        "min_size": 1,
        "top1": 80.858,
        "weights": "ResNet50_Weights.IMAGENET1K_V2",
    }


def test_table(vertebra):
    lines = vertebra("models", "resnet50").out.splitlines()
    assert " ".join(lines[0].split()) == "name family parameters GMACs MB smallest top-1 best weights"
    assert " ".join(lines[1].split()) == "resnet50 resnet 25.6 M 4.09 103 1 80.86 ResNet50_Weights.IMAGENET1K_V2"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["vgg11"], ["vgg11", "vgg11_bn"]),
        (["VGG11"], ["vgg11", "vgg11_bn"]),
        (["vgg1[13]"], ["vgg11", "vgg13"]),
        (["--family", "densenet", "--max-params", "10"], ["densenet121"]),
        (["--family", "resnet", "--max-gmacs", "2"], ["resnet18"]),
        (["lite", "--min-top1", "76"], ["efficientnet_lite1", "efficientnet_lite2"]),
        (["vgg", "--max-mb", "533"], ["vgg11", "vgg11_bn", "vgg13", "vgg13_bn"]),
        (["lite", "--sort", "top1"], ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"]),
        (["zebra"], []),
    ],
)
def test_filters(vertebra, arguments, expected):
    assert names(vertebra("models", *arguments, "--json")) == expected


@pytest.mark.parametrize("column", Sort)
def test_sorted_by_each_column(column, vertebra):
    values = [row[column.value] for row in vertebra("models", "--sort", column, "--json").json]
    assert values == sorted(values)
    assert len(set(values)) > 1


def test_the_best_first(vertebra):
    assert names(vertebra("models", "lite", "--sort", "TOP1", "--reverse", "--json")) == [
        "efficientnet_lite2",
        "efficientnet_lite1",
        "efficientnet_lite0",
    ]
    first = vertebra("models", "lite", "--sort", "top1", "--reverse").out.splitlines()[1]
    assert first.startswith("efficientnet_lite2")


def test_equal_ones_are_in_the_order_of_their_names(vertebra):
    rows = vertebra("models", "--sort", "family", "--reverse", "--json").json
    assert [row["family"] for row in rows] == sorted((row["family"] for row in rows), reverse=True)
    vggs = [row["name"] for row in rows if row["family"] == "vgg"]
    assert vggs == sorted(vggs)


def test_nothing_found_has_a_hint(vertebra):
    result = vertebra("models", "resent50")
    assert result.code == 0
    assert result.out == ""
    assert "Did you mean 'resnet50'" in result.err


def test_unknown_family(vertebra):
    result = vertebra("models", "--family", "resnets")
    assert result.code == 2
    assert "'resnet'" in result.error


def test_pretrained_here(vertebra, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    # Lite's weights are installed packages; nothing else is in an empty cache.
    assert names(vertebra("models", "--pretrained-here", "--json")) == [
        "efficientnet_lite0",
        "efficientnet_lite1",
        "efficientnet_lite2",
    ]
