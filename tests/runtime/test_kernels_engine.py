"""The engine kernels through the command, beside ONNX Runtime on the same files."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vertebra import cache
from vertebra.bench import compare, find_backends
from vertebra.card import Preprocessing, read_card
from vertebra.errors import VertebraWarning
from vertebra.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from vertebra.runtime import kernels_engine, mnn_engine
from vertebra.runtime.autotune import beside_kernels, candidate_plans, measure
from vertebra.runtime.engine import OUTPUTS, EngineError, Plan
from vertebra.runtime.engine_runner import Runner, open_engine
from vertebra.runtime.onnxruntime_engine import OnnxRuntimeEngine
from vertebra.runtime.predictor import Predictor

pytestmark = pytest.mark.skipif(not kernels_engine.installed(), reason="vertebra-kernels is not installed")
NETWORKS = {"mobilenet_v2": {"width_mult": 0.35}, "efficientnet_lite0": {}, "efficientnet_b0": {}}
SIZE, SMALL = 96, 64
QUICK = {"batches": (2,), "turns": 1, "seconds": 0.01, "threads": 1}


@pytest.fixture(scope="module", params=NETWORKS)
def model(request, once):
    """An exported network with random weights, whose batch norms have seen photos."""

    def make(folder):
        import torch

        from vertebra.export import export
        from vertebra.models import create_model

        torch.manual_seed(0)
        network = create_model(request.param, num_classes=5, **NETWORKS[request.param])
        norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = None
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))

        def pixels(count):
            return (torch.from_numpy(images(count)).permute(0, 3, 1, 2) / 255 - mean) / std

        with torch.no_grad():
            network.train()(pixels(32))
            network.eval().double()
            for count in (1, 9, 2):
                features = network.forward_features(pixels(count).double())
                embedding = network.forward_embedding(features)
                exact = network.forward_head(features).softmax(1), embedding, features
                np.savez(folder / f"{count}.npz", *exact)
            network.float()
        export(
            network.eval(), folder / "m.onnx", architecture=request.param, classes=list("abcde"),
            preprocessing=Preprocessing(crop_size=SIZE, resize_size=SIZE),
        )  # fmt: skip

    return once(f"kernels-{request.param}", make) / "m.onnx"


@pytest.fixture(autouse=True)
def _fresh_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_warned", set())


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE + 8, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return str(tmp_path / "a.png")


def images(count):
    return np.random.default_rng(count).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def test_predict_says_what_onnxruntime_says(vertebra, model, photo):
    answers = {}
    for engine in ("kernels", "onnxruntime"):
        result = vertebra("predict", photo, "--model", model, "--engine", engine, "--json", "--embed")
        assert result.code == 0, result.err
        (answers[engine],) = result.json
    one, other = (answers[engine] for engine in ("kernels", "onnxruntime"))
    assert [p["class"] for p in one["predictions"]] == [p["class"] for p in other["predictions"]]
    scale = np.abs(other["embedding"]).max()
    np.testing.assert_allclose(np.array(one["embedding"]) / scale, np.array(other["embedding"]) / scale, atol=3e-5)


@pytest.mark.parametrize("plan", [Plan("kernels", 1, 1), Plan("kernels", 1, 3), Plan("kernels", 2, 1, 2)])
def test_no_less_exact_than_onnxruntime_on_lanes_and_threads(model, plan):
    """Rounding grows through fifty layers of random weights: both are compared with float64."""
    runner = Runner(open_engine(model, read_card(model), plan), plan)
    reference = open_engine(model, read_card(model), Plan())
    for count in (1, 9, 2):
        exact = np.load(model.with_name(f"{count}.npz")).values()
        found, usual = (
            [np.abs(one - other).max() / np.abs(other).max() for one, other in zip(outputs, exact, strict=True)]
            for outputs in (runner.run(images(count), OUTPUTS), reference.run(images(count), OUTPUTS))
        )
        assert max(found) < 2 * max(usual) < 1e-4
    runner.close()


WHOLE = {  # the papers' networks, each with its crop
    **{("mobilenet_v2", width): 224 for width in (0.5, 0.75, 1.4)},
    ("efficientnet_lite1", None): 240, ("efficientnet_lite2", None): 260, ("efficientnet_v2_s", None): 384,
    **{(f"efficientnet_b{i}", None): size for i, size in enumerate((240, 288, 300, 380, 456, 528, 600), 1)},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("name", "width"), WHOLE)
def test_whole_networks_of_each_size(name, width, tmp_path):
    import onnxruntime
    import torch

    from vertebra import create_model
    from vertebra.export import export

    torch.manual_seed(0)
    network = create_model(name, **({"width_mult": width} if width else {})).eval()
    path, size = tmp_path / "m.onnx", WHOLE[name, width]
    export(network, path, architecture=name, preprocessing=Preprocessing(crop_size=size, resize_size=size))
    kernels = kernels_engine.import_kernels()
    found = kernels.Network(kernels.pack(kernels_engine.network_graph(path, read_card(path))))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    photo = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8)
    outputs = session.run(list(OUTPUTS), {"image": photo})
    for expected, result in zip(outputs, found.run(photo, OUTPUTS), strict=True):
        assert np.abs(result - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.fixture(scope="module")
def int8_model(once):
    """MobileNetV2 in int8, from random weights."""

    def make(folder):
        import torch

        from vertebra.export import Calibration, export
        from vertebra.models import create_model

        torch.manual_seed(0)
        network = create_model("mobilenet_v2", num_classes=5, width_mult=0.35).eval()
        photos = Calibration(images(20)[:, :SMALL, :SMALL])
        export(
            network, folder / "m.onnx", architecture="mobilenet_v2", classes=list("abcde"), calibration=photos,
            preprocessing=Preprocessing(crop_size=SMALL, resize_size=SMALL), force=True,
        )  # fmt: skip

    return once("kernels-int8", make) / "m.onnx"


def test_int8_has_the_integers_of_onnxruntime(vertebra, int8_model, photo):
    if not kernels_engine.import_kernels().supports_int8():
        pytest.skip("this processor has no AVX-512 with VNNI")
    predict = ("predict", photo, "--model", int8_model, "--json", "--embed", "--engine")
    (one,), (other,) = (vertebra(*predict, engine).json for engine in ("kernels", "onnxruntime"))
    assert [p["class"] for p in one["predictions"]] == [p["class"] for p in other["predictions"]]
    assert one["embedding"] == other["embedding"]
    pixels = images(5)[:, :SMALL, :SMALL]
    _, *expected = open_engine(int8_model, read_card(int8_model), Plan()).run(pixels, OUTPUTS)
    for plan in (Plan("kernels", 1, 2), Plan("kernels", 2, 1, 2)):
        runner = Runner(open_engine(int8_model, read_card(int8_model), plan), plan)
        for right, found in zip(expected, runner.run(pixels, OUTPUTS)[1:], strict=True):
            np.testing.assert_array_equal(found, right)
        runner.close()


def test_int8_without_vnni(vertebra, int8_model, photo, monkeypatch):
    monkeypatch.setattr("vertebra_kernels.int8_packing.supports_int8", lambda: False)
    result = vertebra("predict", photo, "--model", int8_model, "--engine", "kernels")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert f"the kernels cannot run {int8_model}: int8 needs AVX-512 with VNNI" in result.err
    assert vertebra("predict", photo, "--model", int8_model).code == 0


@pytest.mark.skipif(not mnn_engine.installed(), reason="MNN is not installed")
def test_mnn_leaves_no_file_of_int8_where_it_runs(vertebra, int8_model, photo, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    vertebra("predict", photo, "--model", int8_model, "--engine", "mnn")
    assert list(Path.cwd().iterdir()) == []


def test_an_older_package_is_named(vertebra, int8_model, photo, monkeypatch):
    monkeypatch.delattr("vertebra_kernels.Network.beside")
    result = vertebra("predict", photo, "--model", int8_model, "--engine", "kernels")
    assert result.code == 1
    assert "vertebra-kernels is older than 0.2.0, which this Vertebra needs. Run: pip install" in result.err


def test_what_the_planner_does_not_know(vertebra, tiny_model, photo):
    for _ in range(2):  # the second time from the cache
        result = vertebra("predict", photo, "--model", tiny_model, "--engine", "kernels")
        assert result.code == 1
        assert f"the kernels cannot run {tiny_model}: " in result.err
        assert result.err.endswith("Use --engine onnxruntime.\n")
    assert vertebra("predict", photo, "--model", tiny_model).code == 0


def test_auto_leaves_out_what_cannot_run(tiny_model):
    plans = [plan for plan in candidate_plans(1, 1) if plan.engine in ("onnxruntime", "kernels")]
    assert [plan.engine for plan in plans] == ["onnxruntime", "kernels"]
    assert [timing.plan.engine for timing in measure(tiny_model, plans, 1)] == ["onnxruntime"]


def onnxruntime_runner(model):
    plan = Plan("onnxruntime", 2, 1, 4)
    return Runner(open_engine(model, read_card(model), plan), plan)


def slowed(run, clock, seconds):
    def slow(*arguments):
        clock[0] += seconds
        return run(*arguments)

    return slow


@pytest.mark.parametrize(("seconds", "expected"), [({"kernels": 1, "onnxruntime": 2}, "kernels"), ({}, "onnxruntime")])
def test_taken_for_many_photos_where_faster(model, monkeypatch, seconds, expected):
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    for kind in (kernels_engine.KernelsEngine, OnnxRuntimeEngine):
        monkeypatch.setattr(kind, "run", slowed(kind.run, clock, seconds.get(kind.name, 1)))
    runner = onnxruntime_runner(model)
    found = beside_kernels(model, read_card(model), runner)
    assert found.plan == replace(runner.plan, engine=expected)
    assert (found is runner) == (expected == "onnxruntime")


def test_not_taken_for_what_they_cannot_run(tiny_model):
    runner = onnxruntime_runner(tiny_model)
    assert beside_kernels(tiny_model, read_card(tiny_model), runner) is runner


@pytest.mark.parametrize("known", [True, False])
def test_bench_times_them_or_says_why_not(model, tiny_model, known):
    found = list(compare([str(model if known else tiny_model)], find_backends(["onnxruntime", "kernels"]), **QUICK))
    assert [timing.backend for timing in found] == ["onnxruntime", "kernels"]
    if known:
        assert found[1].error is None and found[1].median_ms > 0 and "vertebra-kernels" in found[1].detail
    else:
        assert f"the kernels cannot run {tiny_model}: " in found[1].error


def test_trusted_only_after_a_comparison(model, monkeypatch):
    run = kernels_engine.KernelsEngine.run
    monkeypatch.setattr(kernels_engine.KernelsEngine, "run", lambda *given: [value * 1.001 for value in run(*given)])
    with pytest.raises(EngineError, match=r"kernels and onnxruntime differ by .* in the (probabilities|embedding)"):
        open_engine(model, read_card(model), Plan("kernels"))


@pytest.mark.parametrize("damage", ["cut", "emptied", "flipped"])
def test_a_damaged_packed_file_is_made_again(model, photo, damage):
    expected = Predictor(model, engine="kernels").predict(photo)
    (path,) = (cache.cache_dir() / "kernels").glob("*.kernels")
    content = path.read_bytes()
    flipped = content[:-900] + bytes(b ^ 255 for b in content[-900:])
    path.write_bytes({"cut": content[:-100], "emptied": b"", "flipped": flipped}[damage])
    with pytest.warns(VertebraWarning, match="damaged"):
        found = Predictor(model, engine="kernels").predict(photo)
    assert found.predictions == expected.predictions
    assert path.read_bytes() == content


def test_a_forked_process_predicts(model, photo):
    predictor = Predictor(model, engine="kernels", threads=2)
    expected = predictor.predict(photo).predictions
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        found = predictor.predict(photo).predictions
        os.write(writer, json.dumps([entry["class"] for entry in found]).encode())
        os._exit(0)
    os.close(writer)
    assert os.waitpid(child, 0)[1] == 0
    with os.fdopen(reader) as answer:
        assert json.load(answer) == [entry["class"] for entry in expected]
