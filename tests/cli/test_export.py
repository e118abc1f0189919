"""`vertebra export` and `vertebra card`."""

import argparse
import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vertebra.card import Card, Decoding, Preprocessing, read_card
from vertebra.cli import main
from vertebra.export import Prepared
from vertebra.models import EfficientNet, create_model
from vertebra.models.efficientnet import MBConvConfig

pytestmark = pytest.mark.usefixtures("tiny_module")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.save(create_model("resnet18", num_classes=3).state_dict(), tmp_path / "mine.pth")
    return tmp_path / "mine.pth"


def test_a_checkpoint_with_its_classes(
    checkpoint: Path, tmp_path: Path, shared_photos: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "classes.txt").write_text("ant\nbee\ncat\n")
    out, readme = tmp_path / "m.onnx", tmp_path / "m.md"
    arguments = ["export", str(checkpoint), "--model", "resnet18", "--classes", str(tmp_path / "classes.txt")]
    arguments += ["--images", str(shared_photos[0].parent), "--out", str(out), "--card", str(readme)]
    assert main(arguments) == 0
    assert "verified against torch on batches of 1, 2 and 7" in capsys.readouterr().out
    assert read_card(out).classes == ("ant", "bee", "cat")
    assert "1. bee" in readme.read_text() and "resnet18" in readme.read_text()

    assert main(["card", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "resnet18, float32" in shown and "3: ant, bee, cat" in shown and "mine.pth, SHA-256" in shown
    assert main(["card", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["classes"] == ["ant", "bee", "cat"]
    assert main(["card", str(out), "--markdown", str(tmp_path / "again.md")]) == 0
    assert (tmp_path / "again.md").read_text() == readme.read_text()


def test_options_for_all_that_a_file_does_not_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": create_model("googlenet", num_classes=3).state_dict()}, tmp_path / "mine.ckpt")
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\n")
    out = tmp_path / "m.onnx"
    bare = ["export", str(tmp_path / "mine.ckpt"), "--model", "googlenet", "--out", str(out)]
    view = "--size 64 --resize 80 --mean 0.5 --std 0.25,0.5,0.75 --interpolation bicubic"
    options = view.split()
    options += ["--temperature", "1.5", "--threshold", "0.25", "--classes", str(tmp_path / "names.txt")]
    assert main([*bare, *options]) == 0
    assert capsys.readouterr().err == ""
    card = read_card(out)
    assert card.preprocessing == Preprocessing(64, 80, "bicubic", (0.5, 0.5, 0.5), (0.25, 0.5, 0.75))
    assert card.temperature == 1.5 and card.threshold == 0.25 and card.classes == ("ant", "bee", "cat")
    assert main([*bare, "--size", "64", "--transform-input"]) == 0
    first, second = capsys.readouterr().err.splitlines()
    assert "saved with transform_input=False; the given transform_input=True is used instead" in first
    assert second.startswith("vertebra: '") and "assumed: resize 73, interpolation bilinear, mean" in second
    for text in ("--mean 0.5,0.5", "--std x", "--threshold 2", "--size 0", "--mean 123,116,103"):
        wrong = text.split()
        assert main([*bare, *wrong]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    resnet = ["export", "resnet18", "--weights", "none", "--no-transform-input", "--out", str(out)]
    assert main(resnet) == 2
    assert "resnet18 does not take transform_input" in capsys.readouterr().err


def test_an_averaged_copy_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = create_model("mobilenet_v2", num_classes=3).state_dict()
    ema = {f"module.{name}": value * 2 for name, value in state.items()}
    path, out = str(tmp_path / "m.pth.tar"), str(tmp_path / "m.onnx")
    torch.save({"state_dict": state, "state_dict_ema": ema, "args": argparse.Namespace()}, path)
    assert main(["export", path, "--model", "mobilenet_v2", "--out", out]) == 0
    averaged, assumed = capsys.readouterr().err.splitlines()
    assert "weights at 'state_dict' and an averaged copy at 'state_dict_ema → module', which is loaded" in averaged
    assert "assumed: size 224" in assumed


def test_without_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "m.onnx"
    assert main(["export", "mobilenet_v2", "--weights", "none", "--out", str(out)]) == 0
    assert main(["card", str(out)]) == 0
    assert "weights        random" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "resnet-18", "--out", "m.onnx"], "Did you mean 'resnet18'"),
        (["export", "resnet18", "--weights", "none"], "--out"),
        (["export", "resnet18", "--weights", "none", "--out", "m.txt"], "must end in .onnx"),
        (["export", "resnet18", "--weights", "none", "--out", "m.onnx", "--card", "m.txt"], "must end in .md"),
        (["export", "resnet18", "--weights", "none", "--out", "m.onnx", "--classes", "none.txt"], "none.txt"),
        (["export", "resnet18", "--weights", "none", "--out", "m.onnx", "--classes", "empty.txt"], "holds no names"),
        (["export", "resnet18", "--weights", "none", "--out", "m.onnx", "--images", "."], "has no photos"),
        (["export", "resnet18", "--weights", "none", "--out", "m.onnx", "--precision", "int8"], "--calibration DIR"),
        (["export", "resnet18", "--weights", "none", "--out", "m.onnx", "--calibration", "."], "belong together"),
        (["card", "empty.txt"], "empty.txt"),
        (["card", "missing.onnx"], "missing.onnx"),
    ],
)
def test_wrong_calls(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("")
    assert main(arguments) in (1, 2)
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and error.startswith("vertebra: ")
    assert [path.name for path in tmp_path.iterdir()] == ["empty.txt"]


INT8 = ["--precision", "int8", "--calibration"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32 pictures, and one that is broken."""
    from PIL import Image

    from vertebra.synthetic_photos import synthetic_photos

    folder = tmp_path_factory.mktemp("photos")
    for number, pixels in enumerate(synthetic_photos(32, 128)):
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    (folder / "00.jpg").write_bytes(b"no picture")
    return folder


def test_int8(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "m.onnx"
    arguments = ["export", "mobilenet_v2", "--weights", "none", "--out", str(out), *INT8, str(photos), "--force"]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert "00.jpg" in printed.err  # left out by name
    assert "Judged on" in printed.out and "Ship: " in printed.out
    assert read_card(out).precision == "int8"


def test_photos_of_12_bits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    folder, out = tmp_path / "deep", tmp_path / "m.onnx"
    folder.mkdir()
    Image.linear_gradient("L").convert("I;16").point(lambda value: value * 16).save(folder / "deep.png")
    arguments = ["export", "resnet18", "--weights", "none", "--out", str(out), "--size", "32", "--images", str(folder)]
    assert main(arguments) == 0
    assert "stay below 4,096 where white is 65,535" in capsys.readouterr().err
    assert main([*arguments, "--bits", "12"]) == 0
    assert capsys.readouterr().err == ""
    assert read_card(out).preprocessing.decoding == Decoding(bits=12)


def test_too_few_photos(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(photos.glob("*.png"))[:3]:
        (few / path.name).write_bytes(path.read_bytes())
    arguments = ["export", "mobilenet_v2", "--weights", "none", "--out", str(tmp_path / "m.onnx"), *INT8, str(few)]
    assert main(arguments) != 0
    error = capsys.readouterr().err
    assert "3" in error and error.count("\n") == 1
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize(
    ("readable", "broken", "code", "message"),
    [
        (0, 0, 2, "has no photos. Give a folder with some."),
        (0, 25, 1, "none of the 25 photos could be read."),
        (12, 13, 2, "12 photos are too few to quantise by"),
    ],
)
def test_folders_that_cannot_calibrate(
    readable: int, broken: int, code: int, message: str, tiny_export: "Exported", tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(broken):
        (tmp_path / "photos" / f"{number:02}.jpg").write_bytes(b"no picture")
    found, printed, error, out = tiny_export(readable)
    *left_out, last = error.splitlines()
    assert (found, printed) == (code, "") and message in last
    assert len(left_out) == broken and all("left out: " in line for line in left_out)
    assert not out.exists()


@pytest.mark.parametrize("where", ["a thread of a pass", "rounding", "reading photos"])
def test_ctrl_c_writes_nothing(where: str, tiny_export: "Exported", monkeypatch: pytest.MonkeyPatch) -> None:
    from vertebra import pixels
    from vertebra.export import activation_ranges, int8_plan

    places: dict[str, tuple[object, str]] = {
        "a thread of a pass": (activation_ranges.HistogramObserver, "reduce"),
        "rounding": (int8_plan, "best_levels"),
        "reading photos": (pixels, "network_pixels"),
    }
    holder, name = places[where]
    work, calls = getattr(holder, name), iter(range(1_000))

    def interrupted(*arguments: Any, **options: Any) -> Any:
        if next(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return work(*arguments, **options)

    monkeypatch.setattr(holder, name, interrupted)
    threads = threading.active_count()
    code, printed, error, out = tiny_export(24)
    assert (code, printed) == (130, "") and "stopped. Nothing was written." in error
    assert not out.exists() and threading.active_count() == threads


# --- how good int8 is, and how well that is known --------------------------------------------------------------------

CROP = 32
# Exit code, standard output, standard error, the file.
Exported = Callable[..., tuple[int, str, str, Path]]


@pytest.fixture(scope="module")
def tiny() -> Prepared:
    """A network of two blocks that is sure of itself, for pictures of 32 pixels."""
    from vertebra.synthetic_photos import synthetic_photos

    torch.manual_seed(0)
    blocks = [MBConvConfig(1, 3, 1, 32, 16, 1, 1, 1), MBConvConfig(4, 3, 2, 16, 24, 1, 1, 1)]
    network = EfficientNet(blocks, dropout=0, num_classes=3)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    network.train()
    with torch.no_grad():
        network(torch.from_numpy(synthetic_photos(8, CROP)).permute(0, 3, 1, 2).float().div(64).sub(2))
        network.get_classifier().weight *= 8
    preprocessing = Preprocessing(CROP, CROP)
    return Prepared(network.eval(), Card("tiny", preprocessing, ("ant", "bee", "cat")))


@pytest.fixture
def tiny_export(
    tiny: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Exported:
    """The command with that network on so many drawn photos, in class folders by what it says of them or in one."""
    from PIL import Image

    from vertebra.export import int8
    from vertebra.export.torch_check import reference
    from vertebra.synthetic_photos import synthetic_photos

    monkeypatch.setattr("vertebra.export.prepare", lambda model, **options: tiny)
    monkeypatch.setattr(int8, "time_sessions", lambda sessions, image: [2.0, 1.0])

    def run(photos: int, *options: str, labelled: bool = True) -> tuple[int, str, str, Path]:
        pixels = synthetic_photos(max(photos, 1), CROP)[:photos]
        answers = reference(tiny.network, tiny.card.preprocessing, 1.0, pixels)[0].argmax(1)
        for number, (picture, answer) in enumerate(zip(pixels, answers, strict=True)):
            name = ("ant", "Bee", "CAT")[answer] if labelled else "all"
            (tmp_path / "photos" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(tmp_path / "photos" / name / f"{number:03}.png")
        out = tmp_path / "m.onnx"
        code = main(["export", "tiny", "--out", str(out), *INT8, str(tmp_path / "photos"), *options])
        return code, *capsys.readouterr(), out

    return run


@pytest.mark.parametrize(("photos", "judged"), [(20, 5), (60, 15)])
def test_few_photos_export_and_claim_nothing(photos: int, judged: int, tiny_export: Exported) -> None:
    code, printed, _, out = tiny_export(photos)
    assert code == 0
    assert f"Judged on {judged} photos that neither set ranges ({photos // 2} others)" in printed
    assert f"not shown: {judged} photos judged, a bound of 1 point needs about" in printed
    measured = read_card(out).metrics["int8 beside float32"]
    assert measured["photos"] == judged and measured["at most 1 point lost"].startswith("not shown")
    low, high = measured["agreement interval"]
    assert low <= measured["agreement"] <= high and high - low > 15
    assert measured["loss interval"][1] > 1
    assert main(["card", str(out)]) == 0


def test_few_photos_are_refused_where_proof_is_required(
    tiny_export: Exported,
) -> None:
    code, _, error, out = tiny_export(20, "--require-proof")
    assert code == 1 and error.count("\n") == 1
    assert "5 photos judged, a bound of 1 point needs about" in error and "Nothing was written" in error
    assert not out.exists()


def test_enough_photos_show_it(tiny_export: Exported) -> None:
    code, printed, _, out = tiny_export(400, "--require-proof", "--max-drop", "5")
    assert code == 0
    assert "Judged on 208 photos" in printed and "A loss of at most 5 points: shown with 95 % confidence" in printed
    measured = read_card(out).metrics["int8 beside float32"]
    assert measured["measure"] == "accuracy" and measured["photos"] == 208
    assert measured["loss interval"][0] <= measured["loss"] <= measured["loss interval"][1] <= 5


def test_without_labels_agreement_bounds_the_loss(tiny_export: Exported) -> None:
    code, printed, _, out = tiny_export(60, labelled=False)
    assert code == 0 and "No folder names a class" in printed
    measured = read_card(out).metrics["int8 beside float32"]
    assert measured["measure"] == "agreement" and measured["largest loss"] > 15


@pytest.mark.parametrize("options", [["--force", *INT8, "."], []])
def test_what_proof_cannot_go_with(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", "resnet18", "--weights", "none", "--out", "m.onnx", "--require-proof", *options]) == 2
    assert "--require-proof" in capsys.readouterr().err


def test_photos_to_calibrate_by_are_found_as_those_to_predict(tmp_path: Path) -> None:
    from vertebra.cli.export import _sample_photos

    for name in ("cat/b.jpg", "cat/a.JFIF", "cat/@eaDir/b.jpg", "cat/.c.jpg", "__MACOSX/d.jpg", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "plain").write_bytes(b"\xff\xd8\xff\xe0")
    found = _sample_photos("--images", tmp_path, 10)
    assert [str(path.relative_to(tmp_path)) for path in found] == ["cat/a.JFIF", "cat/b.jpg", "plain"]
    assert len(_sample_photos("--images", tmp_path, 2)) == 2


def test_the_resolution_of_a_bare_file_is_assumed_or_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = create_model("mobilenet_v2", num_classes=3)
    network.reset_resolution()
    path, out = tmp_path / "small.pth", tmp_path / "m.onnx"
    torch.save(dict(network.state_dict()), path)
    command = ["export", str(path), "--model", "mobilenet_v2", "--size", "32", "--out", str(out)]
    assert main(command) == 0
    assert "resolution as published (else --low-resolution)" in capsys.readouterr().err
    assert main([*command, "--low-resolution"]) == 0
    assert "resolution as published" not in capsys.readouterr().err


def test_a_function_of_one_s_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def small():\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))\n"
    )
    (tmp_path / "classes.txt").write_text("ant\nbee\ncat\n")
    call = ["export", f"{tmp_path / 'mine.py'}:small", "--out", str(tmp_path / "m.onnx")]
    assert main(call) == 2
    error = capsys.readouterr().err
    assert "nothing says how the photos of this Sequential are prepared" in error and "--size" in error
    assert "preprocessing=" not in error and "weights=" not in error  # what is typed here are options
    assert main([*call, "--resize", "40", "--bits", "12"]) == 2
    error = capsys.readouterr().err
    assert "this Sequential is incomplete: give --size, --mean and --std too, or --weights NAME for" in error
    call += ["--size", "32", "--mean", "0.5", "--std", "0.25", "--classes", str(tmp_path / "classes.txt")]
    assert main(call) == 0
    assert "assumed: resize 37, interpolation bilinear" in capsys.readouterr().err
    card = read_card(tmp_path / "m.onnx")
    assert card.classes == ("ant", "bee", "cat") and card.preprocessing == Preprocessing(32, 37, mean=0.5, std=0.25)
