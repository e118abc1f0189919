"""`vertebra train` and `vertebra evaluate`."""

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
