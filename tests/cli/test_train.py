"""`vertebra train` and `vertebra evaluate`."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two classes of photos, and weights that need no download."""
    import torch

    from vertebra import create_model

    root = tmp_path_factory.mktemp("place")
    random = np.random.default_rng(0)
    for label, colour in (("red", (220, 30, 30)), ("blue", (30, 30, 220))):
        (root / "photos" / label).mkdir(parents=True)
        for number in range(12):
            values = np.clip(np.array(colour) + random.normal(0, 25, (40, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(values).save(root / "photos" / label / f"{number}.png")
    torch.manual_seed(0)
    torch.save(create_model("resnet18", weights=None).state_dict(), root / "drawn.pth")
    return root


def test_train_evaluate_predict(vertebra, place):
    done = vertebra(
        "train", place / "photos", "--out", place / "run", "--model", "resnet18", "--weights", place / "drawn.pth"
    )
    assert done.code == 0, done.err
    assert "on 24 held-out photos" in done.out
    assert "report.html" in done.out
    done = vertebra("evaluate", place / "run", place / "photos", "--html", place / "e.html")
    assert done.code == 0
    assert "top-1" in done.out
    assert "24 of these 24 photos trained this classifier" in done.out
    assert (place / "e.html").is_file()
    found = vertebra("evaluate", place / "run" / "model.onnx", place / "photos", "--json").json
    assert found["n"] == 24
    assert found["top1"] == 1.0
    done = vertebra("predict", place / "photos" / "red" / "0.png", "--model", place / "run" / "model.onnx")
    assert "red" in done.out


def test_what_was_passed_by_is_told_and_kept(vertebra, place, tmp_path):
    shutil.copytree(place / "photos", tmp_path / "photos" / "Train")
    for path in ("extra/1.png", "Train/red/@eaDir/1.png", "VAL/reds/1.png", "VAL/blue/1.png", "Train/green/1.jpg"):
        (tmp_path / "photos" / path).parent.mkdir(parents=True, exist_ok=True)
        if path.endswith(".png"):
            shutil.copy(place / "photos" / "red" / "0.png", tmp_path / "photos" / path)
        else:
            (tmp_path / "photos" / path).write_text("no photo")
    (tmp_path / "photos" / "Train" / "red" / "notes.txt").write_text("")
    (tmp_path / "photos" / "Train" / "red" / "copy.png").symlink_to("0.png")
    options = ("--model", "resnet18", "--weights", place / "drawn.pth", "--out", tmp_path / "run")
    done = vertebra("train", tmp_path / "photos", *options)
    assert done.code == 1
    assert "beside them extra, which are no splits" in done.error
    done = vertebra("train", tmp_path / "photos", "--ignore", "extra", *options)
    assert done.code == 1
    assert "the class 'reds' has photos in val and none to train on. Did you mean 'red'?" in done.error
    assert not (tmp_path / "run").exists()
    done = vertebra("train", tmp_path / "photos", "--ignore", "extra", "--allow-unseen", *options)
    assert done.code == 0, done.err
    notes = json.loads((tmp_path / "run" / "metrics.json").read_text())["notes"]
    for note in (
        "Ignored, as asked: extra.",
        "Passed by, as hidden or made by a system: Train/red/@eaDir.",
        "Links within this folder, so their photos count more than once: Train/red/copy.png → Train/red/0.png.",
        "Left out, as these classes have no photo to train on: 'reds' (1 in val).",
        "Not learned, as no photo of it can be used: 'green', such as Train/green/1.jpg.",
        "No photos, and left alone: 1 files in class folders, such as Train/red/notes.txt.",
    ):
        assert note in notes
        assert note in done.out
    kept = (tmp_path / "run" / "settings.toml").read_text()
    assert 'ignore = ["extra"]\nallow_unseen = true\n' in kept
    # The run's own table is a data set: also with links, which are files of their own.
    assert vertebra("audit", tmp_path / "run" / "data.csv", "--json").json["photos"] == 26
    assert vertebra("train", "--resume", tmp_path / "run").code == 0
    done = vertebra("evaluate", tmp_path / "run", tmp_path / "photos", "--ignore", "extra")
    assert done.code == 2
    assert "does not know, such as 'reds'; it knows blue, red. Did you mean 'red'?" in done.error
    done = vertebra("evaluate", tmp_path / "run", tmp_path / "photos", "--ignore", "extra", "--allow-unseen", "--json")
    assert done.json["n"] == 1
    assert "Left out: 1 photos of classes that the model does not know: 'reds'." in done.json["notes"]


def test_nothing_to_train_on_is_said(vertebra, place, tmp_path):
    shutil.copytree(place / "photos", tmp_path / "photos" / "test")
    options = ("--model", "resnet18", "--weights", place / "drawn.pth", "--out", tmp_path / "run")
    done = vertebra("train", tmp_path / "photos", *options)
    assert done.code == 1
    assert "marks no photo for training. Change the split of some to train; all are in test." in done.error


def test_settings_from_a_file(vertebra, place, tmp_path):
    (tmp_path / "s.toml").write_text(f'data = "{place / "photos"}"\nmethod = "nothing"\n')
    done = vertebra("train", "--config", tmp_path / "s.toml", "--out", tmp_path / "run")
    assert done.code == 2
    assert "there is no method 'nothing'" in done.error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train",), "nothing to train on"),
        (("train", "nowhere", "--out", "{}/new"), "no folder, table or data set 'nowhere'"),
        (("evaluate", "{}", "{}"), "is no run: it has no model.onnx"),
        (("evaluate", "{}/no.onnx", "{}"), "no such file"),
        (("train", "{}", "--set", "ema"), "--set takes NAME=VALUE"),
        (("train", "{}", "--set", "emma=0.9"), "Did you mean 'ema'"),
        (("train", "{}", "--epochs", "3"), "epochs would do nothing"),
        (("train", "{}", "--resume", "{}"), "takes data and folder from the run"),
        (("train", "--resume", "{}"), "holds no run"),
        (("evaluate", "{}", "{}", "--html", "x.pdf"), "must end in .html"),
    ],
)
def test_mistakes(vertebra, tmp_path, arguments, message):
    done = vertebra(*(argument.format(tmp_path) for argument in arguments))
    assert done.code == 2
    assert message in done.error


def test_12_bits_in_16(vertebra, place, tmp_path, monkeypatch):
    """What is learned of photos of 12 bits in files of 16 is what is learned of the same photos in 8."""
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    levels = {"dark": 60, "light": 180}
    for label, level in levels.items():
        for name in ("of 8", "of 12"):
            (tmp_path / name / label).mkdir(parents=True)
        for number in range(8):
            grey = np.clip(level + random.normal(0, 30, (40, 40)), 0, 255).astype(np.uint8)
            grey[0, 0] = 255
            Image.fromarray(grey).save(tmp_path / "of 8" / label / f"{number}.png")
            deep = np.rint(grey * (4095 / 255)).astype(np.uint16)
            Image.fromarray(deep).save(tmp_path / "of 12" / label / f"{number}.png")
    told = "stay below 4,096 where white is 65,535: nearly black. If 12 bits are used, add --bits 12"
    done = vertebra("audit", tmp_path / "of 12", "--strict")
    assert done.code == 1 and told in done.out and "no problems" not in done.out
    assert "16 photos of 16-bit values whose white is in doubt" in done.err
    assert vertebra("audit", tmp_path / "of 12", "--strict", "--bits", 12).code == 0
    common = ("--model", "resnet18", "--weights", place / "drawn.pth", "--set", "folds=3")
    done = vertebra("train", tmp_path / "of 12", "--out", tmp_path / "unsaid", *common)
    assert done.code == 0 and told in done.out
    assert told in (tmp_path / "unsaid" / "report.html").read_text(encoding="utf-8")
    for name, more in (("of 8", ()), ("of 12", ("--bits", 12))):
        done = vertebra("train", tmp_path / name, "--out", tmp_path / f"run {name}", *common, *more)
        assert done.code == 0 and "16-bit" not in done.out
    found = [
        vertebra(
            "predict", tmp_path / name / "light" / "3.png", "--model", tmp_path / f"run {name}" / "model.onnx", "--json"
        )
        for name in ("of 8", "of 12")
    ]
    assert found[0].json[0]["predictions"] == found[1].json[0]["predictions"] and not found[1].err
    deep = tmp_path / "of 12" / "light" / "3.png"
    # Another model says nothing of the depth, so predict does, and may be told.
    done = vertebra("predict", deep, "--model", tmp_path / "run of 8" / "model.onnx", "--json")
    assert told in done.error and done.json[0]["predictions"] != found[0].json[0]["predictions"]
    done = vertebra("predict", deep, "--model", tmp_path / "run of 8" / "model.onnx", "--json", "--bits", 12)
    assert not done.err and done.json[0]["predictions"] == found[0].json[0]["predictions"]
    done = vertebra("evaluate", tmp_path / "run of 12", tmp_path / "of 12")
    assert done.code == 0 and "16-bit" not in done.out
    assert told in vertebra("evaluate", tmp_path / "run of 8", tmp_path / "of 12").out
    assert told not in vertebra("evaluate", tmp_path / "run of 8", tmp_path / "of 12", "--bits", 12).out
    assert "white at 4,095" in vertebra("card", tmp_path / "run of 12" / "model.onnx").out
    assert vertebra("train", tmp_path / "of 12", "--bits", 17, "--out", tmp_path / "no").code == 2
