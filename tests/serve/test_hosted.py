"""Models and their files, without a server: each look at a file is the test's own."""

import json
import logging
import re
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import vertebra.serve.hosted as module
from vertebra.card import CardError
from vertebra.errors import VertebraError
from vertebra.runtime.engines import EngineError, Plan, Runner, open_engine
from vertebra.serve.hosted import Loaded, Shelf
from vertebra.serve.problems import ApiError


@pytest.fixture
def path(write_model, tmp_path):
    return write_model(tmp_path / "m.onnx")


@pytest.fixture
def shelf(path, settings):
    """A model that has been loaded, and no thread that looks at its file."""
    shelf = Shelf(replace(settings, models=(str(path),), queue=5))
    shelf._first(shelf.models["m"])
    yield shelf
    shelf.close()


@pytest.fixture
def look(shelf):
    """Look at the file as often as it takes to believe it; how often that was."""
    changing = {}

    def look(times=2):
        for _ in range(times):
            shelf._look(shelf.models["m"], changing)
        return shelf.models["m"]

    look.changing = changing
    return look


def reloads(shelf, result):
    return f'vertebra_reloads_total{{model="m",result="{result}"}} 1.0' in shelf.metrics.text().decode()


def until(condition):
    stop = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < stop, "not so after 10 s"
        time.sleep(0.001)


# --- one version ------------------------------------------------------------------------------------------------------


def test_what_is_known_of_a_model(shelf, path, settings):
    loaded = shelf.get("m")
    assert (loaded.name, loaded.path, loaded.classes) == ("m", path, 3)
    assert loaded.card.classes == ("cat", "dog", "fish") and loaded.plan == loaded.runner.plan
    assert loaded.stamp == module.change_state(path) == shelf.models["m"].seen
    assert loaded.since.endswith("+00:00") and len(loaded.since) == 25
    assert loaded.explains_by == "activation" and loaded.classifier.weight.shape == (3, 8)
    assert loaded.anatomy["input"] == [32, 32, 3]
    assert loaded.batcher.limit == 5
    assert loaded.batcher._threads[0].name == "vertebra-m-0"


def test_it_is_warm(path, settings, monkeypatch):
    """Every size is run twice, and the second time counts; before that one image shows that it predicts."""
    sizes, run = [], module._finite

    def finite(runner, name, pixels, outputs):
        sizes.append(len(pixels))
        return run(runner, name, pixels, outputs)

    times = iter([0, 5, 0, 1, 0, 9, 0, 2, 0, 8, 0, 4])
    monkeypatch.setattr(module, "_finite", finite)
    monkeypatch.setattr(module.time, "perf_counter", lambda: float(next(times)))
    loaded = Loaded("m", path, settings, module.Metrics())
    loaded.close()
    assert sizes == [1, 1, 1, 2, 2, 4, 4]
    assert loaded.batcher.costs.batch == {1: 1.0, 2: 2.0, 4: 4.0}
    assert loaded.batcher.costs.start == loaded.plan.micro_batch


def test_the_engine_is_the_one_that_was_asked_for(path, settings, monkeypatch):
    asked, runner = [], module.Predictor.runner

    def watched(self, batch, *, tune=False):
        asked.append((self.engine, batch, tune))
        return runner(self, batch)

    monkeypatch.setattr(module.Predictor, "runner", watched)
    for tune in (False, True):
        Loaded("m", path, replace(settings, engine="onnxruntime", tune=tune), module.Metrics()).close()
    assert asked == [("onnxruntime", 16, False), ("onnxruntime", 16, True)]


def test_a_thread_for_each_core_decodes_and_runs_the_network(path, settings, monkeypatch):
    plan = Plan(lanes=2, threads=3, micro_batch=4)
    monkeypatch.setattr(
        module.Predictor, "runner", lambda self, batch, tune: Runner(open_engine(self.path, self.card, plan), plan)
    )
    loaded = Loaded("m", path, settings, module.Metrics())
    loaded.close()
    assert loaded.batcher.workers == 6 and loaded.batcher.costs.start == 4


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers(shelf, value):
    class Runner:
        def call(self, pixels, outputs):
            return [np.ones((1, 3), np.float32), np.array([[1.0, value]], np.float32)]

    with pytest.raises(EngineError, match="'m' gives values that are no numbers"):
        module._finite(Runner(), "m", None, ())


@pytest.mark.parametrize("shape", [(1,), (1, 3, 1)])
def test_probabilities_of_another_shape(path, settings, monkeypatch, shape):
    monkeypatch.setattr(module, "_finite", lambda *arguments: [np.zeros(shape, np.float32)])
    with pytest.raises(EngineError, match=r"m\.onnx gives probabilities of shape .*; it must be \(N, K\)"):
        Loaded("m", path, settings, module.Metrics())


@pytest.mark.parametrize("count", [2, 4])
def test_another_number_of_probabilities_than_classes(path, settings, monkeypatch, count):
    monkeypatch.setattr(module, "_finite", lambda *arguments: [np.zeros((1, count), np.float32)])
    with pytest.raises(EngineError, match=f"gives {count} probabilities, and its card names 3 classes"):
        Loaded("m", path, settings, module.Metrics())


def test_many_classes(write_model, settings, tmp_path):
    path = write_model(tmp_path / "many.onnx", classes=[f"class {index}" for index in range(300)])
    loaded = Loaded("many", path, settings, module.Metrics())
    loaded.close()
    assert loaded.classes == 300


def test_a_graph_is_described_once(shelf, monkeypatch):
    read, reads = module.read_graph, []
    monkeypatch.setattr(module, "read_graph", lambda path: reads.append(path) or read(path))
    loaded = shelf.get("m")
    assert loaded.anatomy is loaded.anatomy and loaded.classifier is loaded.classifier
    assert reads == [loaded.path]


def test_a_graph_whose_maps_do_not_explain(shelf, monkeypatch):
    monkeypatch.setattr(module, "holds", lambda *arguments: False)
    loaded = shelf.get("m")
    assert loaded.classifier is None and loaded.explains_by == "occlusion" and loaded.anatomy is not None


def test_a_graph_without_a_classifier(shelf, monkeypatch):
    monkeypatch.setattr(module, "find_classifier", lambda graph: None)
    loaded = shelf.get("m")
    assert loaded.explains_by == "occlusion" and loaded.anatomy is not None


def test_a_graph_that_cannot_be_described(shelf, monkeypatch, caplog):
    monkeypatch.setattr(module, "read_graph", lambda path: 1 / 0)
    loaded = shelf.get("m")
    assert loaded.anatomy is None and loaded.classifier is None
    assert "m.onnx cannot be described" in caplog.text


def test_a_graph_of_another_file_is_not_taken(shelf, write_model, path):
    write_model(path, classes=("a", "b"))
    loaded = shelf.get("m")
    assert loaded.anatomy is None and loaded.explains_by == "occlusion"


# --- names ------------------------------------------------------------------------------------------------------------


def test_models_by_name(shelf):
    assert shelf.get(None) is shelf.get("m") is shelf.get("")
    with pytest.raises(ApiError, match=r"no model 'n'\. Served are m\.") as caught:
        shelf.get("n")
    assert caught.value.status == 404
    with pytest.raises(ApiError, match=f"'{'x' * 100}'"):
        shelf.get("x" * 200)
    shelf.models["m"].current = None
    with pytest.raises(ApiError, match="'m' is still being loaded") as caught:
        shelf.get("m")
    assert caught.value.status == 503 and caught.value.headers == {"Retry-After": "1"}
    shelf._first(shelf.models["m"])


def test_a_mistyped_name(path, settings):
    shelf = Shelf(replace(settings, models=(f"tulips={path}", f"roses={path}")))
    assert shelf.default == "tulips"
    with pytest.raises(ApiError, match="Did you mean 'tulips'"):
        shelf.get("tulip")
    shelf.close()


def test_a_file_without_a_card_is_told_at_once(settings, tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(CardError, match=r"m\.onnx"):
        Shelf(replace(settings, models=(str(tmp_path / "m.onnx"),)))


def test_a_name_is_exported_by_another_process_unless_it_is_kept(monkeypatch, tmp_path):
    """Exporting needs torch, which a server never loads."""
    told, runs, kept = [], [], []

    def run(command, **options):
        runs.append((command, options))
        found = json.dumps({"path": f"{tmp_path}/net.onnx", "told": ["its classes are numbers"]})
        return SimpleNamespace(returncode=0, stderr="", stdout=f"noise\n{found}\n")

    monkeypatch.setattr(module, "kept_model", lambda name: kept[-1] if kept else None)
    monkeypatch.setattr(module.subprocess, "run", run)
    assert module._file_of("resnet18", told.append) == tmp_path / "net.onnx"
    ((command, options),) = runs
    assert command[0] == module.sys.executable and command[3:] == ["resnet18", str(module.scratch_dir())]
    assert options["env"]["PYTHONPATH"].split(module.os.pathsep) == module.sys.path
    assert options["capture_output"] and options["text"] and options["errors"] == "replace"
    assert told == ["exporting resnet18, once", "its classes are numbers"]
    kept.append(tmp_path / "kept.onnx")
    assert module._file_of("resnet18", told.append) == tmp_path / "kept.onnx"
    (tmp_path / "file.onnx").write_bytes(b"looked at when it is loaded")
    assert module._file_of(str(tmp_path / "file.onnx"), told.append) == tmp_path / "file.onnx"
    assert (len(told), len(runs)) == (2, 1)


@pytest.mark.parametrize(
    ("code", "stderr", "message"),
    [
        (2, "a warning\nthere is no network\n", "^there is no network$"),
        (1, "the weights cannot be had\n", "^the weights cannot be had$"),
        (1, "", "the export failed"),
    ],
)
def test_an_export_that_fails(monkeypatch, code, stderr, message):
    monkeypatch.setattr(module, "kept_model", lambda name: None)
    found = SimpleNamespace(returncode=code, stderr=stderr, stdout='"net.onnx"')
    monkeypatch.setattr(module.subprocess, "run", lambda *arguments, **options: found)
    with pytest.raises(VertebraError, match=message) as caught:
        module._file_of("resnet18", lambda what: None)
    assert caught.value.exit_code == code


# --- files that change ------------------------------------------------------------------------------------------------


def test_a_file_that_stays_is_left_alone(shelf, look):
    before = shelf.get("m")
    assert look(5).current is before and look.changing == {}


def test_a_file_is_loaded_once_it_has_stayed_the_same_between_two_looks(shelf, look, path, write_model):
    before = shelf.get("m")
    write_model(path, classes=("a", "b"))
    assert look(1).current is before
    write_model(path, classes=("a", "b", "c", "d"))
    assert look(1).current is before  # it is being written still
    assert look(1).current.classes == 4
    assert reloads(shelf, "ok") and shelf.models["m"].error is None
    assert not any(thread.is_alive() for thread in before.batcher._threads) and before.runner.engine is None
    assert shelf.get("m")._described is not None  # before anybody asks
    now = shelf.get("m")
    assert look(3).current is now and look.changing == {}


def test_memory_is_given_back_after_a_model_has_gone(shelf, look, path, write_model, monkeypatch):
    seen = []
    first = shelf.get("m")
    monkeypatch.setattr(module, "trim", lambda: seen.append((shelf.get("m") is first, first.runner.engine is None)))
    path.write_bytes(b"no model")
    look()
    write_model(path, classes=("a", "b"))
    look()
    assert seen == [(True, False), (False, True)]


def test_a_file_that_cannot_be_loaded(shelf, look, path, write_model, caplog):
    before = shelf.get("m")
    path.write_bytes(b"no model")
    hosted = look()
    assert hosted.current is before and hosted.error.startswith("the new m.onnx is not served: ")
    assert "\n" not in hosted.error and "The one before serves on." in caplog.text
    assert reloads(shelf, "error") and not reloads(shelf, "ok")
    hosted = look(3)  # once is enough
    assert reloads(shelf, "error")
    write_model(path)
    assert look().error is None and shelf.get("m") is not before


def test_a_file_that_is_gone_and_comes_back(shelf, look, path):
    before, content = shelf.get("m"), path.read_bytes()
    path.unlink()
    assert look(1).error is None  # being replaced, perhaps
    hosted = look(1)
    assert hosted.error == f"{path} is gone." and hosted.current is before
    path.write_bytes(content)
    assert look().error is None and shelf.get("m") is not before


def test_a_model_that_has_never_been_loaded(shelf, look, path, write_model):
    shelf.get("m").close()
    shelf.models["m"].current = None
    write_model(path, classes=("a", "b"))
    assert look().current.classes == 2


# --- its thread -------------------------------------------------------------------------------------------------------


def test_all_are_loaded_and_watched_by_a_thread(path, write_model, settings, caplog):
    caplog.set_level(logging.INFO, "vertebra.serve")
    shelf = Shelf(replace(settings, models=(str(path), f"n={path}"), reload_seconds=0.001))
    assert not shelf.ready and not shelf.wait(0)
    assert shelf.start() is shelf
    assert shelf.wait(10) and shelf.ready
    until(lambda: shelf.get("n")._described and shelf.get("m")._described)
    assert all(float(seconds) < 60 for seconds in re.findall(r"m\.onnx loaded in (\d+\.\d\d) s", caplog.text))
    assert caplog.text.count("m.onnx loaded in ") == 2
    old = shelf.get("n")
    write_model(path.with_suffix(".new"), classes=("a", "b")).replace(path)
    until(lambda: shelf.get("m").classes == shelf.get("n").classes == 2)
    assert shelf._thread.daemon and shelf._thread.name == "vertebra-models"
    shelf.close()
    assert not shelf._thread.is_alive()
    for loaded in (old, shelf.get("m"), shelf.get("n")):
        assert not any(thread.is_alive() for thread in loaded.batcher._threads)


def test_a_model_that_cannot_be_loaded_ends_the_server(path, settings, monkeypatch):
    def fail(*arguments):
        raise VertebraError("it cannot")

    monkeypatch.setattr(module, "Loaded", fail)
    shelf, ended = Shelf(replace(settings, models=(str(path),))), threading.Event()
    shelf.failed = ended.set
    shelf.start()
    assert ended.wait(10) and str(shelf.failure) == "it cannot"
    shelf._thread.join(10)
    assert not shelf.ready and not shelf._thread.is_alive()
    shelf.close()
