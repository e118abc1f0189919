"""The table and the JSON of `vertebra inspect`, against the anatomy that they show."""

import pytest

from vertebra import anatomy
from vertebra.cli._output import bar
from vertebra.cli.inspect import parse_size
from vertebra.units import count


def line(result, name):
    """The cells of the table's line of that name."""
    return next(cells for cells in map(str.split, result.out.splitlines()) if cells and cells[0] == name)


def test_stages_and_verdict(vertebra):
    result = vertebra("inspect", "resnet18")
    taken = anatomy("resnet18")
    assert result.code == 0
    assert result.out.startswith("resnet18, float32 1 × 3 × 224 × 224\n")
    for stage in taken.stages:
        cells = line(result, stage.name)
        assert " ".join(cells).startswith(f"{stage.name} {'×'.join(map(str, stage.output_shape[1:]))} ")
        assert count(stage.parameters) in " ".join(cells)
    assert f"{count(taken.parameters)} " in " ".join(line(result, "total"))
    assert " ".join(taken.verdict().split()) in " ".join(result.out.split())


@pytest.mark.parametrize(("depth", "attribute"), [("block", "blocks"), ("layer", "layers")])
def test_depth(vertebra, depth, attribute):
    lines = vertebra("inspect", "mobilenet_v2", "--depth", depth).out.splitlines()
    names = [text.split()[0] for text in lines[2:]]
    expected = [part.name for part in getattr(anatomy("mobilenet_v2"), attribute)]
    assert names[: len(expected) + 1] == [*expected, "total"]


def test_json_is_the_anatomy_at_that_size_and_batch(vertebra):
    result = vertebra("inspect", "resnet18", "--size", "96x128", "--batch", 2, "--train", "--json").json
    taken = anatomy("resnet18", (96, 128), 2)
    assert result["macs"] == taken.macs
    assert result["input_shapes"] == [[2, 3, 96, 128]]
    assert len(result["rows"]) == len(taken.rows)
    assert [forecast["checkpointing"] for forecast in result["training"]] == [False, True]
    assert result["training"][0]["total"] == taken.training_memory().total


def test_training_memory_is_said(vertebra):
    out = vertebra("inspect", "resnet18", "--size", "64", "--train").out.splitlines()
    assert out[-2].startswith("a training step: ")
    assert out[-1].startswith("with checkpointing: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet-81"], "Did you mean"),
        (["resnet18", "--size", "big"], "--size is 'big'"),
        (["resnet18", "--size", "0"], "--size is '0'"),
        (["resnet18", "--size", "1x2x3"], "--size is '1x2x3'"),
        (["resnet18", "--batch", "0"], "--batch"),
        (["resnet18", "--depth", "atom"], "--depth"),
        (["vgg11", "--size", "8"], "at least 32 × 32 pixels"),
    ],
)
def test_wrong_calls(vertebra, arguments, message):
    result = vertebra("inspect", *arguments)
    assert result.code == 2
    assert message in result.error


def test_sizes():
    assert [parse_size(text) for text in (None, "224", "192x256", "192×256")] == [None, 224, (192, 256), (192, 256)]


def test_bars():
    assert [bar(share, 4) for share in (0, 0.25, 0.5 + 1 / 32, 1, 2)] == ["", "█", "██▏", "████", "████"]
