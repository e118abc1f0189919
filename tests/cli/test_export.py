"""`vertebra export` and `vertebra card`."""

import json
from pathlib import Path

import pytest
import torch

from vertebra.card import read_card
from vertebra.cli import main
from vertebra.models import create_model


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
    assert "proven on batches of 1, 2 and 7" in capsys.readouterr().out
    assert read_card(out).classes == ("ant", "bee", "cat")
    assert "1. bee" in readme.read_text() and "resnet18" in readme.read_text()

    assert main(["card", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "resnet18, float32" in shown and "3: ant, bee, cat" in shown and "mine.pth, SHA-256" in shown
    assert main(["card", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["classes"] == ["ant", "bee", "cat"]
    assert main(["card", str(out), "--markdown", str(tmp_path / "again.md")]) == 0
    assert (tmp_path / "again.md").read_text() == readme.read_text()


def test_without_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "m.onnx"
    assert main(["export", "mobilenet_v2", "--weights", "none", "--out", str(out)]) == 0
    assert main(["card", str(out)]) == 0
    assert "drawn at random" in capsys.readouterr().out


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

    from vertebra.export._photos import drawn_photos

    folder = tmp_path_factory.mktemp("photos")
    for number, pixels in enumerate(drawn_photos(32, 128)):
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
