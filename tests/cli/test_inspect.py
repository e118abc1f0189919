"""The table and the JSON of `vertebra inspect`, against the anatomy that they show."""

import subprocess
import sys
from functools import partialmethod

import pytest

from vertebra import anatomy
from vertebra.anatomy import Anatomy, machine_calibration
from vertebra.anatomy.roofline import Calibration, Rate
from vertebra.cli._output import bar
from vertebra.cli.inspect import parse_size
from vertebra.units import count, duration


@pytest.fixture(autouse=True)
def calibration(monkeypatch):
    """Stands in for timing this machine; what it was asked for is noted."""
    made = []

    def calibrate(executor):
        made.append(executor)
        machine = machine_calibration.describe_machine(executor)
        rates = {"elementwise": Rate(0.001, 0, 0, 0.3), "dense conv": Rate(0.01, 0.01, 0.2, 0.1)}
        return Calibration(executor, machine, rates, between=0.0, seconds=1.0, noise=1.0, others=0.0)

    monkeypatch.setattr(machine_calibration, "calibrate", calibrate)
    return made


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
    assert result.err.startswith("Calibrating this machine for onnxruntime, once")


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


def test_times_here(vertebra, calibration):
    result = vertebra("inspect", "resnet18", "--executor", "torch")
    latency = anatomy("resnet18").latency(executor="torch")
    assert calibration == ["torch"], "which is kept provisionally, being noisy"
    assert duration(latency.total_ms) in " ".join(line(result, "total"))
    assert line(result, "layer1")[-1] == latency.time(anatomy("resnet18").stages[1].rows).bound_by
    assert "Predicted time: " in result.out


def test_bounds_of_a_device(vertebra, calibration):
    result = vertebra("inspect", "resnet18", "--device", "h100")
    assert "at least" in result.out.splitlines()[1]
    assert "Lower bound of the time: " in result.out
    assert not calibration
    latency = vertebra("inspect", "resnet18", "--device", "h100", "--json").json["latency"]
    assert latency["name"] == "NVIDIA H100 SXM 80 GB"
    assert latency["total_ms"] == anatomy("resnet18").latency("h100").total_ms


def test_without_times(vertebra, calibration):
    result = vertebra("inspect", "resnet18", "--device", "none")
    assert "bound by" not in result.out
    assert result.err == ""
    assert not calibration


def test_measured_beside_predicted(vertebra, monkeypatch):
    monkeypatch.setattr(Anatomy, "measure", partialmethod(Anatomy.measure, seconds=0.1))
    out = vertebra("inspect", "resnet18", "--size", "32", "--measure").out
    assert {"time", "measured"} <= set(out.splitlines()[1].split())
    assert "Measured here in onnxruntime with" in out
    assert "; predicted" in " ".join(out.split())
    measurement = vertebra("inspect", "resnet18", "--size", "32", "--measure", "--json").json["measurement"]
    assert 0 < sum(measurement["rows"].values()) < 1000


def test_page_and_picture(vertebra, tmp_path):
    page, picture = tmp_path / "page.html", tmp_path / "picture.png"
    result = vertebra("inspect", "resnet18", "--device", "t4", "--train", "--html", page, "--png", picture)
    assert result.code == 0
    assert "<title>resnet18 – anatomy</title>" in page.read_text("utf-8")
    assert '"latency":{"device":"t4"' in page.read_text("utf-8")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_narrow_terminal_gets_fewer_columns(vertebra, monkeypatch):
    from rich.console import Console

    from vertebra.cli import _output, inspect

    widths = {}
    for width in (110, 85, 60):
        for module in (_output, inspect):
            monkeypatch.setattr(module, "console", lambda: Console(width=width))  # noqa: B023
        widths[width] = vertebra("inspect", "resnet18", "--device", "none").out.splitlines()[1]
    assert "receptive field" in widths[110]
    assert "receptive field" not in widths[85]
    assert "FLOPs/byte" in widths[85]
    assert widths[60].split() == ["output", "parameters", "MACs", "traffic"]


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
        (["resnet18", "--device", "h10"], "Did you mean 'h100'"),
        (["resnet18", "--executor", "tvm"], "--executor"),
        (["resnet18", "--html", "page.htm"], "must end in .html"),
        (["vgg11", "--size", "8"], "at least 32 × 32 pixels"),
    ],
)
def test_wrong_calls(vertebra, arguments, message):
    result = vertebra("inspect", *arguments)
    assert result.code == 2
    assert message in result.error


def test_missing_folders_are_made_and_one_that_cannot_be_is_told(vertebra, tmp_path):
    page = tmp_path / "made" / "of two" / "page.html"
    assert vertebra("inspect", "resnet18", "--html", page).code == 0 and page.is_file()
    result = vertebra("inspect", "resnet18", "--html", page / "other.html")
    assert result.code == 1 and f"{page / 'other.html'} cannot be written (" in result.error


def test_sizes():
    assert [parse_size(text) for text in (None, "224", "192x256", "192×256")] == [None, 224, (192, 256), (192, 256)]


def test_bars():
    assert [bar(share, 4) for share in (0, 0.25, 0.5 + 1 / 32, 1, 2)] == ["", "█", "██▏", "████", "████"]


# --- a file ----------------------------------------------------------------------------------------------------------


def test_a_file(vertebra, tiny_export):
    done = vertebra("inspect", tiny_export)
    assert done.code == 0 and done.err == ""
    assert done.out.startswith(f"{tiny_export.name}, uint8 1 × 32 × 32 × 3\n")
    assert "Batch norms are folded into the convolutions" in done.out
    found = vertebra("inspect", tiny_export, "--json").json
    assert (found["schema"], found["type"], found["batch_size"]) == (1, "ONNX", 1)
    assert found["macs"] == sum(row["macs"] for row in found["rows"]) > 0
    assert vertebra("inspect", tiny_export, "--batch", "3", "--json").json["macs"] == 3 * found["macs"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--size", "224"), "fixes the size of its input"),
        (("--size", "0"), "--size is '0'"),
        (("--train",), "--train needs a network, and"),
        (("--measure",), "--measure needs a network, and"),
        (("--device", "h100"), "--device needs a network, and"),
        (("--html", "x.html"), "--html needs a network, and"),
    ],
)
def test_a_file_with_what_needs_a_network(vertebra, tiny_export, options, words):
    done = vertebra("inspect", tiny_export, *options)
    assert (done.code, done.out) == (2, "") and words in done.error


def test_a_file_that_is_none(vertebra, tmp_path):
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"no model")
    done = vertebra("inspect", path)
    assert (done.code, done.out) == (1, "") and "bad.onnx" in done.error
    done = vertebra("inspect", tmp_path / "absent.onnx")
    assert (done.code, done.out) == (2, "") and "no such file" in done.error


def test_a_file_needs_no_torch(tiny_export):
    code = (
        "import sys; sys.modules['torch'] = sys.modules['onnx'] = None\n"
        f"from vertebra.cli import main; main(['inspect', {str(tiny_export)!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "features.0" in done.stdout or "conv1" in done.stdout, done.stderr
