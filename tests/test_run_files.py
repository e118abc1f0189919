"""A run whose files are of another run is used, and told. Without torch."""

import json
import warnings
from dataclasses import replace

import pytest

from vertebra.card import METADATA_KEY, Card, CardError, Preprocessing
from vertebra.errors import VertebraWarning
from vertebra.model_argument import resolve_model

CARD = Card("resnet18", Preprocessing(32, 40), ("cat", "dog", "fish"), temperature=1.25)


def write_weights(path, card):
    header = json.dumps({"__metadata__": {METADATA_KEY: card.to_json()}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)


@pytest.fixture
def run(tmp_path, write_model):
    folder = tmp_path / "my run"
    folder.mkdir()
    (folder / "settings.toml").write_text('model = "resnet18"\n')
    rows = [{"name": name, "photos": 4} for name in CARD.classes]
    (folder / "metrics.json").write_text(json.dumps({"classes": rows, "temperature": 1.25}))
    write_model(folder / "model.onnx", card=CARD.to_json())
    write_weights(folder / "weights.safetensors", CARD)
    return folder


def told(run, what):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", VertebraWarning)
        getattr(resolve_model(str(run), "export"), what)
    return [str(warning.message) for warning in found]


@pytest.mark.parametrize("name", ["resnet18", "ResNet18", "resnet18.tv_in1k"])
def test_a_run_with_its_own_files(run, name):
    (run / "settings.toml").write_text(f'model = "{name}"\n')
    assert told(run, "exported_file") == told(run, "weight_file") == []


@pytest.mark.parametrize(
    ("card", "text"),
    [
        (replace(CARD, architecture="vgg11"), "network vgg11, of the run resnet18"),
        (
            replace(CARD, classes=("dog", "cat", "fish")),
            "3 classes (dog, cat, fish), of the run 3 classes (cat, dog, fish)",
        ),
        (replace(CARD, temperature=1.5), "temperature 1.5, of the run 1.25"),
    ],
)
def test_a_file_of_another_run(run, write_model, card, text):
    write_model(run / "model.onnx", card=card.to_json())
    (found,) = told(run, "exported_file")
    assert f"{run / 'model.onnx'} is not as the run {run} made it: {text}. It is used all the same." in found
    assert found.endswith(f"Its own is made with: vertebra export '{run}' --out '{run / 'model.onnx'}'")
    assert told(run, "weight_file") == []
    write_weights(run / "weights.safetensors", card)
    (found,) = told(run, "weight_file")
    assert f"is not as the run {run} made it: {text}. It is used all the same." in found
    assert "vertebra export" not in told(run, "exported_file")[0]


@pytest.mark.parametrize("content", ["", "[", "[1]", '{"classes": [1, {}], "temperature": null}', "\x00"])
def test_a_run_that_cannot_be_read_says_nothing(run, content):
    for name in ("settings.toml", "metrics.json"):
        (run / name).write_text(content)
    assert told(run, "exported_file") == []
    (run / "weights.safetensors").write_text(content)
    assert told(run, "weight_file") == []


def test_an_empty_file_is_exported_again(run):
    (run / "model.onnx").write_bytes(b"")
    with pytest.raises(CardError) as caught:
        told(run, "exported_file")
    export = f"vertebra export '{run}' --out '{run / 'model.onnx'}'"
    assert str(caught.value) == f"{run / 'model.onnx'} is empty. Export its weights: {export}"
