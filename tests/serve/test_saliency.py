"""Heat-maps: the right numbers, at the right place of the photo, in float, in 8 bits, and by covering."""

import io

import numpy as np
import pytest
from PIL import Image

import vertebra
from vertebra.card import Preprocessing
from vertebra.graph.onnx_reader import read_onnx
from vertebra.pixels import network_pixels
from vertebra.serve import saliency
from vertebra.serve.saliency import (
    activation_map,
    crop_box,
    draw_heatmap,
    find_classifier,
    is_mean_pooled,
    occlude,
    occlusion_map,
    shrink,
)


def opened(answer):
    assert answer.status == 200 and answer.headers["content-type"] == "image/png"
    return Image.open(io.BytesIO(answer.body))


def test_the_parts_of_all_places_are_the_logit(tiny_model, pngs):
    classifier = find_classifier(read_onnx(tiny_model))
    network = vertebra.load(tiny_model)
    pixels = network_pixels(pngs[0], network.card.preprocessing)[None]
    probabilities, embedding, features = network.run(pixels, ("probabilities", "embedding", "features"))
    assert is_mean_pooled(classifier, features[0], embedding[0])
    logits = [activation_map(classifier, features[0], index).mean() for index in range(3)]
    exponents = np.exp(logits - np.max(logits))
    np.testing.assert_allclose(exponents / exponents.sum(), probabilities[0], atol=1e-5)
    assert not is_mean_pooled(classifier, features[0] * 1.2, embedding[0])
    assert not is_mean_pooled(classifier, features[0][:4], embedding[0])


def test_over_http(client, pngs):
    overlay = client.post("/v1/explain", pngs[0])
    assert opened(overlay).size == (60, 48) and opened(overlay).mode == "RGB"
    best = client.post("/v1/predict", pngs[0]).json["results"][0]["predictions"][0]
    assert overlay.headers["x-class-index"] == str(best["index"]) and overlay.headers["x-class-name"] == best["class"]
    assert overlay.headers["x-method"] == "activation"
    heat = client.files("/v1/explain?layer=heat&index=2", ("a.png", pngs[0]))
    assert (
        opened(heat).mode == "RGBA" and heat.headers["x-class-index"] == "2" and heat.headers["x-class-name"] == "fish"
    )
    alphas = [opened(client.post(f"/v1/explain?layer=heat&index={index}", pngs[0])) for index in range(3)]
    alpha = np.max([np.asarray(image)[..., 3] for image in alphas], 0)
    left, _, right, _ = crop_box(48, 60, Preprocessing(32, 40))
    assert not alpha[:, : round(60 * left)].any() and not alpha[:, round(60 * right) :].any()
    assert alpha.max() == 255


def test_what_cannot_be_explained(client, pngs):
    for path, files, message in (
        ("/v1/explain?index=3", [("a", pngs[0])], "classes 0 to 2"),
        ("/v1/explain?layer=x", [("a", pngs[0])], "layer is 'x'"),
        ("/v1/explain", [("a", pngs[0]), ("b", pngs[1])], "2 images"),
        ("/v1/explain", [("a.png", b"text")], "a.png is a text file"),
    ):
        answer = client.files(path, *files)
        assert answer.status == 422 and message in answer.message


def without_pooling(model):
    """As VGG: the classifier has a hidden layer."""
    from onnx import helper, numpy_helper

    nodes = list(model.graph.node)
    hidden = [
        helper.make_node("MatMul", ["embedding", "hidden"], ["between"]),
        helper.make_node("Relu", ["between"], ["rectified"]),
    ]
    nodes[7].input[0] = "rectified"
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:7], *hidden, *nodes[7:]])
    matrix = np.random.default_rng(3).normal(size=(8, 8)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(matrix, "hidden"))


def test_by_covering(serving, write_model, tmp_path, pngs):
    client = serving(models=(str(write_model(tmp_path / "m.onnx", change=without_pooling)),), max_images=8, queue=16)
    assert client.get("/v1/models").json["models"][0]["explain"] == "occlusion"
    answer = client.post("/v1/explain", pngs[0])
    assert answer.headers["x-method"] == "occlusion" and opened(answer).size == (60, 48)


def test_embeddings_that_are_no_mean_are_explained_by_covering(serving, write_model, tmp_path, pngs):
    def change(model):
        model.graph.node[5].op_type = "GlobalMaxPool"

    client = serving(models=(str(write_model(tmp_path / "m.onnx", change=change)),))
    assert client.post("/v1/explain", pngs[0]).headers["x-method"] == "occlusion"


# --- the parts --------------------------------------------------------------------------------------------------------


def in_8_bits(model):
    """The classifier as QDQ pairs, as `vertebra export --precision int8` writes it; a temperature on top."""
    from onnx import helper, numpy_helper

    graph = model.graph
    weights = {item.name: item for item in graph.initializer}
    matrix = numpy_helper.to_array(weights["linear"]).T
    scale = (np.abs(matrix).max(1) / 127).astype(np.float32)
    values = {
        "w.quantised": np.rint(matrix / scale[:, None]).astype(np.int8),
        "w.scale": scale,
        "w.zero": np.zeros(3, np.int8),
        "e.scale": np.float32(0.05),
        "e.zero": np.uint8(0),
        "two": np.float32(2),
    }
    graph.initializer.remove(weights["linear"])
    graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in values.items())
    nodes = list(graph.node)
    del graph.node[7:]
    graph.node.extend(
        [
            helper.make_node("QuantizeLinear", ["embedding", "e.scale", "e.zero"], ["e.quantised"]),
            helper.make_node("DequantizeLinear", ["e.quantised", "e.scale", "e.zero"], ["e"]),
            helper.make_node("DequantizeLinear", ["w.quantised", "w.scale", "w.zero"], ["w"], axis=0),
            helper.make_node("Gemm", ["e", "w"], ["raw"], transB=1),
            helper.make_node("Div", ["raw", "two"], ["logits"]),
            nodes[8],
        ]
    )


def test_a_classifier_in_8_bits(tiny_model, write_model, tmp_path):
    plain = find_classifier(read_onnx(tiny_model))
    rounded = find_classifier(read_onnx(write_model(tmp_path / "m.onnx", change=in_8_bits)))
    assert rounded.shape == plain.shape == (3, 8)
    np.testing.assert_allclose(rounded, plain, atol=0.02)


@pytest.mark.parametrize(
    "change",
    [
        without_pooling,
        lambda model: setattr(model.graph.node[8], "op_type", "LogSoftmax"),
        lambda model: setattr(model.graph.node[7], "op_type", "Mul"),
    ],
)
def test_graphs_that_end_otherwise(write_model, tmp_path, change):
    assert find_classifier(read_onnx(write_model(tmp_path / "m.onnx", change=change))) is None


def test_covering_finds_what_matters():
    pixels = np.zeros((70, 70, 3), np.uint8)
    pixels[10:20, 40:50] = 255
    parts = occlude(pixels)
    assert len(parts) == saliency.GRID**2
    # A class that is seen where it is bright.
    lost = occlusion_map(0.9, [float(0.1 + 0.8 * (part[14, 44, 0] == 255)) for part in parts])
    assert np.unravel_index(lost.argmax(), lost.shape) == (1, 4)
    assert all((part != pixels).any() for part in parts) and (pixels[10:20, 40:50] == 255).all()


def test_heat_lies_over_the_crop():
    picture = Image.new("RGB", (200, 100), (10, 20, 30))
    box = crop_box(100, 200, Preprocessing(100, 100))
    assert box == (0.25, 0.0, 0.75, 1.0)
    heat = np.zeros((4, 4), np.float32)
    heat[0, 3] = 5
    found = Image.open(io.BytesIO(draw_heatmap(heat, picture, box, overlay=True)))
    pixels = np.asarray(found).astype(int)
    changed = np.abs(pixels - (10, 20, 30)).sum(-1) > 30
    assert not changed[:, :50].any() and not changed[:, 150:].any() and not changed[60:].any()
    assert changed[5, 140]
    cold = Image.open(io.BytesIO(draw_heatmap(-heat, picture, box, overlay=False)))
    assert not np.asarray(cold)[..., 3].any()


def test_a_crop_that_reaches_outside_of_a_small_picture():
    box = crop_box(100, 100, Preprocessing(200, 100))
    assert box[0] < 0 < 1 < box[2]
    found = Image.open(
        io.BytesIO(draw_heatmap(np.ones((2, 2), np.float32), Image.new("RGB", (100, 100)), box, overlay=False))
    )
    assert found.size == (100, 100) and np.asarray(found)[..., 3].min() == 255


def test_large_pictures_come_back_small():
    assert shrink(Image.new("RGB", (4000, 100))).size == (1024, 26)
    assert shrink(Image.new("RGB", (300, 200))).size == (300, 200)


def test_of_a_squashed_photo_the_box_is_all():
    assert crop_box(200, 300, Preprocessing(224, 224, crop_mode="squash")) == pytest.approx((0, 0, 1, 1))
    edge = 1 / 16
    assert crop_box(300, 200, Preprocessing(224, 256, crop_mode="squash")) == pytest.approx(
        (edge, edge, 1 - edge, 1 - edge)
    )


@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize(("length", "width"), [(20_000, 2), (30_000, 1)])
def test_of_a_strip_the_box_is_in_its_middle(client, upright, length, width):
    size = (length, width) if not upright else (width, length)
    left, top, right, bottom = crop_box(*size[::-1], Preprocessing(224, 256))
    long, short = ((top, bottom), (left, right)) if upright else ((left, right), (top, bottom))
    # As high as 224 of 256 of its shorter side, and as wide.
    assert short == pytest.approx((16 / 256, 240 / 256))
    assert sum(long) == pytest.approx(1) and long[1] - long[0] == pytest.approx(width * 224 / 256 / length)
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, "PNG")
    assert max(opened(client.post("/v1/explain", file.getvalue())).size) <= 1024
