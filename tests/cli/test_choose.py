"""`vertebra choose` and `vertebra compare`, on a device whose figures are known."""

import pytest

from vertebra.models import list_models


def test_what_fits_and_what_does_not(vertebra):
    result = vertebra("choose", "--max-ms", "2", "--max-mb", "25", "--min-top1", "70", "--device", "laptop")
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[0].split()[:2] == ["fits", "top-1"]
    assert lines[1].split()[:2] == ["efficientnet_b0", "77.69"]
    assert lines[1].split()[-1] == "EfficientNet_B0_Weights.IMAGENET1K_V1"
    named = [line.split()[0] for line in lines if line.split() and line.split()[0] in list_models()]
    assert sorted(named) == list_models(), "each network fits or has a reason"
    assert "Times on laptop" in result.out


def test_nothing_fits(vertebra):
    result = vertebra("choose", "--min-top1", "99", "--device", "laptop")
    assert result.code == 1
    assert result.out.startswith("Nothing fits. --min-top1 is the tightest limit")
    result = vertebra("choose", "--min-top1", "99", "--device", "laptop", "--json")
    assert result.code == 1
    assert result.json["fits"] == []


def test_json_and_size(vertebra):
    arguments = ["choose", "--max-params", "4", "--device", "h100", "--size", "160"]
    (found,) = vertebra(*arguments, "--json").json["fits"]
    assert (found["name"], found["size"], found["measured_ms"]) == ("mobilenet_v2", 160, None)
    assert "not at 160 pixels" in vertebra(*arguments).out


def test_by_size_and_accuracy_alone(vertebra, monkeypatch):
    monkeypatch.setattr("vertebra.anatomy.choice.inspect", lambda *arguments: pytest.fail("nothing is timed"))
    limits = ["choose", "--max-mb", "25", "--min-top1", "70", "--device", "none"]
    result = vertebra(*limits)
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[0].split() == ["fits", "top-1", "parameters", "MB", "pixels", "weights"]
    assert lines[1].split() == [
        "efficientnet_b0",
        "77.69",
        "5.29",
        "M",
        "21.4",
        "224",
        "EfficientNet_B0_Weights.IMAGENET1K_V1",
    ]
    assert "By size and accuracy alone." in lines and "Times on" not in result.out
    found = vertebra(*limits, "--json").json
    assert found["device"] == "none" and found["fits"][0]["predicted_ms"] is None
    result = vertebra("choose", "--min-top1", "99", "--device", "none")
    assert result.code == 1 and result.out.startswith("Nothing fits. --min-top1 is the tightest limit")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["choose", "--device", "none", "--max-ms", "5"], "max_ms is 5.0, and device is none"),
        (["choose", "--device", "None", "--max-mb", "5"], "there are here, none, "),
        (["choose", "--device", "none", "--size", "160"], "size is 160, and device is none"),
        (["choose", "--device", "h10"], "Did you mean 'h100'"),
        (["choose", "--max-ms", "-1", "--device", "laptop"], "max_ms is -1"),
        (["choose", "--max-ms", "fast"], "--max-ms"),
        (["compare", "resnet18"], "two networks or more"),
        (["compare", "resnet18", "resnet81"], "Did you mean"),
        (["compare", "resnet18", "resnet50", "--png", "plot.jpg"], "must end in .png"),
    ],
)
def test_wrong_calls(vertebra, arguments, message):
    result = vertebra(*arguments)
    assert result.code == 2
    assert message in result.error


def test_compare(vertebra, tmp_path):
    png = tmp_path / "made" / "front.png"
    result = vertebra("compare", "resnet18", "mobilenet_v2", "--device", "t4", "--png", png)
    assert result.code == 0
    assert png.read_bytes().startswith(b"\x89PNG")
    tables = result.out.split("\n\n")
    assert [table.splitlines()[0].split()[0] for table in tables] == ["pixels", "Parameters", "MACs", "Time"]
    assert tables[0].splitlines()[2].split()[:5] == ["mobilenet_v2", "224×224", "3.50", "M", "301"]


def test_compare_json_without_times(vertebra):
    found = vertebra("compare", "resnet18", "mobilenet_v2", "--device", "none", "--size", "96", "--json").json
    assert found["cost"] == "GMACs"
    assert [network["name"] for network in found["networks"]] == ["resnet18", "mobilenet_v2"]
    assert vertebra("compare", "resnet18", "mobilenet_v2", "--device", "none", "--size", "96").code == 0
