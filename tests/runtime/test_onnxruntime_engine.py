"""A model whose weights are mapped from its own file predicts what the file does."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from vertebra.card import read_card
from vertebra.runtime.engine import OUTPUTS, EngineError, Plan
from vertebra.runtime.engine_runner import open_engine
from vertebra.runtime.onnxruntime_engine import OnnxRuntimeEngine, map_weights
from vertebra.runtime.predictor import Predictor
from vertebra.synthetic_photos import synthetic_photos

CLASSES = [f"class {index}" for index in range(200)]  # a weight of 6,400 bytes


@pytest.fixture(scope="module")
def model(write_model, tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("mapped") / "m.onnx", classes=CLASSES)


def assert_equal(wanted, found):
    """But for another order of adding up."""
    for one, other in zip(wanted, found, strict=True):
        assert np.abs(one - other).max() <= 1e-5 * np.abs(one).max()


def test_large_weights_become_places_and_the_rest_stays(model):
    found, whole = onnx.load_from_string(map_weights(model)), onnx.load(model)
    content = model.read_bytes()
    elsewhere = 0
    for tensor, original in zip(found.graph.initializer, whole.graph.initializer, strict=True):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            elsewhere += 1
            place = {entry.key: entry.value for entry in tensor.external_data}
            assert place["location"] == "m.onnx"
            start, length = int(place["offset"]), int(place["length"])
            assert content[start : start + length] == numpy_helper.to_array(original).tobytes()
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
            tensor.raw_data = original.raw_data
    assert elsewhere == 1
    assert found == whole


@pytest.mark.parametrize("name", ["m.onnx", "my photos.onnx", "häuser = 3; x.onnx", "..onnx"])
def test_the_outputs_are_those_of_the_file(write_model, tmp_path, name):
    path = write_model(tmp_path / name, classes=CLASSES)
    card = read_card(path)
    images = synthetic_photos(3, 32)
    found = open_engine(path, card, Plan(fast_start=True)).run(images, OUTPUTS)
    assert_equal(OnnxRuntimeEngine(path, card, Plan()).run(images, OUTPUTS), found)


def test_through_a_link_and_from_another_folder(model, tmp_path, monkeypatch):
    link = tmp_path / "link.onnx"
    link.symlink_to(model)
    monkeypatch.chdir(tmp_path)
    images = synthetic_photos(1, 32)
    found = open_engine(link.relative_to(tmp_path), read_card(link), Plan(fast_start=True)).run(images)
    assert_equal(OnnxRuntimeEngine(model, read_card(model), Plan()).run(images), found)


def test_a_model_that_keeps_its_numbers_one_by_one(write_model, tmp_path):
    """Other writers than onnx's put floats into a field of their own, which stays as it is."""

    def change(model):
        for tensor in model.graph.initializer:
            values = numpy_helper.to_array(tensor).ravel().tolist()
            tensor.ClearField("raw_data")
            tensor.float_data.extend(values)

    path = write_model(tmp_path / "m.onnx", classes=CLASSES, change=change)
    assert onnx.load_from_string(map_weights(path)) == onnx.load(path)


def test_a_damaged_graph_is_named(model, tmp_path):
    card = read_card(model)
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(model.read_bytes().replace(b"GlobalAveragePool", b"GlobalNonsensPool"))
    with pytest.raises(EngineError, match=r"damaged\.onnx.*GlobalNonsensPool"):
        open_engine(damaged, card, Plan(fast_start=True))
    damaged.write_bytes(model.read_bytes()[:3000])
    with pytest.raises(EngineError, match=r"damaged\.onnx cannot be loaded"):
        open_engine(damaged, card, Plan(fast_start=True))
    with pytest.raises(EngineError, match=r"no\.onnx cannot be loaded"):
        open_engine(tmp_path / "no.onnx", card, Plan(fast_start=True))


def test_a_few_photos_take_it(model, tmp_path, monkeypatch):
    import vertebra.runtime.engine_selection as module

    plans = []
    monkeypatch.setattr(
        module, "open_engine", lambda path, card, plan: plans.append(plan) or open_engine(path, card, plan)
    )
    from PIL import Image

    photos = []
    for index, pixels in enumerate(synthetic_photos(3, 48)):
        photos.append(tmp_path / f"{index}.png")
        Image.fromarray(pixels).save(photos[-1])
    fast_start = Predictor(model, fast_start=True, threads=2)
    found = list(fast_start.predict_many(photos, top=3))
    assert plans == [Plan(threads=2, fast_start=True)]
    for one, other in zip(found, Predictor(model).predict_many(photos, top=3), strict=True):
        assert [entry["class"] for entry in one.predictions] == [entry["class"] for entry in other.predictions]
