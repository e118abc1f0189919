"""bench/latency.py times OpenVINO and ncnn beside the backends of `vertebra bench`."""

import numpy as np
import pytest

from vertebra.bench import BACKENDS, compare, installed_backends
from vertebra.synthetic_photos import synthetic_photos


@pytest.fixture
def latency(script):
    return script("latency")


@pytest.mark.parametrize("name", ["openvino", "ncnn"])
def test_they_compute_the_same(latency, name, files):
    if name not in installed_backends(latency.BACKENDS):
        pytest.skip(f"{name} is not installed")
    pixels = synthetic_photos(2, files.preprocessing.crop_size)
    call, detail = latency.BACKENDS[name].make(files, 2, 1)
    expected, _ = BACKENDS["onnxruntime"].make(files, 2, 1)
    np.testing.assert_allclose(call(pixels), expected(pixels), atol=1e-5)
    assert name in detail


def test_backends_of_a_script_run_in_processes(latency, tiny_model):
    chosen = {
        name: latency.BACKENDS[name]
        for name in installed_backends(latency.BACKENDS)
        if name in ("openvino", "vertebra")
    }
    found = list(compare([str(tiny_model)], chosen, batches=(2,), turns=1, seconds=0.01, threads=1))
    assert [timing.error for timing in found] == [None] * len(chosen)
