"""Backends are timed on the same work, and one that cannot run does not stop the others."""

import importlib.util
import json
import sys
from contextlib import contextmanager

import numpy as np
import pytest

from vertebra.bench import BACKENDS, Backend, NetworkFiles, compare, find_backends, installed_backends, timing
from vertebra.bench.network_files import network_files
from vertebra.errors import UsageError, VertebraError
from vertebra.synthetic_photos import synthetic_photos

QUICK = {"batches": (2,), "turns": 1, "seconds": 0.01, "threads": 1}


@pytest.mark.slow
def test_each_backend_is_timed(tiny_model):
    said = []
    found = list(
        compare(
            [str(tiny_model)],
            find_backends(["vertebra", "onnxruntime"]),
            progress=lambda *step: said.append(step),
            **QUICK,
        )
    )
    assert [(timing.network, timing.batch, timing.backend) for timing in found] == [
        ("tiny.onnx", 2, "vertebra"),
        ("tiny.onnx", 2, "onnxruntime"),
    ]
    for each in found:
        assert each.error is None and each.n >= 3
        assert 0 < each.min_ms <= each.median_ms <= each.max_ms
        assert "onnxruntime" in each.detail or "mnn" in each.detail
        assert json.loads(json.dumps(each.as_dict()))["backend"] == each.backend
    assert [done for _, done, _ in said] == list(range(5)) and {total for *_, total in said} == {5}


def test_one_that_cannot_run_is_told(tiny_model):
    found = list(compare([str(tiny_model)], find_backends(["torch", "onnxruntime"]), **QUICK))
    assert found[0].error == "needs the name of a network, and this is a file" and found[0].median_ms is None
    assert found[1].error is None


@pytest.fixture
def broken_backends(tmp_path, monkeypatch):
    """A module that another process can import."""
    (tmp_path / "broken_backends.py").write_text(
        "import os, time\n"
        "def crash(files, batch, threads): os._exit(3)\n"
        "def say_nothing(files, batch, threads): time.sleep(60)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("broken_backends")
    del sys.modules["broken_backends"]


def test_one_whose_process_ends(tiny_model, broken_backends):
    backends = {"broken": Backend(broken_backends.crash), "whole": BACKENDS["onnxruntime"]}
    broken, whole = compare([str(tiny_model)], backends, **QUICK)
    assert broken.error == "its process has ended (exit code 3)"
    assert whole.error is None


def test_one_that_gives_no_answer(tiny_model, broken_backends, monkeypatch):
    monkeypatch.setattr(timing, "MAX_SECONDS_TO_START", 0.001)
    (found,) = compare([str(tiny_model)], {"silent": Backend(broken_backends.say_nothing)}, **QUICK)
    assert found.error == "gives no answer within 0.001 s"


def test_other_numbers_are_no_result(tiny_model, monkeypatch):
    started = timing._start_worker
    samples = iter([[0.1] * 8, [0.2] * 8])

    @contextmanager
    def other(*arguments):
        with started(*arguments) as answer:
            yield lambda seconds: answer(seconds) | ({"sample": next(samples)} if seconds is None else {})

    monkeypatch.setattr(timing, "_start_worker", other)
    first, second = compare([str(tiny_model)], find_backends(["vertebra", "onnxruntime"]), **QUICK)
    assert first.error is None and "other probabilities" in second.error


# torch's compiler takes a minute; its result is checked wherever it is timed.
@pytest.mark.usefixtures("tiny_registry")
@pytest.mark.parametrize("backend", [name for name in BACKENDS if name not in ("torch-compiled", "kernels")])
def test_all_compute_the_same(backend, files):
    if backend not in installed_backends():
        pytest.skip(f"{backend} is not installed")
    pixels = synthetic_photos(2, files.preprocessing.crop_size)
    call, detail = BACKENDS[backend].make(files, 2, 1)
    expected, _ = BACKENDS["onnxruntime"].make(files, 2, 1)
    np.testing.assert_allclose(call(pixels), expected(pixels), atol=1e-5)
    assert detail


class Asked:
    """The worker's end of a pipe, with the questions already in it."""

    def __init__(self, *questions):
        self.questions, self.answers = list(questions), []

    def recv(self):
        if not self.questions:
            raise EOFError
        return self.questions.pop(0)

    def send(self, answer):
        self.answers.append(answer)


def test_the_worker_answers_until_nobody_asks(tiny_model, monkeypatch):
    monkeypatch.setattr(timing.os, "dup2", lambda *descriptors: None)  # standard output is this process's
    pipe, files = Asked(0.01, 0.01), NetworkFiles("tiny", str(tiny_model))
    timing.serve_backend(pipe, BACKENDS["onnxruntime"], files, 1, 1)
    ready, first, second = pipe.answers
    assert len(ready["sample"]) == 3 and "onnxruntime" in ready["detail"]
    assert len(first["seconds"]) >= 3 and len(second["seconds"]) >= 3
    pipe = Asked()
    timing.serve_backend(pipe, BACKENDS["torch"], files, 1, 1)
    (failed,) = pipe.answers
    assert "this is a file" in failed["error"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"turns": 0}, "turns is 0"),
        ({"batches": [0]}, "a batch size is 0"),
        ({"seconds": -1}, "seconds is -1"),
    ],
)
def test_arguments_that_are_not_allowed(tiny_model, options, message):
    with pytest.raises(UsageError, match=message):
        list(compare([str(tiny_model)], **options))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("onnxrumtime", "Did you mean 'onnxruntime'"),
        ("tensorrt", "Allowed are vertebra, torch"),
        ("openvino", "bench/latency.py"),
        ("ncnn", "bench/latency.py"),
    ],
)
def test_backends_that_are_not_there(name, message):
    with pytest.raises(UsageError, match=message):
        find_backends([name])


def test_a_backend_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert list(installed_backends()) == ["vertebra", "onnxruntime"]
    with pytest.raises(UsageError, match="pip install MNN"):
        find_backends(["mnn"])


def test_models_that_are_not_there(tmp_path):
    with pytest.raises(UsageError, match="Did you mean 'resnet18'"):
        network_files("resnet-18", tmp_path)
    with pytest.raises(VertebraError, match="no such file"):
        network_files("none.onnx", tmp_path)
