"""bench/kernels_int8.py: what its table and its line about folders say."""


def test_ratios_and_the_folder(script):
    int8 = script("kernels_int8")

    def figures(fast, median):
        return {"n": 200, "fast": fast, "median": median}

    row = {
        "ms": {"kernels": figures(1, 2), "onnxruntime": figures(3, 8), "openvino": figures(2, 5)},
        "difference": 2e-7,
    }
    rates = {"kernels": {"median": 390.0}, "onnxruntime": {"median": 260.0}, "same_class": 0.998}
    document = {
        "latency": {"m": {"batch 1": row}},
        "folder": {"m": rates},
        "command": "c",
        "date": "d",
        "machine": {"processor": "p", "cores": 2, "memory_gb": 8},
        "versions": {},
    }
    text = int8.render(document)
    assert "| m, batch 1 | **1 (2)** | 3 (8) | 2 (5) | 2.00× | 2.50× |" in text
    assert "within 2e-07 of the largest" in text
    assert "with m: 390.0 images a second, 260.0 with ONNX Runtime (1.50×, 99.8% same class)" in text
