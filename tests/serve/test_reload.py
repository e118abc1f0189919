"""A file that is replaced: loaded without a dropped request; one that is bad changes nothing."""

import contextlib
import gc
import os
import re
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from waiting import until

from vertebra.runtime import mnn_engine
from vertebra.runtime.engine import EngineError
from vertebra.runtime.engine_runner import open_engine
from vertebra.serve.batcher import Batcher

onnx = pytest.importorskip("onnx")
from onnx import helper, numpy_helper  # noqa: E402


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


def test_a_new_file_of_the_same_size_inode_and_time(serving, place, write_model, tmp_path):
    """As `cp -p`, `rsync --inplace` and archives with fixed times leave it: the order of the classes was corrected."""
    path = place.path
    write_model(path, classes=("cat", "dog", "fish"))
    corrected = write_model(tmp_path / "corrected.onnx", classes=("dog", "cat", "fish"))
    os.utime(path, (1e9, 1e9))
    before = path.stat()
    client = serving(models=(str(path),), reload_seconds=0.05)
    assert client.get("/v1/models/m/classes").json["classes"] == ["cat", "dog", "fish"]
    with path.open("r+b") as file:
        file.write(corrected.read_bytes())
    os.utime(path, (1e9, 1e9))
    after = path.stat()
    for same in ("st_size", "st_ino", "st_mtime_ns"):
        assert getattr(before, same) == getattr(after, same)
    until(lambda: client.get("/v1/models/m/classes").json["classes"] == ["dog", "cat", "fish"])


def test_a_damaged_file_leaves_the_old_one_serving(serving, place, pngs, monkeypatch):
    place(seed=3, checksum=True)
    client = serving(models=(str(place.path),), reload_seconds=0.05)
    before = client.post("/v1/predict", pngs[0]).json["results"][0]["predictions"]
    damaged = bytearray(place.path.read_bytes())
    damaged[600] ^= 0x80  # the sign of a weight
    # What the cache says of it, a server does not rely on.
    monkeypatch.setattr("vertebra.model_checksum.is_verified", lambda path, status: True)
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


def damage(model):
    entry = next(entry for entry in model.graph.initializer if entry.name == "linear")
    entry.raw_data = np.full((8, 3), np.nan, np.float32).tobytes()


def test_a_file_of_damaged_weights_is_not_served(serving, place, pngs):
    client = serving(models=(str(place.path),), reload_seconds=0.05)
    place(change=damage)
    until(lambda: client.get("/v1/models").json["models"][0]["error"])
    assert "NaN or infinite values" in client.get("/v1/models").json["models"][0]["error"]
    assert client.post("/v1/predict", pngs[0]).status == 200


def test_accepted_requests_are_finished_by_the_old_one(serving, place, held, pngs):
    client = serving(models=(str(place.path),), reload_seconds=0.05)
    gate = held(client)
    old = client.service.registry.get("m")
    answers = []

    def ask():
        answers.append(client.files("/v1/predict", *((f"{n}", png) for n, png in enumerate(pngs))))

    thread = threading.Thread(target=ask)
    thread.start()
    until(lambda: old.batcher.num_busy)
    place(classes=("new", "newer"))
    until(lambda: client.service.registry.get("m") is not old)
    assert client.post("/v1/predict", pngs[0]).json["results"][0]["predictions"][0]["class"] in ("new", "newer")
    gate.set()
    thread.join()
    (answer,) = answers
    assert answer.status == 200
    assert {entry["class"] for r in answer.json["results"] for entry in r["predictions"]} == {"cat", "dog", "fish"}


@pytest.mark.parametrize("explained", ["activation", "occlusion"])
def test_an_explanation_is_by_one_model(serving, place, pngs, monkeypatch, explained):
    """One that is replaced between two of its steps begins again: the new one takes other pixels."""
    if explained == "occlusion":
        monkeypatch.setattr("vertebra.serve.loaded_model.find_classifier", lambda graph: None)
    client = serving(models=(str(place.path),), reload_seconds=0.02)
    registry = client.service.registry
    old, submit, seen = registry.get("m"), Batcher.submit, []

    def replacing(batcher, jobs, deadline):
        """In place of the step that runs the network, or of the one that runs it with parts covered."""
        seen.append(len(jobs))
        if batcher is old.batcher and len(seen) == (2 if explained == "occlusion" else 1):
            place(size=40, classes=("oak", "elm"))
            until(lambda: registry.get("m") is not old and old.batcher._closed)
        return submit(batcher, jobs, deadline)

    monkeypatch.setattr(Batcher, "submit", replacing)
    answer = client.post("/v1/explain", pngs[0])
    assert answer.status == 200, answer.body
    assert answer.headers["x-class-name"] in ("oak", "elm") and answer.headers["x-method"] == explained


# --- memory -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def without_collector():
    """What is freed here is freed by its last reference: a reference cycle would stay."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.fixture
def engines(monkeypatch):
    """Weak references to all engines that are opened."""
    found = []

    def opened(*arguments):
        engine = open_engine(*arguments)
        found.append(weakref.ref(engine))
        return engine

    monkeypatch.setattr("vertebra.runtime.engine_selection.open_engine", opened)
    return found


def test_a_replaced_model_is_freed_with_its_last_answer(serving, write_model, place, engines, pngs, tmp_path):
    other = write_model(tmp_path / "other.onnx")
    client = serving(models=(str(place.path), str(other)), reload_seconds=0.05)
    registry = client.service.registry
    with without_collector():
        gone = []
        for turn in range(3):
            old = registry.get("m")
            assert [
                client.post("/v1/predict", pngs[0]).status,
                client.post("/v1/predict", b"no photo").status,
                client.post("/v1/explain", pngs[0]).status,
                client.get("/v1/models/m/anatomy").status,
            ] == [200, 422, 200, 200]
            gone += [weakref.ref(part) for part in (old, old.batcher, old.runner, old.classifier)]
            threads = old.batcher._threads
            assert all(thread.is_alive() for thread in threads)
            del old
            place(seed=turn + 1)
            until(lambda turn=turn: f'result="ok"}} {turn + 1}.0' in client.get("/metrics").body.decode())
            until(lambda threads=threads: not any(thread.is_alive() for thread in threads))
        until(lambda: not any(reference() for reference in gone))
        # The one that is served now, and the other model.
        until(lambda: sum(engine() is not None for engine in engines) == 2)
    assert len(engines) == 5
    assert client.post("/v1/predict?model=other", pngs[0]).status == 200


def test_a_request_that_still_names_a_replaced_model_does_not_keep_its_network(serving, place, engines, pngs):
    client = serving(models=(str(place.path),), reload_seconds=0.05)
    old = client.service.registry.get("m")
    place(seed=1)
    until(lambda: client.service.registry.get("m") is not old)
    until(lambda: engines[0]() is None)
    with pytest.raises(EngineError, match="has been closed"):
        old.runner.call(np.zeros((1, 32, 32, 3), np.uint8))
    assert old.explains_by == "activation" and old.anatomy is not None and old.card.classes == ("cat", "dog", "fish")


def test_models_that_cannot_be_loaded_leave_nothing(serving, place, engines, pngs):
    client = serving(models=(str(place.path),), reload_seconds=0.02)
    threads = threading.active_count()
    with without_collector():
        for turn in range(5):
            place(change=damage, seed=turn)
            until(lambda turn=turn: f'result="error"}} {turn + 1}.0' in client.get("/metrics").body.decode())
        until(lambda: sum(engine() is not None for engine in engines) == 1)
    assert len(engines) == 6 and threading.active_count() <= threads
    assert client.post("/v1/predict", pngs[0]).status == 200


SERVE = """
import logging, sys
logging.basicConfig(level=logging.INFO)
from vertebra.serve import ServerSettings, run
run(ServerSettings(models=(sys.argv[1],), port=0, reload_seconds=0.05, engine=sys.argv[2]), logging.info)
"""


def enlarged(turn, *, damaged):
    """A change of the tiny model: 44 MB more of weights, in blocks of 0.3 to 3.2 MB as real ones have."""

    def change(model):
        if damaged:
            damage(model)
        graph, total = model.graph, "small"
        softmax = graph.node[-1]
        graph.node[-2].output[0] = total
        del graph.node[-1]
        for index in range(20):
            width = 90_000 if index % 2 else 10_000
            for name, shape in ((f"wide{index}", (8, width)), (f"narrow{index}", (width, 3))):
                graph.initializer.append(numpy_helper.from_array(np.full(shape, 1e-6 * turn, np.float32), name))
            last, total = total, f"sum{index}"
            graph.node.append(helper.make_node("MatMul", ["embedding", f"wide{index}"], [f"hidden{index}"]))
            graph.node.append(helper.make_node("MatMul", [f"hidden{index}", f"narrow{index}"], [f"term{index}"]))
            graph.node.append(helper.make_node("Add", [last, f"term{index}"], [total]))
        softmax.input[0] = total
        graph.node.append(softmax)

    return change


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("engine", ["onnxruntime", *(["mnn"] if mnn_engine.installed() else [])])
@pytest.mark.parametrize("damaged", [False, True])
def test_memory_is_flat_over_50_reloads_under_load(write_model, tmp_path, pngs, call, engine, damaged):
    """A model of 44 MB that is replaced 50 times while others predict and explain, all of them with success."""
    path = write_model(tmp_path / "m.onnx", change=enlarged(0, damaged=False))
    process = subprocess.Popen([sys.executable, "-c", SERVE, path, engine], stderr=subprocess.PIPE, text=True)
    statuses, stop, resident = [], threading.Event(), []
    try:
        url = next(found[1] for line in process.stderr if (found := re.search(r"listening on (http://\S+)", line)))
        threading.Thread(target=process.stderr.read, daemon=True).start()
        client = call(SimpleNamespace(url=url))
        until(lambda: client.get("/readyz").status == 200)

        def ask(path):
            while not stop.is_set():
                statuses.append(client.post(path, pngs[0]).status)
                time.sleep(0.05)  # or two cores do nothing else

        threads = [threading.Thread(target=ask, args=[f"/v1/{route}"]) for route in ("predict", "explain")]
        for thread in threads:
            thread.start()
        wanted = f'vertebra_reloads_total{{model="m",result="{"error" if damaged else "ok"}"}} '
        for turn in range(1, 51):
            write_model(tmp_path / "new.onnx", change=enlarged(turn % 3, damaged=damaged)).replace(path)
            until(lambda turn=turn: f"{wanted}{turn}.0" in client.get("/metrics").body.decode(), 60)
            status = Path(f"/proc/{process.pid}/status").read_text()
            resident.append(int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1000)
        stop.set()
        for thread in threads:
            thread.join()
    finally:
        stop.set()
        process.kill()
        process.wait()
        process.stderr.close()
    assert len(statuses) > 50 and set(statuses) == {200}
    # MB; a leak of every model would be 2,000.
    assert np.median(resident[-10:]) - np.median(resident[5:15]) < 22, resident
