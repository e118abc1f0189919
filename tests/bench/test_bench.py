"""Backends are timed on the same work, and one that cannot run does not stop the others."""

import importlib.util
import io
import json
import os
import sys

import numpy as np
import pytest

from vertebra.bench import BACKENDS, _worker, compare, installed
from vertebra.bench._files import Files, files_of
from vertebra.errors import UsageError, VertebraError
from vertebra.runtime.trial import trial_images

QUICK = {"batches": (2,), "turns": 1, "seconds": 0.01, "threads": 1}


def test_each_backend_is_timed(tiny_model):
    said = []
    found = list(
        compare([str(tiny_model)], backends=["vertebra", "onnxruntime"], tell=lambda *step: said.append(step), **QUICK)
    )
    assert [(timing.network, timing.batch, timing.backend) for timing in found] == [
        ("tiny.onnx", 2, "vertebra"),
        ("tiny.onnx", 2, "onnxruntime"),
    ]
    for timing in found:
        assert timing.error is None and timing.n >= 3
        assert 0 < timing.min_ms <= timing.median_ms <= timing.max_ms
        assert "onnxruntime" in timing.detail or "mnn" in timing.detail
        assert json.loads(json.dumps(timing.as_dict()))["backend"] == timing.backend
    assert [done for _, done, _ in said] == list(range(5)) and {total for *_, total in said} == {5}


def test_one_that_cannot_run_is_told(tiny_model):
    found = list(compare([str(tiny_model)], backends=["torch", "onnxruntime"], **QUICK))
    assert "this is a file" in found[0].error and found[0].median_ms is None
    assert found[1].error is None


def test_one_that_ends_is_told(tiny_model, monkeypatch):
    import vertebra.bench as module

    monkeypatch.setattr(module, "MAX_SECONDS_TO_START", 0.001)
    (timing,) = compare([str(tiny_model)], backends=["onnxruntime"], **QUICK)
    assert "its process has ended" in timing.error


def test_other_numbers_are_no_result(tiny_model, monkeypatch):
    import vertebra.bench as module

    read = module._Worker.read
    samples = iter([[0.1] * 8, [0.2] * 8])

    def other(worker):
        answer = read(worker)
        return answer | {"sample": next(samples)} if "sample" in answer else answer

    monkeypatch.setattr(module._Worker, "read", other)
    first, second = compare([str(tiny_model)], backends=["vertebra", "onnxruntime"], **QUICK)
    assert first.error is None and "other probabilities" in second.error


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A real network for small pictures, exported and as weights."""
    import torch

    from vertebra import create_model
    from vertebra.card import Preprocessing
    from vertebra.export import export

    folder = tmp_path_factory.mktemp("resnet")
    torch.manual_seed(0)
    network = create_model("resnet18")
    torch.save(network.state_dict(), folder / "w.pth")
    export(network, folder / "m.onnx", architecture="resnet18", preprocessing=Preprocessing(64, 72))
    return Files("resnet18", str(folder / "m.onnx"), str(folder / "w.pth"))


# torch's compiler takes a minute; its result is checked wherever it is timed.
@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "torch-compiled"])
def test_all_compute_the_same(backend, files):
    if backend not in installed():
        pytest.skip(f"{backend} is not installed")
    pixels = trial_images(files.preprocessing.crop_size, 2)
    call, detail = _worker.MAKERS[backend](files, 2, 1)
    expected, _ = _worker.onnxruntime(files, 2, 1)
    np.testing.assert_allclose(call(pixels), expected(pixels), atol=1e-5)
    assert detail


def answers(task, capfd):
    """What the worker answers to a task, run in this process; it takes standard output for itself."""
    kept = os.dup(1)
    try:
        _worker.main(json.dumps(task))
    finally:
        os.dup2(kept, 1)
        os.close(kept)
    return [json.loads(line)["vertebra"] for line in capfd.readouterr().out.splitlines()]


def test_the_worker_answers_in_lines_of_json(tiny_model, monkeypatch, capfd):
    monkeypatch.setattr(sys, "stdin", io.StringIO("0.01\n0.01\n"))
    task = {"files": Files("tiny", str(tiny_model)).as_json(), "batch": 1, "backend": "onnxruntime", "threads": 1}
    ready, first, second = answers(task, capfd)
    assert len(ready["sample"]) == 3 and "onnxruntime" in ready["detail"]
    assert len(first["seconds"]) >= 3 and len(second["seconds"]) >= 3
    (failed,) = answers(task | {"backend": "torch"}, capfd)
    assert "this is a file" in failed["error"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backends": ["onnxrumtime"]}, "Did you mean 'onnxruntime'"),
        ({"backends": ["tensorrt"]}, "Allowed are vertebra, torch"),
        ({"turns": 0}, "turns is 0"),
        ({"batches": [0]}, "a batch size is 0"),
        ({"seconds": -1}, "seconds is -1"),
    ],
)
def test_arguments_that_are_not_allowed(tiny_model, options, message):
    with pytest.raises(UsageError, match=message):
        list(compare([str(tiny_model)], **options))


def test_a_backend_that_is_not_installed(tiny_model, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert installed() == ["vertebra", "onnxruntime"]
    with pytest.raises(UsageError, match="pip install ncnn pnnx"):
        list(compare([str(tiny_model)], backends=["ncnn"]))


def test_models_that_are_not_there(tmp_path):
    with pytest.raises(UsageError, match="Did you mean 'resnet18'"):
        files_of("resnet-18", tmp_path)
    with pytest.raises(VertebraError, match="no such file"):
        files_of("none.onnx", tmp_path)
