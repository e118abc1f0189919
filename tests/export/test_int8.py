"""int8: grids that cannot overflow, rounding that changes outputs least, files written only if they pay."""

import unicodedata
from collections.abc import Callable
from pathlib import Path, PurePath
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from vertebra.card import Preprocessing
from vertebra.errors import UsageError
from vertebra.export import Calibration, ExportError, ExportReport, Verdict, export, int8, int8_plan, labels_of
from vertebra.export.accuracy_check import judge, min_folder_size, split_sizes
from vertebra.export.activation_pass import ActivationPass
from vertebra.export.activation_ranges import Extent, ExtentObserver, HistogramObserver, best_range
from vertebra.export.deployed_network import trace
from vertebra.export.export_copy import copy_for_export
from vertebra.export.input_fusion import fuse_normalisation
from vertebra.export.onnx_model import OnnxModel
from vertebra.export.photo_labels import require_class_order
from vertebra.export.qdq_writer import Scale, Writer
from vertebra.export.second_moments import MomentObserver, split_by_memory
from vertebra.export.weight_rounding import best_levels, nearest_levels, weight_scales
from vertebra.imagenet import class_names
from vertebra.intervals import paired, wilson
from vertebra.model_checksum import verify
from vertebra.models import ConvNet, EfficientNet, create_model
from vertebra.models.efficientnet import MBConvConfig
from vertebra.synthetic_photos import synthetic_photos

OUTPUTS = ["probabilities", "embedding", "features"]
SIZE = 64


def settled(network: ConvNet) -> ConvNet:
    """Random weights whose batch norms know their statistics, so that activations have the size of trained ones."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
    network.train()
    with torch.no_grad():
        network(torch.from_numpy(synthetic_photos(8, SIZE)).permute(0, 3, 1, 2).float().div(64).sub(2))
        network.get_classifier().weight *= 8  # sure of itself, so that agreement means something
    return network.eval()


def small(name: str) -> ConvNet:
    torch.manual_seed(0)
    return settled(create_model(name, num_classes=7))


@pytest.fixture(scope="module")
def narrow(tiny_network: Callable[..., ConvNet]) -> ConvNet:
    """ResNet-18, narrow: rounding a layer together takes the cube of its inputs."""
    return settled(tiny_network("resnet", num_classes=7, widths=(16, 24, 32, 48), depth=2))


def squeezing() -> ConvNet:
    """EfficientNet's blocks, two of them: SiLU and squeeze-excitation."""
    torch.manual_seed(0)
    blocks = [MBConvConfig(1, 3, 1, 32, 16, 1, 1, 1), MBConvConfig(4, 3, 2, 16, 24, 1, 1, 1)]
    return settled(EfficientNet(blocks, dropout=0, num_classes=7))


PREPROCESSING = Preprocessing(crop_size=SIZE, resize_size=SIZE)
EVEN = Preprocessing(SIZE, SIZE, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)  # as EfficientNet-Lite's


def silent(what: str, done: int, total: int) -> None:
    pass


def probabilities(model: onnx.ModelProto, images: np.ndarray, optimised: bool = True) -> np.ndarray:
    return outputs(model, images, optimised)[0]


def features(model: onnx.ModelProto, images: np.ndarray, optimised: bool = True) -> np.ndarray:
    return outputs(model, images, optimised)[2]


def outputs(model: onnx.ModelProto, images: np.ndarray, optimised: bool) -> list[np.ndarray]:
    options = ort.SessionOptions()
    if not optimised:  # then QDQ pairs run as they are written, in float
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(OUTPUTS, {"image": images})


@pytest.fixture(scope="module")
def floats(narrow: ConvNet) -> onnx.ModelProto:
    return trace(copy_for_export(narrow, PREPROCESSING), PREPROCESSING)


@pytest.fixture(scope="module")
def plan(floats: onnx.ModelProto) -> int8_plan.Plan:
    return int8_plan.prepare_plan(OnnxModel(floats), synthetic_photos(32, SIZE), silent)


@pytest.fixture
def paying(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests share their cores, so that what is measured there is chance: int8 takes half the time."""
    monkeypatch.setattr(int8, "time_sessions", lambda sessions, image: [2.0, 1.0])


def write(path: Path, network: ConvNet, photos: int = 40, **options: Any) -> ExportReport:
    images = synthetic_photos(photos, SIZE, seed=3)
    options = {"architecture": "resnet18", "preprocessing": PREPROCESSING, "calibration": Calibration(images)} | options
    return export(network, path, **options)


# --- the parts --------------------------------------------------------------------------------------------------------


def test_scale_has_an_integer_for_zero_and_holds_its_range() -> None:
    for low, high in ((-1.3, 2.7), (0.5, 6.0), (-4.0, -1.0), (0.0, 0.0)):
        scale = Scale.of_range(low, high)
        assert 0 <= scale.zero_point <= 255
        assert scale.rounded(np.zeros(1)) == 0
        ends = np.array([min(low, 0), max(high, 0)])
        np.testing.assert_allclose(scale.rounded(ends), ends, atol=scale.scale)


@pytest.mark.parametrize(
    ("shape", "groups"), [((32, 24, 1, 1), 1), ((16, 8, 3, 3), 1), ((16, 4, 3, 3), 4), ((9, 25), 1)]
)
def test_no_two_products_leave_16_bits(shape: tuple[int, ...], groups: int) -> None:
    random = np.random.default_rng(0)
    weight = (random.standard_normal(shape) ** 3).astype(np.float32)
    channels = shape[1] * groups
    extent = Extent(np.zeros(channels), np.full(channels, 6.0))
    scale = weight_scales(weight, groups, extent, Scale.of_range(0, 6))
    levels = np.rint(weight / scale.reshape(-1, *[1] * (weight.ndim - 1))).astype(int)
    assert np.abs(levels).max() <= 127
    for order in (levels, levels.transpose(0, 2, 3, 1) if weight.ndim == 4 else levels):
        flat = order.reshape(len(order), -1)
        flat = np.pad(flat, ((0, 0), (0, flat.shape[1] % 2)))
        for sign in (1, -1):
            pairs = np.maximum(sign * flat, 0).reshape(len(flat), -1, 2).sum(2)
            assert (255 * pairs).max() <= 32_767 + 255  # rounding may add half a level to each of the two
    # 7 bits would use 64 levels; few channels need so coarse a grid.
    assert np.median(np.abs(levels.reshape(len(levels), -1)).max(1)) > 90


def test_depthwise_weights_keep_all_levels() -> None:
    weight = np.random.default_rng(0).standard_normal((8, 1, 3, 3)).astype(np.float32)
    scale = weight_scales(weight, 8, Extent(np.zeros(8), np.full(8, 6.0)), Scale.of_range(0, 6))
    np.testing.assert_allclose(np.abs(weight).reshape(8, -1).max(1) / scale, 127, rtol=1e-5)
    assert (weight_scales(weight * 0, 8, Extent(np.zeros(8), np.ones(8)), Scale.of_range(0, 6)) > 0).all()


@pytest.mark.parametrize("groups", [1, 3])
def test_rounding_together_changes_outputs_less_than_rounding_each(groups: int) -> None:
    random = np.random.default_rng(0)
    inputs = 40
    # Activations of a network go together: a few causes, many channels.
    causes = random.standard_normal((groups, 500, 6)) @ random.standard_normal((6, inputs))
    x = np.maximum(causes + 0.1 * random.standard_normal(causes.shape), 0)
    weight = random.standard_normal((6 * groups, inputs)).astype(np.float32)
    scale = (np.abs(weight).max(1) / 20).astype(np.float32)
    moment = (x.transpose(0, 2, 1) @ x / 500).astype(np.float32)
    exact = x @ weight.reshape(groups, -1, inputs).transpose(0, 2, 1)

    def error(rounded: np.ndarray) -> float:
        return float(((x @ rounded.reshape(groups, -1, inputs).transpose(0, 2, 1) - exact) ** 2).mean())

    together, each = best_levels(weight, scale, moment), nearest_levels(weight, scale)
    levels = together / scale[:, None]
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-4)
    assert error(together) < error(each) / 2


@pytest.mark.parametrize(("outputs", "groups", "inputs"), [(24, 1, 130), (12, 3, 9), (8, 1, 200)])
def test_rounding_is_that_of_the_inverse(outputs: int, groups: int, inputs: int) -> None:
    """GPTQ as its paper writes it, a column at a time by the inverse of E[x xᵀ], gives the same levels."""
    random = np.random.default_rng(0)
    x = np.maximum(random.standard_normal((groups, 300, 8)) @ random.standard_normal((groups, 8, inputs)), 0)
    x += 0.2 * random.standard_normal(x.shape)
    x[..., 3] = 0  # a dead channel
    moment = (x.transpose(0, 2, 1) @ x / 300).astype(np.float32)
    weight = random.standard_normal((outputs, inputs)).astype(np.float32)
    scale = (np.abs(weight).max(1) / 127).astype(np.float32)
    expected = np.empty((groups, outputs // groups, inputs))
    for group in range(groups):
        second = moment[group].astype(float)
        second[np.diag_indices(inputs)] += 0.01 * np.diag(second).mean() + 1e-9
        order = np.argsort(-np.diag(second), kind="stable")
        upper = np.linalg.cholesky(np.linalg.inv(second[np.ix_(order, order)])).T
        rows = weight.reshape(groups, -1, inputs)[group][:, order].astype(float)
        step = scale.reshape(groups, -1)[group].astype(float)
        for i in range(inputs):
            rounded = np.rint(rows[:, i] / step).clip(-127, 127) * step
            rows[:, i + 1 :] -= np.outer((rows[:, i] - rounded) / upper[i, i], upper[i, i + 1 :])
            rows[:, i] = rounded
        expected[group][:, order] = rows
    found = best_levels(weight, scale, moment)
    np.testing.assert_allclose(found, expected.reshape(outputs, inputs), atol=1e-5)


def test_second_moments_are_those_of_the_patches(floats: onnx.ModelProto) -> None:
    """At every position (the last maps are small): w E[x xᵀ] wᵀ is the mean square of the output without its bias."""
    graph = OnnxModel(floats)
    layers = [node for node in graph.weighted() if node.name in ("layer4.0.conv1", "layer4.1.conv2", "fc")]
    assert len(layers) == 3
    outputs_of = [node.output[0] for node in layers]
    activations = ActivationPass(graph, synthetic_photos(11, SIZE), [*outputs_of, *(node.input[0] for node in layers)])
    moments = MomentObserver(graph, layers)
    activations.observe([moments])
    photos = list(activations.tensors(outputs_of))
    for node, moment in moments.moments():
        weight = graph.weights[node.input[1]].reshape(len(graph.weights[node.input[1]]), -1)
        output = np.concatenate([tensors[node.output[0]] for tensors in photos])
        bias = graph.weights[node.input[2]].reshape(-1, *[1] * (output.ndim - 2))
        squares = ((output - bias) ** 2).mean(axis=(0, *range(2, output.ndim)))
        np.testing.assert_allclose(np.einsum("ok,kl,ol->o", weight, moment[0], weight), squares, rtol=1e-3)


@pytest.mark.parametrize(
    ("channels", "options"),
    [(6, {"stride": 2, "padding": 1}), (6, {"groups": 6, "padding": 2}), (8, {"groups": 2, "dilation": 2})],
)
def test_sampled_inputs_are_those_of_the_convolution(channels: int, options: dict[str, Any]) -> None:
    """Strides, padding, dilation and groups: a layer's weights on its sampled inputs give its outputs."""
    from vertebra.export.second_moments import _sample_inputs

    torch.manual_seed(0)
    layer = torch.nn.Conv2d(channels, 12, (3, 5), bias=False, **options)
    x = torch.randn(1, channels, 7, 9)
    with torch.no_grad():
        expected = layer(x)[0].flatten(1).numpy()
    pads = [layer.padding[0], layer.padding[1]] * 2
    node = onnx.helper.make_node(
        "Conv", ["x", "w"], ["y"], "y", pads=pads, strides=layer.stride, dilations=layer.dilation, group=layer.groups
    )
    weight = layer.weight.detach().numpy()
    graph: Any = SimpleNamespace(weights={"w": weight})
    sampled = _sample_inputs(graph, node, x.numpy(), np.random.default_rng(0))  # at most 100 outputs: all
    found = weight.reshape(layer.groups, 12 // layer.groups, -1) @ sampled
    np.testing.assert_allclose(found.reshape(12, -1), expected, atol=1e-5)


def test_moments_are_split_by_memory(floats: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    """In several passes the plan is the same."""
    from vertebra.export import second_moments

    images = synthetic_photos(6, SIZE)
    whole = int8_plan.prepare_plan(OnnxModel(floats), images, silent)
    monkeypatch.setattr(second_moments, "_MOMENT_BYTES", 1_000_000)
    graph = OnnxModel(floats)
    parts = split_by_memory(graph, graph.weighted())
    assert len(parts) > 2 and [node for part in parts for node in part] == graph.weighted()
    split = int8_plan.prepare_plan(graph, images, silent)
    for name, weight in whole.graph.weights.items():
        np.testing.assert_array_equal(split.graph.weights[name], weight)


def test_extents(floats: onnx.ModelProto) -> None:
    observer = ExtentObserver(["Relu_1"])
    activations = ActivationPass(OnnxModel(floats), synthetic_photos(11, SIZE), ["Relu_1"])
    activations.observe([observer])
    found = observer.extents["Relu_1"]
    values = np.concatenate([tensors["Relu_1"] for tensors in activations.tensors(["Relu_1"])])
    assert values.shape[:2] == (11, 16)
    np.testing.assert_array_equal(found.low, values.min((0, 2, 3)))
    np.testing.assert_array_equal(found.high, values.max((0, 2, 3)))


@pytest.mark.parametrize(("shift", "scale"), [(0, 1), (0, 1e-6), (3, 1), (-5, 1), (100, 0.01)])
def test_best_range_has_the_least_squared_error(shift: float, scale: float) -> None:
    """Among the same ranges, each tried by rounding every bin of the histogram."""
    values = np.random.default_rng(0).standard_t(3, 50_000) * scale + shift
    low, high = float(values.min()), float(values.max())
    counts, edges = np.histogram(values, 2048)
    centres = (edges[1:] + edges[:-1]) / 2

    def error(start: float, stop: float) -> float:
        return float(counts @ (Scale.of_range(start, stop).rounded(centres) - centres) ** 2)

    fractions = np.linspace(0.3, 1, 36)
    tried = [
        error(start, stop)
        for start in (low * fractions if low < 0 else [0.0])
        for stop in (high * fractions if high > 0 else [0.0])
    ]
    assert error(*best_range(low, high, counts)) == pytest.approx(min(tried), rel=1e-6)


# --- the graph --------------------------------------------------------------------------------------------------------


def test_integers_compute_what_the_pairs_say(plan: int8_plan.Plan) -> None:
    """ONNX Runtime in integers against the same file step by step in float: nothing overflows.

    Halves are rounded differently on the two ways, which this sure network's probabilities magnify; its features tell.
    """
    images = synthetic_photos(6, SIZE, seed=9)
    model = plan.write()
    stepwise = features(model, images, optimised=False)
    scale = stepwise.std()
    assert np.abs(features(model, images) - stepwise).mean() < 0.05 * scale
    coarse = {name: scale / 3 for name, scale in plan.weight_scales.items()}  # more than 127 levels are cut off
    broken = int8_plan.Plan(plan.graph, plan.floats, plan.ranges, coarse, plan.candidates).write()
    assert np.abs(features(broken, images) - stepwise).mean() > 0.2 * scale


def test_how_far_it_is_is_told(floats: onnx.ModelProto) -> None:
    told: list[tuple[str, int, int]] = []
    int8_plan.prepare_plan(OnnxModel(floats), synthetic_photos(11, SIZE), lambda *step: told.append(step))
    assert [step for step in told if step[0] != "rounding"] == [
        (what, done, 11) for what in ("finding extents", "finding ranges") for done in range(11)
    ]
    rounding = [step[1:] for step in told if step[0] == "rounding"]
    assert rounding == [(done, len(rounding)) for done in range(len(rounding))] and len(rounding) > 1
    told.clear()
    session = int8.session(floats.SerializeToString())
    int8.predict(session, synthetic_photos(5, SIZE), "judging", lambda *step: told.append(step))
    assert told == [("judging", 0, 5), ("judging", 4, 5)]


def test_layers_left_out_are_as_they_were(plan: int8_plan.Plan, floats: onnx.ModelProto) -> None:
    images = synthetic_photos(3, SIZE)
    none = plan.write(plan.candidates)
    np.testing.assert_array_equal(probabilities(none, images), probabilities(floats, images))
    some = plan.write([name for name in plan.candidates if name.startswith("layer4")])
    kinds = {item.name: item.data_type for item in some.graph.initializer}
    assert kinds["layer4.0.conv1.weight"] == onnx.TensorProto.FLOAT
    assert kinds["layer3.0.conv1.weight.quantised"] == onnx.TensorProto.INT8


@pytest.mark.parametrize("steps", [PREPROCESSING, EVEN])
def test_both_beginnings_are_exact(steps: Preprocessing) -> None:
    graph = OnnxModel(trace(copy_for_export(squeezing(), steps), steps))
    images = synthetic_photos(24, SIZE)
    plan = int8_plan.prepare_plan(graph, images, silent)
    plain = Writer(plan.graph, plan.ranges, plan.weight_scales, set(plan.candidates)).model()
    fast = fuse_normalisation(onnx.ModelProto.FromString(plain.SerializeToString()))
    before_first = [node.op_type for node in fast.graph.node[:3]]
    assert ("Cast" in before_first) == (steps is PREPROCESSING)
    expected = probabilities(plain, images[:4], optimised=False)
    np.testing.assert_allclose(probabilities(fast, images[:4], optimised=False), expected, atol=1e-3)


def test_squeeze_excitation_stays_float() -> None:
    graph = OnnxModel(trace(copy_for_export(squeezing(), PREPROCESSING), PREPROCESSING))
    candidates = int8_plan.quantisable(graph)
    floating = {node.name for node in graph.weighted()} - set(candidates)
    assert floating == {f"features.{i}.0.block.{i}.fc{j}" for i in (1, 2) for j in (1, 2)}
    pools = [node.name for node in graph.nodes if node.op_type == "GlobalAveragePool"]
    assert len(pools) == 3 and set(pools) <= set(candidates)  # two squeezes and the head's, which feeds int8 layers
    products = [node for node in graph.nodes if node.op_type == "Mul" and node.name in candidates]
    assert len(products) == 7  # five SiLUs, two excitations


# --- the file ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def int8_file(tmp_path_factory: pytest.TempPathFactory, narrow: ConvNet) -> ExportReport:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int8, "time_sessions", lambda sessions, image: [2.0, 1.0])
        return write(tmp_path_factory.mktemp("int8") / "m.onnx", narrow, max_drop=100)


def test_the_file_says_what_it_is(int8_file: ExportReport) -> None:
    onnx.checker.check_model(int8_file.path, full_check=True)
    card = verify(int8_file.path)
    assert card == int8_file.card and card.precision == "int8" and card.content_sha256 is not None
    found = card.metrics["int8 beside float32"]
    assert found["photos"] == 10 and found["at most 100 points lost"].startswith("shown")
    low, high = found["agreement interval"]
    assert 0 <= low <= found["agreement"] <= high <= 100 and high - low > 20  # ten photos tell little
    report = int8_file.int8
    assert report is not None and (report.calibrated_on, report.chosen_on) == (20, 10)
    assert report.int8_bytes < 0.33 * report.float_bytes  # a quarter, and of so small a file the nodes and scales
    assert report.ship == "int8" and report.kept_float == ()


def test_both_runtimes_run_it(int8_file: ExportReport, floats: onnx.ModelProto) -> None:
    images = synthetic_photos(7, SIZE, seed=11)
    session = ort.InferenceSession(str(int8_file.path), providers=["CPUExecutionProvider"])
    found = session.run(OUTPUTS, {"image": images})
    wanted = ort.InferenceSession(floats.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        OUTPUTS, {"image": images}
    )
    for got, expected in zip(found, wanted, strict=True):
        assert got.shape == expected.shape
        assert np.abs(got - expected).mean() < 0.05 * np.abs(expected).max()
    openvino = pytest.importorskip("openvino", reason="OpenVINO is the second runtime")
    second = openvino.compile_model(str(int8_file.path), "CPU")(images)
    assert np.abs(second[0] - wanted[0]).mean() < 0.05
    assert (second[0].argmax(1) == wanted[0].argmax(1)).mean() > 0.7


def test_a_layer_that_hurts_is_put_back(
    tmp_path: Path, narrow: ConvNet, monkeypatch: pytest.MonkeyPatch, paying: None
) -> None:
    rounding = int8_plan.best_levels

    def one_ruined(weight: np.ndarray, scale: np.ndarray, moment: np.ndarray) -> np.ndarray:
        rounded = rounding(weight, scale, moment)
        return rounded * 0 if weight.shape == (32, 24, 3, 3) else rounded  # layer3.0.conv1

    monkeypatch.setattr(int8_plan, "best_levels", one_ruined)
    report = write(tmp_path / "m.onnx", narrow, max_drop=2).int8
    assert report is not None and report.kept_float[0] == "layer3.0.conv1"
    assert report.verdict.exceeds(2) is False


def test_a_slower_file_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "time_sessions", lambda sessions, image: [1.0, 2.0])
    with pytest.raises(ExportError, match=r"int8 takes 2\.00 ms and float 1\.00 ms.*--force"):
        write(tmp_path / "m.onnx", squeezing(), max_drop=100)
    assert list(tmp_path.iterdir()) == []
    report = write(tmp_path / "m.onnx", squeezing(), max_drop=100, force=True)
    assert report.path.is_file() and report.int8 is not None and report.int8.ship == "float32"


def verdict(photos: int, lost: int, gained: int = 0, measure: str = "accuracy", expected: float = 0.1) -> Verdict:
    """Float is right on all photos but those gained."""
    right = 100 * (photos - gained) / photos
    return Verdict(
        photos,
        measure,
        right,
        right - 100 * (lost - gained) / photos,
        photos - lost - gained,
        lost,
        gained,
        expected,
        0,
        1,
    )


def test_a_worse_file_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paying: None) -> None:
    monkeypatch.setattr(int8, "judge", lambda *arguments: verdict(10, 4))
    with pytest.raises(ExportError, match=r"int8 loses 40\.0 points on 10 photos.*1 are allowed.*put back"):
        write(tmp_path / "m.onnx", squeezing())
    assert list(tmp_path.iterdir()) == []


def test_without_proof_nothing_is_written_where_proof_is_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paying: None
) -> None:
    monkeypatch.setattr(int8, "judge", lambda *arguments: verdict(10, 0))
    with pytest.raises(ExportError, match=r"10 photos judged, a bound of 1 point needs about 381\. Give .* 573 photos"):
        write(tmp_path / "m.onnx", squeezing(), require_proof=True)
    for wrong in ({"force": True}, {"calibration": None}):
        with pytest.raises(UsageError, match="require_proof"):
            write(tmp_path / "m.onnx", squeezing(), require_proof=True, **wrong)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(int8, "judge", lambda *arguments: verdict(400, 0))
    report = write(tmp_path / "m.onnx", squeezing(), require_proof=True)
    assert report.int8 is not None and "shown with 95 % confidence: 400 photos" in report.int8.claim


def test_too_few_photos(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^3 photos are too few.*at least 20"):
        write(tmp_path / "m.onnx", squeezing(), photos=3)
    with pytest.raises(UsageError, match="max_drop is -1"):
        write(tmp_path / "m.onnx", squeezing(), max_drop=-1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg11", "googlenet", "densenet121", "mobilenet_v2", "resnext50_32x4d"])
def test_every_family(name: str, tmp_path: Path, paying: None) -> None:
    """In integers, which round halves otherwise, a file is as near to the float network as it is step by step."""
    network = small(name)
    report = write(tmp_path / "m.onnx", network, architecture=name, max_drop=100)
    export(network, tmp_path / "float.onnx", preprocessing=PREPROCESSING)
    images = synthetic_photos(6, SIZE, seed=9)
    wanted = features(onnx.load(tmp_path / "float.onnx"), images)
    model = onnx.load(report.path)
    integers, stepwise = (
        np.abs(features(model, images, optimised) - wanted).mean() / wanted.std() for optimised in (True, False)
    )
    assert integers < 1.1 * stepwise


@pytest.mark.slow
def test_lite0_keeps_its_accuracy(tmp_path: Path, shared_photos: list[Path], paying: None) -> None:
    """Calibrated on every second photo, judged on the others; defaults of quantisation diverge by 0.027."""
    from vertebra.export import prepare
    from vertebra.pixels import network_pixels

    prepared = prepare("efficientnet_lite0")
    pixels = np.stack([network_pixels(path, prepared.card.preprocessing) for path in shared_photos])
    export(prepared, tmp_path / "float.onnx")
    export(prepared, tmp_path / "int8.onnx", calibration=Calibration(pixels[::2]))
    wanted, found = (probabilities(onnx.load(tmp_path / name), pixels[1::2]) for name in ("float.onnx", "int8.onnx"))
    labels = [frozenset([10 * i]) for i in range(1, 100, 2)]
    verdict = judge(wanted, found, labels)
    assert verdict.divergence < 0.004 and verdict.allows(1.0)


# --- judging ----------------------------------------------------------------------------------------------------------


def test_verdict() -> None:
    expected = np.array([[0.6, 0.4], [0.51, 0.49], [0.2, 0.8], [0.1, 0.9]])
    found = np.array([[0.7, 0.3], [0.49, 0.51], [0.2, 0.8], [0.1, 0.9]])
    verdict = judge(expected, found, None)
    assert (verdict.measure, verdict.float_score, verdict.int8_score) == ("agreement", 100, 75)
    assert (verdict.agreed, verdict.lost, verdict.gained, verdict.agreement) == (3, 1, 0, 75)
    assert verdict.drop == pytest.approx(0.5) and verdict.allows(0.5) and not verdict.allows(0.4)
    assert verdict.expected_error == pytest.approx(0.5)  # 2, 0, 0, 0: standard deviation 1, of four photos
    # The expected loss refuses, what may differ claims.
    assert verdict.drop_interval == pytest.approx((0.5 - 1.96 * 0.5, 100 * wilson(1, 4)[1]), abs=1e-3)
    verdict = judge(expected, found, [frozenset([i]) for i in (0, 0, 0, 1)])
    assert (verdict.measure, verdict.float_score, verdict.int8_score, verdict.drop) == ("accuracy", 75, 50, 25)
    assert (verdict.agreed, verdict.lost, verdict.gained) == (3, 1, 0)
    # One photo of four is all that can be lost, so the loss to expect decides.
    assert verdict.allows(0.5) and not verdict.allows(0.4)
    same = judge(expected, expected, None)
    assert same.divergence == pytest.approx(0) and same.drop == 0
    gained = judge(found, expected, [frozenset([i]) for i in (0, 0, 1, 1)])
    assert (gained.lost, gained.gained, gained.drop) == (0, 1, -25)


def test_what_few_photos_show() -> None:
    assert not verdict(5, 0).shows(1) and not verdict(5, 1).exceeds(1) and not verdict(40, 2, 1).exceeds(1)
    assert verdict(381, 0).shows(1) and not verdict(380, 0).shows(1)
    assert verdict(10, 4).exceeds(1) and not verdict(10, 4).exceeds(30)
    assert verdict(1000, 9, 8).shows(1) and not verdict(1000, 19, 18).shows(1)
    assert verdict(60, 0).claim(1) == "not shown: 60 photos judged, a bound of 1 point needs about 381"
    assert "a bound of 2.5 points needs about 150" in verdict(60, 0).claim(2.5)
    assert verdict(400, 0).claim(1) == "shown with 95 % confidence: 400 photos judged, at most 0.95 points lost"


@pytest.mark.parametrize(("photos", "lost", "gained", "bound"), [(60, 0, 0, 1), (200, 2, 1, 1), (50, 1, 3, 0.5)])
def test_as_many_photos_as_needed_are_enough(photos: int, lost: int, gained: int, bound: float) -> None:
    needed = verdict(photos, lost, gained).needed(bound)
    assert needed is not None and needed > photos
    shares = np.array([lost, gained]) / photos
    assert 100 * paired(*shares * needed, needed)[1] <= bound < 100 * paired(*shares * (needed - 1), needed - 1)[1]
    folder = min_folder_size(needed)
    assert split_sizes(folder)[2] >= needed > split_sizes(folder - 1)[2]


def test_where_no_number_of_photos_shows_it() -> None:
    assert verdict(1000, 30).needed(1) is None and verdict(100, 0).needed(0) is None
    assert "lose 3.0 points, and no number of photos like these shows a bound of 1 point" in verdict(1000, 30).claim(1)
    # One photo of 25 is no reason to say so: how often they differ is known, and what is lost by float's probabilities.
    needed = verdict(25, 1, expected=0).needed(1)
    assert needed is not None and needed == pytest.approx(1.96**2 * 0.04 / 0.01**2, rel=0.1)
    assert verdict(25, 1, expected=1.5).needed(1) is None
    unlabelled = verdict(100, 3, measure="agreement")
    assert "3 answers that differ from float's, a bound of 1 point needs photos whose class is known" in (
        unlabelled.claim(1)
    )


@pytest.mark.parametrize("count", [20, 21, 60, 100, 256, 257, 400, 700])
def test_the_three_parts_share_no_photo(count: int) -> None:
    images = np.broadcast_to(np.arange(count).reshape(-1, 1, 1, 1), (count, 1, 1, 1))
    labels = [frozenset([i]) for i in range(count)]
    ranges, choosing, judging = Calibration(images, labels).split()
    numbers = [part.ravel().tolist() for part in (ranges, choosing.images, judging.images)]
    assert sorted(number for part in numbers for number in part) == list(range(count))
    for part, found in ((choosing, numbers[1]), (judging, numbers[2])):
        assert part.labels == [frozenset([i]) for i in found]
    assert [len(part) for part in numbers] == list(split_sizes(count))
    assert len(ranges) <= 128 and len(judging.images) >= count // 4
    for part in numbers:
        # Evenly over the order: no gap is much wider than the mean one.
        assert np.diff([-1, *part, count]).max() <= 2.5 * count / len(part) + 1


def test_each_part_has_photos_of_each_label() -> None:
    labels = [frozenset([0 if i < 40 else i % 3 + 1]) for i in range(64)]  # 40 of one, 8 each of three in turns
    images = np.broadcast_to(np.arange(64).reshape(-1, 1, 1, 1), (64, 1, 1, 1))
    ranges, choosing, judging = Calibration(images, labels).split()
    counts = [
        [sum(labels[i] == {label} for i in part.ravel().tolist()) for label in range(4)]
        for part in (ranges, choosing.images, judging.images)
    ]
    assert counts == [[20, 4, 4, 4], [10, 2, 2, 2], [10, 2, 2, 2]]


def test_labels() -> None:
    classes = ["Golden Retriever", "tabby-cat", "crane", "crane"]
    paths = [PurePath(path) for path in ("golden_retriever/1.jpg", "Tabby Cat/2.jpg", "crane/3.jpg", "2/4.jpg")]
    assert labels_of(paths, classes, 4) == [{0}, {1}, {2, 3}, {2}]
    assert labels_of([PurePath("a/1.jpg"), PurePath("2.jpg")], classes, 4) is None
    with pytest.raises(UsageError, match=r"'crame' is no class.*Did you mean 'crane'"):
        labels_of([PurePath("crane/1.jpg"), PurePath("crame/2.jpg")], classes, 4)
    assert labels_of([PurePath("1/a.jpg")], None, 2) == [{1}]
    composed, apart = (unicodedata.normalize(form, "Küken") for form in ("NFC", "NFD"))
    assert labels_of([PurePath(apart, "1.jpg")], ["Ei", composed], 2) == [{1}]


def test_imagenets_ids_are_labels(shared_photos: list[Path]) -> None:
    names = class_names()
    found = labels_of([PurePath(path.name) for path in shared_photos], names, 1000)
    assert found == [{10 * i} for i in range(100)]
    assert labels_of([PurePath("n01443537/x.jpg")], names, 1000) == [{1}]
    assert labels_of([PurePath("n01443537/x.jpg")], ["a", "b"], 2) is None


def test_classes_in_another_order_are_seen() -> None:
    labels = [frozenset([i % 3]) for i in range(30)]
    right = np.array([i % 3 for i in range(30)])
    require_class_order(right, labels, ["ant", "bee", "cat"])
    require_class_order(np.zeros(30, int), labels, None)  # a bad network, not a mixed-up one
    with pytest.raises(UsageError, match=r"another order.*'ant' are nearly all predicted as 'bee'"):
        require_class_order((right + 1) % 3, labels, ["ant", "bee", "cat"])


def test_a_gate_that_hardly_moves_has_a_range() -> None:
    """Two neighbours of float32 leave no room for 2,048 bins in float32."""
    low = np.float32(0.5)
    high = np.nextafter(low, np.float32(1))
    observer = HistogramObserver({"gate": Extent(np.array([low]), np.array([high]))})
    observer.add([observer.reduce(0, {"gate": np.array([[low, high, low]])})])
    assert observer.ranges() == {"gate": (0.0, pytest.approx(0.5))}
