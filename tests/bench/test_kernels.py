"""bench/kernels.py: engines in turns, and ONNX Runtime held to AVX2."""

import shutil
import subprocess

import pytest


@pytest.fixture
def kernels(script):
    return script("kernels")


def test_each_engine_runs_in_turns_once_uncounted(kernels, monkeypatch):
    monkeypatch.setattr(kernels, "REST", 0)
    asked = []
    seconds = kernels.in_turns({name: lambda name=name: asked.append(name) for name in "ab"}, 12)
    each = 1 + kernels.RUNS_OF_A_TURN
    turns = [asked[start : start + each] for start in range(0, len(asked), each)]
    assert turns == [[name] * each for name in "baabbaab"]
    assert {name: len(values) for name, values in seconds.items()} == {"a": 15, "b": 15}  # the first turn warms up


def test_ratios_are_to_the_best_peer_of_each_figure(kernels):
    def figures(fast, median):
        return {"n": 200, "fast": fast, "median": median}

    row = {"ms": {"kernels": figures(2, 4), "onnxruntime": figures(3, 8), "mnn": figures(5, 6)}, "difference": 1e-6}
    document = {
        "latency": {"m": {"batch 1": row}},
        "memory": {"m": {"batch 1": {"kernels": 50, "onnxruntime": 100}}},
        "start": {},
        "folder": {},
        "command": "c",
        "date": "d",
        "machine": {"processor": "p", "cores": 2, "memory_gb": 8},
        "versions": {},
    }
    text = kernels.render(document)
    assert "| m, batch 1 | **2 (4)** | 3 (8) | - | 5 (6) | - | 1.50× | 1.50× |" in text
    assert "| m: peak memory, batch 1 | 50 MB | 100 MB | 0.50 |" in text


@pytest.mark.slow
def test_the_copy_of_onnxruntime_uses_avx2(script, tmp_path):
    """Channels lie in blocks of 8 instead of 16."""
    if "avx512f" not in subprocess.run([shutil.which("lscpu") or "lscpu"], capture_output=True, text=True).stdout:
        pytest.skip("this processor has no AVX-512")
    from vertebra.bench.network_files import network_files

    narrow = script("_onnxruntime_avx2")
    model = network_files("mobilenet_v2", tmp_path).exported
    copy = narrow.copy_without_avx512(tmp_path / "copy")
    assert [narrow.block_size(model, tmp_path, path) for path in (None, copy)] == [16, 8]
