"""Models by name and their files, without a server: each check of a file is the test's own."""

import logging
import re
import threading
from dataclasses import replace

import pytest
from waiting import until

import vertebra.serve.model_registry as module
from vertebra.card import CardError
from vertebra.errors import VertebraError
from vertebra.serve.api_errors import ApiError
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


@pytest.fixture
def look(registry):
    """Look at the file as often as it takes to believe it; how often that was."""
    changing = {}

    def look(times=2):
        for _ in range(times):
            registry._reload_if_changed(registry.models["m"], changing)
        return registry.models["m"]

    look.changing = changing
    return look


def reloads(registry, result):
    return f'vertebra_reloads_total{{model="m",result="{result}"}} 1.0' in registry.metrics.render().decode()


def test_models_by_name(registry):
    assert registry.get(None) is registry.get("m") is registry.get("")
    with pytest.raises(ApiError, match=r"no model 'n'\. Available: m\.") as caught:
        registry.get("n")
    assert caught.value.status == 404
    with pytest.raises(ApiError, match=f"'{'x' * 100}'"):
        registry.get("x" * 200)
    registry.models["m"].current = None
    with pytest.raises(ApiError, match="'m' is still being loaded") as caught:
        registry.get("m")
    assert caught.value.status == 503 and caught.value.headers == {"Retry-After": "1"}
    registry._load_first(registry.models["m"])


def test_a_mistyped_name(path, settings):
    registry = ModelRegistry(replace(settings, models=(f"tulips={path}", f"roses={path}")))
    assert registry.default == "tulips"
    with pytest.raises(ApiError, match="Did you mean 'tulips'"):
        registry.get("tulip")
    registry.close()


def test_a_file_without_a_card_is_told_at_once(settings, tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(CardError, match=r"m\.onnx"):
        ModelRegistry(replace(settings, models=(str(tmp_path / "m.onnx"),)))


def test_a_file_that_stays_is_left_alone(registry, look):
    before = registry.get("m")
    assert look(5).current is before and look.changing == {}


def test_a_file_is_loaded_once_it_has_stayed_the_same_between_two_looks(registry, look, path, write_model):
    before = registry.get("m")
    write_model(path, classes=("a", "b"))
    assert look(1).current is before
    write_model(path, classes=("a", "b", "c", "d"))
    assert look(1).current is before  # it is being written still
    assert look(1).current.classes == 4
    assert reloads(registry, "ok") and registry.models["m"].error is None
    assert not any(thread.is_alive() for thread in before.batcher._threads) and before.runner.engine is None
    now = registry.get("m")
    assert look(3).current is now and look.changing == {}


def test_memory_is_given_back_after_a_model_has_gone(registry, look, path, write_model, monkeypatch):
    seen = []
    first = registry.get("m")
    monkeypatch.setattr(
        module, "trim_heaps", lambda: seen.append((registry.get("m") is first, first.runner.engine is None))
    )
    path.write_bytes(b"no model")
    look()
    write_model(path, classes=("a", "b"))
    look()
    assert seen == [(True, False), (False, True)]


def test_a_file_that_cannot_be_loaded(registry, look, path, write_model, caplog):
    before = registry.get("m")
    path.write_bytes(b"no model")
    served = look()
    assert served.current is before and served.error.startswith("the new m.onnx is not served: ")
    assert "\n" not in served.error and "The previous one is still served." in caplog.text
    assert reloads(registry, "error") and not reloads(registry, "ok")
    served = look(3)  # once is enough
    assert reloads(registry, "error")
    write_model(path)
    assert look().error is None and registry.get("m") is not before


def test_a_file_that_is_gone_and_comes_back(registry, look, path):
    before, content = registry.get("m"), path.read_bytes()
    path.unlink()
    assert look(1).error is None  # being replaced, perhaps
    served = look(1)
    assert served.error == f"{path} is gone." and served.current is before
    path.write_bytes(content)
    assert look().error is None and registry.get("m") is not before


def test_a_model_that_has_never_been_loaded(registry, look, path, write_model):
    registry.get("m").close()
    registry.models["m"].current = None
    write_model(path, classes=("a", "b"))
    assert look().current.classes == 2


def test_all_are_loaded_and_watched_by_a_thread(path, write_model, settings, caplog):
    caplog.set_level(logging.INFO, "vertebra.serve")
    registry = ModelRegistry(replace(settings, models=(str(path), f"n={path}"), reload_seconds=0.001))
    assert not registry.is_ready and not registry.wait(0)
    assert registry.start() is registry
    assert registry.wait(10) and registry.is_ready
    assert all(float(seconds) < 60 for seconds in re.findall(r"m\.onnx loaded in (\d+\.\d\d) s", caplog.text))
    assert caplog.text.count("m.onnx loaded in ") == 2
    old = registry.get("n")
    write_model(path.with_suffix(".new"), classes=("a", "b")).replace(path)
    until(lambda: registry.get("m").classes == registry.get("n").classes == 2)
    assert registry._thread.daemon and registry._thread.name == "vertebra-models"
    registry.close()
    assert not registry._thread.is_alive()
    for loaded in (old, registry.get("m"), registry.get("n")):
        assert not any(thread.is_alive() for thread in loaded.batcher._threads)


def test_a_model_that_cannot_be_loaded_ends_the_server(path, settings, monkeypatch):
    def fail(*arguments):
        raise VertebraError("it cannot")

    monkeypatch.setattr(module, "LoadedModel", fail)
    registry, ended = ModelRegistry(replace(settings, models=(str(path),))), threading.Event()
    registry.on_failure = ended.set
    registry.start()
    assert ended.wait(10) and str(registry.failure) == "it cannot"
    registry._thread.join(10)
    assert not registry.is_ready and not registry._thread.is_alive()
    registry.close()
