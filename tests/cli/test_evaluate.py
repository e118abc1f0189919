"""`vertebra evaluate` on the smallest network."""

import json

import pytest
from PIL import Image

pytest.importorskip("torch")


@pytest.fixture
def photos(tmp_path):
    """A photo of each of two classes."""
    for number, label in enumerate(("cat", "dog")):
        (tmp_path / "photos" / label).mkdir(parents=True)
        Image.new("RGB", (40, 40), (200 * number, 90, 120)).save(tmp_path / "photos" / label / "1.png")
    return tmp_path / "photos"


def test_a_class_without_a_photo_has_null_in_the_json(vertebra, photos, write_model, tmp_path):
    # Of eight such networks some take a cat or a dog for a fish, of which there is no photo.
    predicted = 0
    for seed in range(8):
        write_model(tmp_path / "model.onnx", seed=seed)
        done = vertebra("evaluate", tmp_path / "model.onnx", photos, "--engine", "onnxruntime", "--json")
        assert done.code == 0
        found = json.loads(done.out, parse_constant=pytest.fail)
        fish = found["classes"][2]
        assert fish == {"name": "fish", "precision": None, "recall": None, "f1": None, "photos": 0}
        predicted += sum(row[2] for row in found["confusion"])
    assert predicted
