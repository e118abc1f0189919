"""A model in S3: served, and replaced when its ETag changes; storage that is away changes nothing.

The fixture `remote` comes first, so that the server is closed before its storage.
"""

import logging

import pytest
from faulty_s3 import Refuse
from waiting import until


@pytest.fixture
def remote(faulty_s3, tmp_path, monkeypatch, write_model):
    """`remote.place(**as write_model takes)` puts a model to s3://models/a=1/m.onnx."""
    monkeypatch.setenv("VERTEBRA_REMOTE_SECONDS", "5")
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "cache"))

    def place(**options):
        faulty_s3.objects["models/a=1/m.onnx"] = write_model(tmp_path / "new.onnx", **options).read_bytes()

    faulty_s3.place = place
    place(classes=("cat", "dog", "fish"))
    return faulty_s3


URI = "s3://models/a=1/m.onnx"


def classes(client):
    return client.get("/v1/models/m/classes").json["classes"]


@pytest.mark.parametrize("given", [URI, f"m={URI}"])
def test_a_new_object_is_served(remote, serving, pngs, given):
    client = serving(models=(given,), reload_seconds=0.05)
    assert classes(client) == ["cat", "dog", "fish"]
    assert client.post("/v1/predict", pngs[0]).status == 200
    remote.place(classes=("cow", "hen", "pig"))
    until(lambda: classes(client) == ["cow", "hen", "pig"])
    assert 'vertebra_reloads_total{model="m",result="ok"} 1.0' in client.get("/metrics").body.decode()


def test_a_bad_object_leaves_the_old_one_serving(remote, serving, pngs):
    client = serving(models=(URI,), reload_seconds=0.05)
    good = remote.objects["models/a=1/m.onnx"]
    remote.objects["models/a=1/m.onnx"] = b"no model"
    until(lambda: client.get("/v1/models").json["models"][0]["error"])
    assert "the new m.onnx is not served" in client.get("/v1/models").json["models"][0]["error"]
    assert 'vertebra_model_current{model="m"} 0.0' in client.get("/metrics").body.decode()
    assert client.post("/v1/predict", pngs[0]).status == 200
    remote.objects["models/a=1/m.onnx"] = good
    until(lambda: client.get("/v1/models").json["models"][0]["error"] is None)


def test_storage_that_is_away_is_told_once(remote, serving, pngs, caplog):
    caplog.set_level(logging.INFO, "vertebra.serve")
    client = serving(models=(URI,), reload_seconds=0.02)
    fault = Refuse(status=503, code="SlowDown")
    remote.faults.append(fault)
    until(lambda: "overloaded" in caplog.text)
    asked = len(remote.requests)
    until(lambda: len(remote.requests) > asked + 6)
    assert client.post("/v1/predict", pngs[0]).status == 200
    assert caplog.text.count("overloaded") == 1
    assert 'vertebra_model_current{model="m"} 1.0' in client.get("/metrics").body.decode()
    remote.faults.remove(fault)
    remote.place(classes=("oak", "elm"))
    until(lambda: classes(client) == ["oak", "elm"])
    assert "can be read again" in caplog.text


def test_an_object_that_is_gone(remote, serving, pngs):
    client = serving(models=(URI,), reload_seconds=0.05)
    content = remote.objects.pop("models/a=1/m.onnx")
    until(lambda: client.get("/v1/models").json["models"][0]["error"] == f"{URI} is gone.")
    assert client.post("/v1/predict", pngs[0]).status == 200
    remote.objects["models/a=1/m.onnx"] = content
    until(lambda: client.get("/v1/models").json["models"][0]["error"] is None)


def test_a_copy_that_was_deleted_to_make_room(remote, serving, pngs, tmp_path):
    client = serving(models=(URI,), reload_seconds=0.05)
    (copy,) = (tmp_path / "cache" / "remote").glob("*/m.onnx")
    copy.unlink()
    until(copy.exists)
    assert client.get("/v1/models").json["models"][0]["error"] is None
    assert client.post("/v1/predict", pngs[0]).status == 200
