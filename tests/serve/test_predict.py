"""Predict and embed over HTTP: the numbers of the runtime, in every form that a request can have."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

import vertebra


@pytest.fixture(scope="module")
def expected(tiny_model, pngs):
    """What the runtime says of each photo."""
    network = vertebra.load(tiny_model)
    return [network.predict(png, embed=True) for png in pngs]


def same(found, wanted):
    assert [entry["index"] for entry in found["predictions"]] == [entry["index"] for entry in wanted.predictions]
    assert [entry["class"] for entry in found["predictions"]] == [entry["class"] for entry in wanted.predictions]
    for one, other in zip(found["predictions"], wanted.predictions, strict=True):
        assert one["probability"] == pytest.approx(other["probability"], abs=1e-5)


def test_a_raw_image(client, pngs, expected):
    for kind in ("image/png", "image/jpeg", "application/octet-stream"):
        answer = client.post("/v1/predict", pngs[0], kind)
        assert answer.status == 200 and answer.headers["content-type"] == "application/json"
        (result,) = answer.json["results"]
        same(result, expected[0])
        assert (result["width"], result["height"], result["error"], result["unsure"]) == (60, 48, None, None)
        assert set(result["timing"]) == {"decode_ms", "queue_ms", "inference_ms", "batch"}
    assert answer.json["model"] == "tiny" and answer.json["timing"]["total_ms"] > 0


def test_files_of_a_form_in_their_order(client, pngs, expected):
    files = [(f"{number}.png", png) for number, png in enumerate(pngs)]
    answer = client.files("/v1/predict", *files)
    assert answer.status == 200
    for number, (result, wanted) in enumerate(zip(answer.json["results"], expected, strict=True)):
        assert result["name"] == f"{number}.png"
        same(result, wanted)


def test_json_with_base64(client, pngs, expected):
    encoded = [base64.b64encode(png).decode() for png in pngs]
    images = [{"name": "a.png", "data": encoded[0]}, {"data": f"data:image/png;base64,{encoded[1]}"}]
    answer = client.post("/v1/predict", json.dumps({"images": images, "top": 1}), "application/json")
    assert answer.status == 200
    first, second = answer.json["results"]
    assert first["name"] == "a.png" and second["name"] == "image 1"
    assert first["predictions"][0]["index"] == expected[0].predictions[0]["index"] and len(first["predictions"]) == 1
    assert second["predictions"][0]["index"] == expected[1].predictions[0]["index"]


def test_bad_images_beside_good_ones(client, pngs, expected):
    answer = client.files("/v1/predict", ("a.png", pngs[0]), ("b.txt", b"text"), ("c.png", pngs[1][:300]))
    assert answer.status == 200
    good, text, cut = answer.json["results"]
    same(good, expected[0])
    assert text == {"name": "b.txt", "error": text["error"], "predictions": []}
    assert text["error"].startswith("b.txt is a text file, not an image")
    assert "c.png is damaged or truncated" in cut["error"]


def test_only_bad_images(client):
    answer = client.files("/v1/predict", ("b.txt", b"text"), ("c.png", b""))
    assert answer.status == 422
    assert [result["predictions"] for result in answer.json["results"]] == [[], []]
    assert "c.png is empty" in answer.json["results"][1]["error"]


def test_top(client, pngs):
    assert len(client.post("/v1/predict?top=2", pngs[0]).json["results"][0]["predictions"]) == 2
    assert len(client.post("/v1/predict?top=1000", pngs[0]).json["results"][0]["predictions"]) == 3
    for wrong in ("0", "1001", "x", ""):
        answer = client.post(f"/v1/predict?top={wrong}", pngs[0])
        assert answer.status == 422 and "top is" in answer.message


def test_embed(client, pngs, expected):
    answer = client.files("/v1/embed", ("a.png", pngs[0]), ("b", b"no image"))
    good, bad = answer.json["results"]
    assert answer.status == 200
    np.testing.assert_allclose(good["embedding"], expected[0].embedding, atol=1e-5)
    assert bad["embedding"] == [] and "predictions" not in bad and "b is a text file" in bad["error"]


def test_unsure(serving, write_model, tmp_path, pngs):
    client = serving(models=(f"s={write_model(tmp_path / 's.onnx', threshold=1.0)}",))
    assert client.post("/v1/predict", pngs[0]).json["results"][0]["unsure"] is True
    assert client.get("/v1/models").json["models"][0]["threshold"] == 1.0


def test_several_models(serving, write_model, tmp_path, tiny_model, pngs):
    other = write_model(tmp_path / "other.onnx", classes=("x", "y"), size=24)
    client = serving(models=(str(tiny_model), f"second={other}"))
    assert client.post("/v1/predict", pngs[0]).json["model"] == "tiny"
    answer = client.post("/v1/predict?model=second", pngs[0])
    assert answer.json["model"] == "second"
    assert {entry["class"] for entry in answer.json["results"][0]["predictions"]} == {"x", "y"}
    body = {"model": "second", "images": [{"data": base64.b64encode(pngs[0]).decode()}]}
    assert client.post("/v1/predict", json.dumps(body), "application/json").json["model"] == "second"
    wrong = client.post("/v1/predict?model=secnd", pngs[0])
    assert wrong.status == 404 and "Did you mean 'second'" in wrong.message
    first, second = client.get("/v1/models").json["models"]
    assert first["default"] and not second["default"]
    assert (second["name"], second["classes"], second["input_size"], second["engine"]) == (
        "second",
        2,
        24,
        "onnxruntime",
    )
    assert second["explain"] == "activation" and second["error"] is None


def test_what_a_model_says_of_itself(client, tiny_model):
    card = client.get("/v1/models/tiny/card")
    assert card.status == 200 and card.json["architecture"] == "tiny" and card.json["format_version"] == 1
    assert client.get("/v1/models/tiny/classes").json == {"classes": ["cat", "dog", "fish"]}
    for path in ("card", "classes", "anatomy"):
        assert client.get(f"/v1/models/none/{path}").status == 404


def test_the_server_itself(client):
    info = client.get("/v1/info").json
    assert info == {
        "version": vertebra.__version__,
        "auth": False,
        "limits": {"images": 8, "bytes": 200_000, "pixels": 1_000_000},
    }
    assert client.get("/healthz").json == {"status": "ok"}
    assert client.get("/readyz").json == {"status": "ready"}


def test_names_are_repeated_safely(client, pngs):
    answer = client.files("/v1/predict", ("../../etc/passwd", b"x"), ("\x1b[31m" + "n" * 300, b"x"))
    first, second = (result["name"] for result in answer.json["results"])
    assert first == "passwd" and second.startswith("\\x1b[31mnnn") and len(second) == 100


def test_fields_of_a_form(client, pngs):
    body = (
        b'--b\r\nContent-Disposition: form-data; name="top"\r\n\r\n1\r\n'
        b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename*=UTF-8''na%C3%AFve.png\r\n\r\n"
        + pngs[0]
        + b'\r\n--b\r\nContent-Disposition: form-data; name="pasted"\r\nContent-Type: image/png\r\n\r\n'
        + pngs[1]
        + b'\r\n--b\r\nContent-Disposition: form-data; name="empty"; filename=""\r\n\r\n\r\n--b--'
    )
    answer = client.post("/v1/predict", body, 'multipart/form-data; boundary="b"')
    assert answer.status == 200
    assert [result["name"] for result in answer.json["results"]] == ["naïve.png", "pasted"]
    assert [len(result["predictions"]) for result in answer.json["results"]] == [1, 1]


@pytest.mark.parametrize(
    ("kind", "body", "status", "message"),
    [
        ("text/plain", b"x", 415, "Content-Type is 'text/plain'"),
        ("", b"x", 415, "Content-Type is nothing"),
        ("image/png", b"", 422, "no image"),
        ("multipart/form-data", b"x", 400, "no boundary"),
        ("multipart/form-data; boundary=b", b"nothing", 400, "does not have the boundary"),
        ("multipart/form-data; boundary=b", b"--b\r\nno headers\r\n--b--", 400, "is malformed"),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; filename="a"\r\n\r\nx',
            400,
            "cut short",
        ),
        ("multipart/form-data; boundary=b", b"--b--", 422, "no image"),
        ("multipart/form-data; boundary=b", b"--b\r\n" + b"a" * 9_000 + b": x\r\n\r\n\r\n--b--", 400, "is malformed"),
        ("multipart/form-data; boundary=b", b"--b\r\na:b\r\n\r\nx\r\n" * 60 + b"--b--", 422, "more than 8 images"),
        ("application/json", b"{", 400, "not JSON"),
        ("application/json", b"[" * 100_000, 400, "not JSON"),
        ("application/json", b"[]", 422, "of type list; it must be an object"),
        ("application/json", b"{}", 422, 'no list "images"'),
        ("application/json", b'{"images": []}', 422, "no image"),
        ("application/json", b'{"images": [{"data": 1}]}', 422, "images[0] must be"),
        ("application/json", b'{"images": ["x"]}', 422, "images[0] must be"),
        ("application/json", b'{"images": [{"data": "*"}]}', 422, "not base64"),
        ("application/json", b'{"images": [' + b'{"data": ""},' * 8 + b'{"data": ""}]}', 422, "more than 8 images"),
        ("application/json", b'{"images": [{"data": "eA=="}], "top": "y"}', 422, "top is 'y'"),
        ("application/json", b'{"images": [{"data": "eA=="}], "top": true}', 422, "top is 'True'"),
        ("application/json", b'{"images": [{"data": "eA=="}], "model": 1}', 422, "model is '1'"),
    ],
)
def test_bodies_that_are_refused(client, kind, body, status, message):
    answer = client.post("/v1/predict", body, kind)
    assert answer.status == status and message in answer.message


def test_too_many_files(client, pngs):
    answer = client.files("/v1/predict", *(("a", pngs[0]) for _ in range(9)))
    assert answer.status == 422 and "more than 8 images" in answer.message


def test_paths_and_methods(client):
    for method, path, status in (
        ("GET", "/v1/predict", 405),
        ("GET", "/v1/predict/", 404),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/assets/..%2f..%2fsettings.py", 404),
        ("GET", "/v1/models/..%2f..%2fx/card", 404),
        ("DELETE", "/", 405),
        ("GET", "/%ff%00", 404),
    ):
        answer = client(method, path)
        assert (answer.status, path) == (status, path)
        assert answer.message


def of_12_bits():
    grey = np.arange(60 * 48).reshape(48, 60) % 251
    file = io.BytesIO()
    Image.fromarray((grey * 16).astype(np.uint16)).save(file, "PNG")
    return file.getvalue()


def test_a_photo_whose_depth_is_in_doubt_is_logged_once(client, caplog):
    data = of_12_bits()
    for _ in range(3):
        assert client.post("/v1/predict", data).status == 200
    lines = [record.getMessage() for record in caplog.records if "16-bit values" in record.getMessage()]
    assert len(lines) == 1 and "stay below 4,096" in lines[0]


def test_photos_are_decoded_as_the_card_says(write_model, tmp_path, serving, pngs):
    """By the rule that a file was exported with, and by its bits: as the runtime does it, and so the server."""
    clear = Image.open(io.BytesIO(pngs[0])).convert("RGBA")
    clear.putalpha(0)
    file = io.BytesIO()
    clear.save(file, "PNG")
    preprocessing = {
        "crop_size": 32,
        "resize_size": 40,
        "interpolation": "bicubic",
        "mean": [0.0] * 3,
        "std": [1.0] * 3,
    }
    found = {}
    for name, decoding in (("old", None), ("now", {"rule": 2, "bits": None}), ("deep", {"rule": 2, "bits": 12})):
        steps = preprocessing if decoding is None else preprocessing | {"decoding": decoding}
        card = {"format_version": 1, "architecture": "tiny", "preprocessing": steps, "classes": ["cat", "dog", "fish"]}
        path = write_model(tmp_path / f"{name}.onnx", card=json.dumps(card))
        other = serving(models=(str(path),))
        for photo, data in (("clear", file.getvalue()), ("12 bits", of_12_bits())):
            (result,) = other.post("/v1/predict", data).json["results"]
            same(result, vertebra.load(path).predict(data))
            found[name, photo] = [entry["probability"] for entry in result["predictions"]]
    assert found["old", "clear"] != found["now", "clear"] == found["deep", "clear"]
    assert found["old", "12 bits"] == found["now", "12 bits"] != found["deep", "12 bits"]
