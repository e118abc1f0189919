"""What every test may rely on."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

# Set before torch is imported: the suite runs in several processes, and each of them taking all cores is slower.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_photos() -> list[Path]:
    """100 photos of ImageNet, the n-th of class 10·n; skips where the folder is missing."""
    photos = sorted((SHARED / "imagenet-photos").glob("*.JPEG"))
    if not photos:
        pytest.skip(f"no photos in {SHARED / 'imagenet-photos'}")
    return photos


@pytest.fixture(scope="module")
def browser():
    """Chromium, with a camera that is made up; skips where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    options = ["--use-fake-device-for-media-stream=device-count=2", "--use-fake-ui-for-media-stream"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # Chromium's sandbox refuses root
        options.append("--no-sandbox")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=options)
        yield found
        found.close()


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """What the suite exports and measures stays out of the user's cache."""
    os.environ["VERTEBRA_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def write_model():
    """Write a network of one convolution and its card, as `vertebra export` would: `write_model(path, …)`.

    Made by hand, so that tests of the runtime need no torch. `change` gets the ONNX model before it is written;
    `checksum` gives it one, without which it is like a file of an older version.
    """
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    from vertebra.card import METADATA_KEY, Card, Preprocessing
    from vertebra.model_checksum import BLANK, with_checksum

    def write(
        path,
        *,
        classes=("cat", "dog", "fish"),
        size=32,
        threshold=None,
        card=None,
        change=None,
        seed=0,
        checksum=False,
    ):
        random = np.random.default_rng(seed)
        count = len(classes)
        weights = {
            "scale": np.full((1, 3, 1, 1), 1 / 64, np.float32),
            "kernel": random.normal(0, 0.3, (8, 3, 3, 3)).astype(np.float32),
            "linear": random.normal(0, 1, (8, count)).astype(np.float32),
        }
        nodes = [
            helper.make_node("Transpose", ["image"], ["first"], perm=[0, 3, 1, 2]),
            helper.make_node("Cast", ["first"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["float", "scale"], ["scaled"]),
            helper.make_node("Conv", ["scaled", "kernel"], ["convolved"], strides=[2, 2], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["convolved"], ["features"]),
            helper.make_node("GlobalAveragePool", ["features"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["embedding"]),
            helper.make_node("MatMul", ["embedding", "linear"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        ]
        outputs = {"probabilities": ["N", count], "embedding": ["N", 8], "features": ["N", 8, size // 2, size // 2]}
        graph = helper.make_graph(
            nodes,
            "tiny",
            [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", size, size, 3])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
            [numpy_helper.from_array(value, name) for name, value in weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        if card is None:
            card = Card(
                "tiny",
                Preprocessing(size, size + 8, "bicubic"),
                tuple(classes),
                threshold=threshold,
                content_sha256=BLANK if checksum else None,
            ).to_json()
        if card:
            model.metadata_props.add(key=METADATA_KEY, value=card)
        if change is not None:
            change(model)
        onnx.save(model, path)
        if checksum:
            path.write_bytes(with_checksum(path.read_bytes())[0])
        return path

    return write


@pytest.fixture(scope="session")
def tiny_model(write_model, tmp_path_factory):
    """A file of that network, to be read only."""
    return write_model(tmp_path_factory.mktemp("model") / "tiny.onnx")
