"""One version of a model's file, loaded: its engine, its outputs, its graph."""

from dataclasses import replace

import numpy as np
import pytest

import vertebra.serve.loaded_model as module
from vertebra.runtime.engine import EngineError, Plan
from vertebra.runtime.engine_runner import Runner, open_engine
from vertebra.serve.loaded_model import LoadedModel
from vertebra.serve.model_registry import ModelRegistry


@pytest.fixture
def path(write_model, tmp_path):
    return write_model(tmp_path / "m.onnx")


@pytest.fixture
def registry(path, settings):
    """A model that has been loaded, and no thread that looks at its file."""
    registry = ModelRegistry(replace(settings, models=(str(path),), queue=5))
    registry._load_first(registry.models["m"])
    yield registry
    registry.close()


def test_what_is_known_of_a_model(registry, path, settings):
    loaded = registry.get("m")
    assert (loaded.name, loaded.path, loaded.classes) == ("m", path, 3)
    assert loaded.card.classes == ("cat", "dog", "fish") and loaded.plan == loaded.runner.plan
    assert loaded.file_state == module.change_state(path) == registry.models["m"].checked_state
    assert loaded.loaded_at.endswith("+00:00") and len(loaded.loaded_at) == 25
    assert loaded.explains_by == "activation" and loaded.classifier.shape == (3, 8)
    assert loaded.anatomy["input"] == [32, 32, 3]
    assert loaded.batcher.max_images == 5
    assert loaded.batcher._threads[0].name == "vertebra-m-0"


def test_it_is_warm(path, settings, monkeypatch):
    """Every size is run twice, and the second time counts; before that one image shows that it predicts."""
    sizes, run = [], module.infer

    def finite(runner, name, pixels, outputs):
        sizes.append(len(pixels))
        return run(runner, name, pixels, outputs)

    times = iter([0, 5, 0, 1, 0, 9, 0, 2, 0, 8, 0, 4])
    monkeypatch.setattr(module, "infer", finite)
    monkeypatch.setattr(module.time, "perf_counter", lambda: float(next(times)))
    loaded = LoadedModel("m", path, settings, module.Metrics())
    loaded.close()
    assert sizes == [1, 1, 1, 2, 2, 4, 4]
    assert loaded.batcher.costs.batch_seconds == {1: 1.0, 2: 2.0, 4: 4.0}
    assert loaded.batcher.costs.initial_size == loaded.plan.micro_batch


def test_the_engine_is_the_one_that_was_asked_for(path, settings, monkeypatch):
    asked, runner = [], module.Predictor.runner

    def watched(self, batch, *, tune=False):
        asked.append((self.engine, batch, tune))
        return runner(self, batch)

    monkeypatch.setattr(module.Predictor, "runner", watched)
    for tune in (False, True):
        LoadedModel("m", path, replace(settings, engine="onnxruntime", tune=tune), module.Metrics()).close()
    assert asked == [("onnxruntime", 16, False), ("onnxruntime", 16, True)]


def test_a_thread_for_each_core_decodes_and_runs_the_network(path, settings, monkeypatch):
    plan = Plan(lanes=2, threads=3, micro_batch=4)
    monkeypatch.setattr(
        module.Predictor, "runner", lambda self, batch, tune: Runner(open_engine(self.path, self.card, plan), plan)
    )
    loaded = LoadedModel("m", path, settings, module.Metrics())
    loaded.close()
    assert loaded.batcher.num_workers == 6 and loaded.batcher.costs.initial_size == 4


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers(registry, value):
    class Runner:
        def call(self, pixels, outputs):
            return [np.ones((1, 3), np.float32), np.array([[1.0, value]], np.float32)]

    with pytest.raises(EngineError, match="'m' gives NaN or infinite values"):
        module.infer(Runner(), "m", None, ())


@pytest.mark.parametrize("shape", [(1,), (1, 3, 1)])
def test_probabilities_of_another_shape(path, settings, monkeypatch, shape):
    monkeypatch.setattr(module, "infer", lambda *arguments: [np.zeros(shape, np.float32)])
    with pytest.raises(EngineError, match=r"m\.onnx gives probabilities of shape .*; it must be \(N, K\)"):
        LoadedModel("m", path, settings, module.Metrics())


@pytest.mark.parametrize("count", [2, 4])
def test_another_number_of_probabilities_than_classes(path, settings, monkeypatch, count):
    monkeypatch.setattr(module, "infer", lambda *arguments: [np.zeros((1, count), np.float32)])
    with pytest.raises(EngineError, match=f"gives {count} probabilities, and its card names 3 classes"):
        LoadedModel("m", path, settings, module.Metrics())


def test_many_classes(write_model, settings, tmp_path):
    path = write_model(tmp_path / "many.onnx", classes=[f"class {index}" for index in range(300)])
    loaded = LoadedModel("many", path, settings, module.Metrics())
    loaded.close()
    assert loaded.classes == 300


@pytest.fixture
def load(path, settings):
    """Load the model's file."""
    loaded = []
    yield lambda: loaded.append(LoadedModel("m", path, settings, module.Metrics())) or loaded[-1]
    for each in loaded:
        each.close()


def test_the_graph_is_read_before_the_model_is_served(load, path):
    loaded = load()
    path.write_bytes(b"no model")  # which will not be loaded: the old one continues
    assert loaded.explains_by == "activation" and loaded.anatomy is not None


def test_a_graph_whose_maps_do_not_explain(load, monkeypatch):
    monkeypatch.setattr(module, "is_mean_pooled", lambda *arguments: False)
    loaded = load()
    assert loaded.classifier is None and loaded.explains_by == "occlusion" and loaded.anatomy is not None


def test_a_graph_without_a_classifier(load, monkeypatch):
    monkeypatch.setattr(module, "find_classifier", lambda graph: None)
    loaded = load()
    assert loaded.explains_by == "occlusion" and loaded.anatomy is not None


def test_a_graph_that_cannot_be_read(load, monkeypatch, caplog):
    monkeypatch.setattr(module, "read_onnx", lambda path: 1 / 0)
    loaded = load()
    assert loaded.anatomy is None and loaded.classifier is None
    assert "cannot read the graph of" in caplog.text


def test_the_graph_of_a_newer_file_is_not_used(load, write_model, path, monkeypatch):
    read = module.read_onnx
    monkeypatch.setattr(module, "read_onnx", lambda path: read(write_model(path, classes=("a", "b"))))
    loaded = load()
    assert loaded.anatomy is None and loaded.explains_by == "occlusion"
