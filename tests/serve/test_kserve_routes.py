"""The KServe v2 protocol: by Triton's own client, and what it refuses."""

import json

import numpy as np
import pytest

import vertebra
from vertebra.synthetic_photos import synthetic_photos

IMAGES = synthetic_photos(3, 32)


@pytest.fixture(scope="module")
def expected(tiny_model):
    return vertebra.load(tiny_model)


def test_tritons_client(client, expected):
    http = pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed")
    triton = http.InferenceServerClient(f"{client.host}:{client.port}")
    try:
        assert triton.is_server_live() and triton.is_server_ready() and triton.is_model_ready("tiny")
        assert triton.get_server_metadata()["name"] == "vertebra"
        metadata = triton.get_model_metadata("tiny")
        assert metadata["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 32, 32, 3]}]
        assert [output["name"] for output in metadata["outputs"]] == ["probabilities", "embedding", "features"]
        for binary in (True, False):
            tensor = http.InferInput("image", [3, 32, 32, 3], "UINT8")
            tensor.set_data_from_numpy(IMAGES, binary_data=binary)
            wanted = [http.InferRequestedOutput(name, binary_data=binary) for name in ("probabilities", "embedding")]
            found = triton.infer("tiny", [tensor], outputs=wanted, request_id="r1")
            np.testing.assert_allclose(found.as_numpy("probabilities"), expected.probabilities(IMAGES), atol=1e-5)
            np.testing.assert_allclose(found.as_numpy("embedding"), expected.embeddings(IMAGES), atol=1e-4)
            assert found.get_response()["id"] == "r1" and found.get_response()["model_name"] == "tiny"
        tensor = http.InferInput("image", [3, 32, 32, 3], "UINT8")
        tensor.set_data_from_numpy(IMAGES)
        assert triton.infer("tiny", [tensor]).as_numpy("features").shape == (3, 8, 16, 16)
        from tritonclient.utils import InferenceServerException

        with pytest.raises(InferenceServerException):
            triton.get_model_metadata("none")
    finally:
        triton.close()


def infer(client, document, tail=b"", **headers):
    head = document if isinstance(document, bytes) else json.dumps(document).encode()
    if tail:
        headers = {"Inference-Header-Content-Length": str(len(head)), **headers}
    return client.post("/v2/models/tiny/infer", head + tail, "application/json", **headers)


def entry(**changes):
    plain = {"name": "image", "datatype": "UINT8", "shape": [1, 32, 32, 3], "data": IMAGES[0].ravel().tolist()}
    return {"inputs": [plain | changes]}


def test_json_both_ways(client, expected):
    answer = infer(client, entry() | {"id": "7", "outputs": [{"name": "probabilities"}]})
    assert answer.status == 200 and answer.json["id"] == "7"
    (output,) = answer.json["outputs"]
    assert (output["datatype"], output["shape"]) == ("FP32", [1, 3])
    np.testing.assert_allclose(output["data"], expected.probabilities(IMAGES[:1])[0], atol=1e-5)
    nested = infer(client, entry(data=IMAGES[:1].tolist()) | {"outputs": [{"name": "probabilities"}]})
    assert nested.json["outputs"] == answer.json["outputs"]


def read_texts(content):
    found = []
    while content:
        length = int.from_bytes(content[:4], "little")
        found.append(content[4 : 4 + length].decode())
        content = content[4 + length :]
    return found


@pytest.mark.parametrize(("count", "given"), [(2, 2), (3, 99)])
def test_classes_in_place_of_probabilities(client, expected, count, given):
    outputs = [{"name": "embedding"}, {"name": "probabilities", "parameters": {"classification": given}}]
    answer = infer(client, entry() | {"outputs": outputs})
    embedding, output = answer.json["outputs"]
    assert embedding["datatype"] == "FP32"
    assert (output["datatype"], output["shape"]) == ("BYTES", [1, count])
    values = expected.probabilities(IMAGES[:1])[0]
    best = values.argsort()[::-1][:count]
    parts = [text.split(":") for text in output["data"]]
    assert [(int(index), name) for _, index, name in parts] == [(i, ("cat", "dog", "fish")[i]) for i in best]
    np.testing.assert_allclose([float(value) for value, _, _ in parts], values[best], atol=1e-5)
    outputs[1]["parameters"]["binary_data"] = True
    binary = infer(client, entry() | {"outputs": outputs[1:]})
    length = int(binary.headers["inference-header-content-length"])
    assert read_texts(binary.body[length:]) == output["data"]


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("probabilities", 0, "classification is 0"),
        ("probabilities", "2", "classification is '2'"),
        ("probabilities", True, "classification is True"),
        ("embedding", 2, "only supported for the output 'probabilities'"),
    ],
)
def test_classes_that_are_refused(client, name, given, message):
    answer = infer(client, entry() | {"outputs": [{"name": name, "parameters": {"classification": given}}]})
    assert answer.status == 422 and message in answer.message


@pytest.mark.parametrize(
    ("document", "tail", "headers", "status", "message"),
    [
        (b"{", b"", {}, 400, "not JSON"),
        ({}, b"", {}, 422, "takes one input"),
        ({"inputs": []}, b"", {}, 422, "takes one input"),
        ({"inputs": "image"}, b"", {}, 422, "takes one input"),
        (entry(name="x"), b"", {}, 422, "takes one input"),
        (entry(datatype="FP32"), b"", {}, 422, "takes one input"),
        (entry(shape=[1, 3, 32, 32]), b"", {}, 422, "the shape is"),
        (entry(shape=[-1, 32, 32, 3]), b"", {}, 422, "the shape is"),
        (entry(shape=[True, 32, 32, 3]), b"", {}, 422, "the shape is"),
        (entry(shape=None), b"", {}, 422, "the shape is"),
        (entry(shape=[9, 32, 32, 3]), b"", {}, 422, "at most 8"),
        (entry(data=[1, 2]), b"", {}, 422, "must be 3072 integers"),
        (entry(data=[[1], [1, 2]]), b"", {}, 422, "flat or nested as its shape"),
        (entry(data=[0.5] * 3072), b"", {}, 422, "integers"),
        (entry(data=[256] * 3072), b"", {}, 422, "from 0 to 255"),
        (entry(data="text"), b"", {}, 422, "integers"),
        (entry(data=None), b"", {}, 422, "integers"),
        (entry(parameters={"binary_data_size": 3072}), b"short", {}, 422, "is 3072, and 5 bytes follow the JSON"),
        (
            entry(parameters={"binary_data_size": 3}),
            bytes(3072),
            {},
            422,
            "is 3; for the shape [1, 32, 32, 3] it must be the integer 3072",
        ),
        (
            entry(parameters={"binary_data_size": "3072"}),
            bytes(3072),
            {},
            422,
            "binary_data_size is '3072'; for the shape",
        ),
        (entry(parameters={"binary_data_size": 3072.0}), bytes(3072), {}, 422, "binary_data_size is 3072.0"),
        (entry(parameters={"binary_data_size": 3072}), bytes(3072), {}, 422, "both data and a binary_data_size"),
        (entry(), bytes(3072), {}, 422, "3072 bytes follow the JSON, and the tensor has no binary_data_size"),
        (entry(data=[True] * 3072), b"", {}, 422, "integers"),
        (entry() | {"outputs": ""}, b"", {}, 422, "no output"),
        (entry() | {"outputs": [{"name": "logits"}]}, b"", {}, 422, "no output 'logits'"),
        (entry() | {"outputs": "x"}, b"", {}, 422, "no output"),
        (entry(), b"", {"Inference-Header-Content-Length": "x"}, 400, "Inference-Header-Content-Length is 'x'"),
        (entry(), b"", {"Inference-Header-Content-Length": "99999999"}, 400, "the body has"),
    ],
)
def test_what_is_refused(client, document, tail, headers, status, message):
    answer = infer(client, document, tail, **headers)
    assert answer.status == status and message in answer.message


def test_models_that_are_not_there(client):
    for path in ("/v2/models/none", "/v2/models/none/ready"):
        assert client.get(path).status == 404
    assert client.post("/v2/models/none/infer", b"{}", "application/json").status == 404
