"""A file that is replaced: loaded without a dropped request; one that is bad changes nothing."""

import threading
import time

import pytest


def until(condition):
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen within 10 s")


@pytest.fixture
def place(tmp_path, write_model):
    """A model, and what puts another in its place: `place(**as write_model takes)`."""
    path = write_model(tmp_path / "m.onnx")

    def replace(**options):
        write_model(tmp_path / "new.onnx", **options).replace(path)

    replace.path = path
    return replace


def test_a_new_file_is_served_without_a_dropped_request(serving, place, pngs):
    client = serving(models=(str(place.path),), reload_seconds=0.05)
    statuses, names, stop = [], set(), threading.Event()

    def ask():
        while not stop.is_set():
            answer = client.post("/v1/predict?top=1", pngs[0])
            statuses.append(answer.status)
            names.add(answer.json["results"][0]["predictions"][0]["class"])

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: len(statuses) > 20)
    for classes in (("cow", "hen", "pig"), ("oak", "elm", "fir"), ("red", "tan", "sky")):
        place(classes=classes)
        until(lambda classes=classes: names & set(classes))
    stop.set()
    for thread in threads:
        thread.join()
    assert set(statuses) == {200}
    assert 'vertebra_reloads_total{model="m",result="ok"} 3.0' in client.get("/metrics").body.decode()


def test_a_damaged_file_leaves_the_old_one_serving(serving, place, pngs, monkeypatch):
    place(seed=3, checksum=True)
    client = serving(models=(str(place.path),), reload_seconds=0.05)
    before = client.post("/v1/predict", pngs[0]).json["results"][0]["predictions"]
    damaged = bytearray(place.path.read_bytes())
    damaged[600] ^= 0x80  # the sign of a weight
    # What the cache says of it, a server does not rely on.
    monkeypatch.setattr("vertebra.model_checksum.known_intact", lambda path, status: True)
    place.path.with_suffix(".tmp").write_bytes(damaged)
    place.path.with_suffix(".tmp").replace(place.path)
    until(lambda: client.get("/v1/models").json["models"][0]["error"])
    error = client.get("/v1/models").json["models"][0]["error"]
    assert "the new m.onnx is not served" in error and "is damaged" in error
    assert client.post("/v1/predict", pngs[0]).json["results"][0]["predictions"] == before
    place(seed=3, checksum=True)
    until(lambda: not client.get("/v1/models").json["models"][0]["error"])


@pytest.mark.parametrize("content", [b"no model", b""])
def test_a_bad_file_leaves_the_old_one_serving(serving, place, pngs, content):
    client = serving(models=(str(place.path),), reload_seconds=0.05)
    before = client.post("/v1/predict", pngs[0]).json["results"][0]["predictions"]
    place.path.with_suffix(".tmp").write_bytes(content)
    place.path.with_suffix(".tmp").replace(place.path)
    until(lambda: client.get("/v1/models").json["models"][0]["error"])
    assert "the new m.onnx is not served" in client.get("/v1/models").json["models"][0]["error"]
    assert client.post("/v1/predict", pngs[0]).json["results"][0]["predictions"] == before
    text = client.get("/metrics").body.decode()
    assert 'vertebra_model_current{model="m"} 0.0' in text and client.get("/readyz").status == 200
    assert 'vertebra_reloads_total{model="m",result="error"} 1.0' in text
    place(classes=("a", "b"))
    until(lambda: client.get("/v1/models").json["models"][0]["error"] is None)
    assert client.get("/v1/models").json["models"][0]["classes"] == 2


def test_a_file_that_is_gone_serves_on(serving, place, pngs):
    client = serving(models=(str(place.path),), reload_seconds=0.05)
    content = place.path.read_bytes()
    place.path.unlink()
    until(lambda: client.get("/v1/models").json["models"][0]["error"])
    assert "m.onnx is gone" in client.get("/v1/models").json["models"][0]["error"]
    assert client.post("/v1/predict", pngs[0]).status == 200
    place.path.write_bytes(content)
    until(lambda: client.get("/v1/models").json["models"][0]["error"] is None)
    assert client.post("/v1/predict", pngs[0]).status == 200


def test_a_file_of_damaged_weights_is_not_served(serving, place, pngs):
    import numpy as np

    client = serving(models=(str(place.path),), reload_seconds=0.05)

    def damage(model):
        entry = next(entry for entry in model.graph.initializer if entry.name == "linear")
        entry.raw_data = np.full((8, 3), np.nan, np.float32).tobytes()

    place(change=damage)
    until(lambda: client.get("/v1/models").json["models"][0]["error"])
    assert "no numbers" in client.get("/v1/models").json["models"][0]["error"]
    assert client.post("/v1/predict", pngs[0]).status == 200


def test_accepted_requests_are_finished_by_the_old_one(serving, place, held, pngs):
    client = serving(models=(str(place.path),), reload_seconds=0.05)
    gate = held(client)
    old = client.service.shelf.get("m")
    answers = []

    def ask():
        answers.append(client.files("/v1/predict", *((f"{n}", png) for n, png in enumerate(pngs))))

    thread = threading.Thread(target=ask)
    thread.start()
    until(lambda: old.batcher.busy)
    place(classes=("new", "newer"))
    until(lambda: client.service.shelf.get("m") is not old)
    assert client.post("/v1/predict", pngs[0]).json["results"][0]["predictions"][0]["class"] in ("new", "newer")
    gate.set()
    thread.join()
    (answer,) = answers
    assert answer.status == 200
    assert {entry["class"] for r in answer.json["results"] for entry in r["predictions"]} == {"cat", "dog", "fish"}
