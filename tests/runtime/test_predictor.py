"""An exported file becomes predictions: the same whatever the engine, the batch and the way a photo is given."""

import copy
import gc
import io
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from PIL import Image

import vertebra
from vertebra import cache
from vertebra.card import Card, CardError, Decoding, Preprocessing, read_card
from vertebra.errors import ImageError, MissingExtraError, UsageError, VertebraWarning
from vertebra.pixels import network_pixels
from vertebra.runtime import converted_file, mnn_engine
from vertebra.runtime.engine import EMBEDDING, PROBABILITIES, EngineError, Plan
from vertebra.runtime.engine_runner import Runner, open_engine
from vertebra.runtime.onnxruntime_engine import OnnxRuntimeEngine
from vertebra.runtime.photo import Photo
from vertebra.runtime.prediction import top_classes
from vertebra.runtime.predictor import Prediction, Predictor, chunk_size
from vertebra.synthetic_photos import synthetic_photos

needs_mnn = pytest.mark.skipif(not mnn_engine.installed(), reason="MNN is not installed")
ENGINES = ["onnxruntime", pytest.param("mnn", marks=needs_mnn)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Twenty photos, of which one is broken."""
    folder = tmp_path_factory.mktemp("photos")
    for index, pixels in enumerate(synthetic_photos(20, 48)):
        Image.fromarray(pixels).save(folder / f"{index:02}.png")
    (folder / "07.png").write_bytes(b"no photo")
    return sorted(str(path) for path in folder.iterdir())


# --- one photo -------------------------------------------------------------------------------------------------------


def test_load_and_predict(tiny_model, photos):
    network = vertebra.load(tiny_model)
    result = network.predict(photos[0])
    assert isinstance(result, Prediction)
    assert result.path == photos[0] and result.error is None and result.unsure is None
    values = [entry["probability"] for entry in result.predictions]
    assert values == sorted(values, reverse=True) and sum(values) == pytest.approx(1, abs=1e-6)
    assert {entry["class"] for entry in result.predictions} == {"cat", "dog", "fish"}
    assert all(("cat", "dog", "fish")[entry["index"]] == entry["class"] for entry in result.predictions)
    assert len(network.predict(photos[0], top=2).predictions) == 2


def test_a_photo_in_each_form(tiny_model, photos):
    network = Predictor(tiny_model)
    content = Path(photos[0]).read_bytes()
    wanted = network.predict(photos[0]).predictions
    for form in (Path(photos[0]), content, io.BytesIO(content)):
        assert network.predict(form).predictions == wanted


def test_the_numbers_are_those_of_the_graph(tiny_model, photos):
    network = Predictor(tiny_model)
    pixels = network_pixels(photos[0], Preprocessing(32, 40, "bicubic"))
    (expected,) = OnnxRuntimeEngine(tiny_model, network.card, Plan()).run(pixels[None])
    found = {entry["index"]: entry["probability"] for entry in network.predict(photos[0]).predictions}
    assert [found[index] for index in range(3)] == expected[0].tolist()
    assert np.array_equal(network.probabilities(pixels[None]), expected)
    assert network.embeddings(pixels[None]).shape == (1, 8)


def test_a_bad_photo_is_an_error(tiny_model, photos):
    network = Predictor(tiny_model)
    with pytest.raises(ImageError, match=r"07\.png"):
        network.predict(photos[7])
    with pytest.raises(ImageError, match="no such file"):
        network.predict("nowhere.png")


def test_a_web_address_is_fetched(tiny_model, photos, monkeypatch):
    content = Path(photos[0]).read_bytes()
    monkeypatch.setattr("vertebra.runtime.photo.fetch", lambda url: content)
    network = Predictor(tiny_model)
    result = network.predict("https://example.org/photo.png")
    assert result.path == "https://example.org/photo.png"
    assert result.predictions == network.predict(content).predictions


def test_unsure_below_the_threshold(write_model, tmp_path, photos):
    sure = Predictor(write_model(tmp_path / "sure.onnx", threshold=0.0)).predict(photos[0])
    unsure = Predictor(write_model(tmp_path / "unsure.onnx", threshold=1.0)).predict(photos[0])
    assert sure.unsure is False and sure.as_dict()["unsure"] is False
    assert unsure.unsure is True and unsure.predictions == sure.predictions


def test_a_probability_as_high_as_the_threshold_is_sure():
    card = Card(architecture="tiny", classes=("a", "b"), preprocessing=Preprocessing(32, 40, "bicubic"), threshold=0.75)
    assert top_classes(card, np.float32([0.25, 0.75]), 1)[1] is False
    assert top_classes(card, np.float32([0.26, 0.74]), 1)[1] is True


@pytest.mark.parametrize("top", [1, 2, 3, 7, 8, 50])
def test_equally_likely_classes_come_in_the_order_of_the_card(top):
    card = Card(architecture="tiny", classes=None, preprocessing=Preprocessing(32, 40, "bicubic"))
    for values in ([0.1, 0.3, 0.1, 0.3, 0.3, 0.0, 0.1, 0.0], [0.0] * 8, [1.0], [0.2, 0.8]):
        found = [entry["index"] for entry in top_classes(card, np.float32(values), top)[0]]
        assert found == sorted(range(len(values)), key=lambda index: -values[index])[:top]


def test_five_classes_unless_others_are_asked_for(write_model, tmp_path, photos):
    network = Predictor(write_model(tmp_path / "m.onnx", classes=tuple("abcdefg")))
    assert len(network.predict(photos[0]).predictions) == 5
    assert [len(result.predictions) for result in network.predict_many(photos[:2])] == [5, 5]
    assert len(network.predict(photos[0], top=6).predictions) == 6
    with pytest.raises(TypeError):
        network.predict(photos[0], 6)  # of what? it has a name


# --- many photos ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3, 16])
@pytest.mark.parametrize("engine", ENGINES)
def test_many_are_as_one_by_one_and_in_order(tiny_model, photos, engine, batch):
    one = Predictor(tiny_model)
    results = list(Predictor(tiny_model, engine=engine, batch=batch, threads=2).predict_many(photos, embed=True))
    assert [result.path for result in results] == photos
    for index, (photo, result) in enumerate(zip(photos, results, strict=True)):
        if index == 7:
            assert "07.png" in result.error and result.predictions == [] and result.embedding is None
            assert result.as_dict() == {"path": photo, "predictions": [], "error": result.error}
            continue
        wanted = one.predict(photo, embed=True)
        assert [entry["index"] for entry in result.predictions] == [entry["index"] for entry in wanted.predictions]
        for entry, other in zip(result.predictions, wanted.predictions, strict=True):
            assert entry["probability"] == pytest.approx(other["probability"], abs=1e-5)
        np.testing.assert_allclose(result.embedding, wanted.embedding, atol=1e-4)
        assert result.as_dict()["embedding"] == result.embedding.tolist()


def test_none_and_one(tiny_model, photos):
    network = Predictor(tiny_model)
    assert list(network.predict_many([])) == []
    (result,) = network.predict_many(photos[:1])
    assert result.predictions == network.predict(photos[0]).predictions


def test_weights_that_give_no_numbers(write_model, tmp_path, photos):
    def damage(model):
        entry = next(entry for entry in model.graph.initializer if entry.name == "linear")
        entry.raw_data = np.full((8, 3), np.nan, np.float32).tobytes()

    path = write_model(tmp_path / "nan.onnx", change=damage)
    with pytest.raises(EngineError, match=r"nan\.onnx gives probabilities that are NaN or infinite"):
        list(Predictor(path).predict_many(photos))


def test_pixels_of_another_shape(tiny_model):
    network = Predictor(tiny_model)
    for wrong in (
        np.zeros((1, 3, 32, 32), np.uint8),
        np.zeros((1, 32, 32, 3), np.float32),
        np.zeros((32, 32, 3), np.uint8),
        np.zeros((0, 32, 32, 3), np.uint8),
    ):
        with pytest.raises(UsageError, match=r"takes uint8 \(N, 32, 32, 3\)"):
            network.probabilities(wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch is 0"),
        ({"threads": 0}, "threads is 0"),
        ({"engine": "onnxrumtime"}, "Did you mean 'onnxruntime'"),
        ({"engine": "tensorrt"}, "Allowed are auto, onnxruntime, mnn"),
    ],
)
def test_arguments_that_are_not_allowed(tiny_model, options, message):
    with pytest.raises(UsageError, match=message):
        Predictor(tiny_model, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": "12"}, "bits is '12'; it must be a whole number"),
        ({"bits": 12.5}, "bits is 12.5; it must be a whole number"),
        ({"bits": 17}, "bits is 17; it must be from 8 to 16"),
        ({"threads": 10_000}, r"threads is 10,000, and this process may use \d+ cores?; at most \d+ are allowed"),
    ],
)
def test_numbers_that_are_not_allowed(tiny_model, options, message, monkeypatch):
    monkeypatch.setattr("vertebra.machine.affinity_cores", lambda: 2)
    with pytest.raises(UsageError, match=message):
        vertebra.load(tiny_model, **options)


def test_bits_of_a_file_that_is_older_than_they_are(write_model, tmp_path):
    path = tmp_path / "old.onnx"
    card = Card("tiny", Preprocessing(32, 40, decoding=Decoding(rule=1)), ("cat", "dog", "fish"))
    write_model(path, card=card.to_json())
    with pytest.raises(UsageError, match=r"bits is 12, but .*old\.onnx was exported by an older .* export it anew"):
        Predictor(path, bits=12)
    assert Predictor(path, bits=16).preprocessing.decoding == Decoding(1, 16)


# --- files that are not what they should be ---------------------------------------------------------------------------


def opened(path):
    return open_engine(path, read_card(path), Plan())


def test_an_operator_that_is_not_known(write_model, tmp_path):
    def change(model):
        model.graph.node[4].op_type = "Reluu"

    with pytest.raises(EngineError, match=r"needs the operator Reluu.*pip install --upgrade onnxruntime"):
        opened(write_model(tmp_path / "m.onnx", change=change))


def test_a_newer_opset(write_model, tmp_path):
    def change(model):
        model.opset_import[0].version = 99

    with pytest.raises(EngineError, match=r"pip install --upgrade onnxruntime|cannot be loaded"):
        opened(write_model(tmp_path / "m.onnx", change=change))


def test_a_file_that_is_cut_short(write_model, tmp_path):
    path = write_model(tmp_path / "m.onnx")
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises((CardError, EngineError), match=r"m\.onnx"):
        opened(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: setattr(model.graph.output[1], "name", "features2"), "features2|cannot be loaded"),
        (lambda model: model.graph.output.pop(), "no output 'features'"),
        (lambda model: setattr(model.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 1), "promises"),
        (lambda model: setattr(model.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", 64), "promises"),
    ],
)
def test_a_graph_that_does_not_keep_its_card_s_promise(write_model, tmp_path, change, message):
    with pytest.raises(EngineError, match=message):
        opened(write_model(tmp_path / "m.onnx", change=change))


def test_other_classes_than_outputs(write_model, tmp_path):
    card = Predictor(write_model(tmp_path / "m.onnx")).card
    from dataclasses import replace

    changed = replace(card, classes=("cat", "dog")).to_json()
    with pytest.raises(EngineError, match="gives 3 probabilities, and its card names 2 classes"):
        opened(write_model(tmp_path / "m.onnx", card=changed))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path, write: None, "no such file"),
        (lambda path, write: path.write_text("text"), "not an ONNX file"),
        (lambda path, write: path.mkdir(), "is a folder"),
        (lambda path, write: write(path, card=""), "without a card"),
        (
            lambda path, write: write(path, card='{"format_version": 99, "versions": {"vertebra": "9.1"}}'),
            "vertebra>=9.1",
        ),
    ],
)
def test_files_without_a_card(write_model, tmp_path, make, message):
    make(tmp_path / "m.onnx", write_model)
    with pytest.raises(CardError, match=message):
        Predictor(tmp_path / "m.onnx")


# --- engines ----------------------------------------------------------------------------------------------------------


@needs_mnn
def test_mnn_gives_what_onnx_runtime_gives(tiny_model):
    card = Predictor(tiny_model).card
    images = synthetic_photos(9, 32)
    outputs = ("probabilities", "embedding", "features")
    expected = OnnxRuntimeEngine(tiny_model, card, Plan()).run(images, outputs)
    for plan in (Plan("mnn"), Plan("mnn", winograd=1), Plan("mnn", lanes=2, micro_batch=2)):
        runner = Runner(open_engine(tiny_model, card, plan), plan)
        for batch in (images, images[:1], images[2:7]):  # sizes change between calls
            start = 0 if len(batch) < 5 or len(batch) == 9 else 2
            for one, other in zip(runner.run(batch, outputs), expected, strict=True):
                np.testing.assert_allclose(one, other[start : start + len(batch)], atol=1e-4)
        runner.close()


@needs_mnn
def test_mnn_is_trusted_only_after_a_comparison(write_model, tmp_path, monkeypatch):
    path = write_model(tmp_path / "m.onnx", seed=5)
    card = Predictor(path).card
    run = mnn_engine.MnnEngine.run
    monkeypatch.setattr(mnn_engine.MnnEngine, "run", lambda *arguments: [value * 1.1 for value in run(*arguments)])
    with pytest.raises(EngineError, match=r"differ by .* in the probabilities"):
        open_engine(path, card, Plan("mnn"))
    monkeypatch.undo()
    # The verdict is kept.
    with pytest.raises(EngineError, match="differ by"):
        open_engine(path, card, Plan("mnn"))


@needs_mnn
def test_what_mnn_cannot_convert(write_model, tmp_path):
    def change(model):
        model.graph.node[4].op_type = "Reluu"

    path = write_model(tmp_path / "m.onnx", change=change)
    card = Predictor(path).card
    with pytest.raises(EngineError, match=r"MNN cannot convert|differ|needs the operator"):
        open_engine(path, card, Plan("mnn"))


@pytest.fixture
def forms(tmp_path, monkeypatch):
    """How often MNN's converter has been run, with an empty cache."""
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_warned", set())
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(converted_file, "scratch_dir", lambda: tmp_path / "scratch")
    runs = []
    convert = mnn_engine.convert
    monkeypatch.setattr(mnn_engine, "convert", lambda *paths: runs.append(1) or convert(*paths))
    return runs


@needs_mnn
@pytest.mark.parametrize("damage", ["cut", "emptied", "flipped", "unseen", "folder", "note", "no note"])
def test_a_damaged_form_is_made_again(tiny_model, photos, forms, damage):
    expected = Predictor(tiny_model, engine="mnn").predict(photos[0])
    (path,) = (cache.cache_dir() / "mnn").glob("*.mnn")
    content = path.read_bytes()
    if damage == "folder":
        path.unlink()
        path.mkdir()
    elif "note" in damage:
        note = path.with_suffix(".json")
        note.write_bytes(note.read_bytes()[:-10])
        if damage == "no note":
            note.unlink()
    else:
        flipped = content[:800] + bytes(400) + content[1200:]
        path.write_bytes({"flipped": flipped, "emptied": b""}.get(damage, content[:-100]))
    if damage == "unseen":  # a disk changes bytes without a trace
        cache.write_json(
            path.with_suffix(".json"),
            cache.read_json(path.with_suffix(".json")) | {"state": cache.change_state(path)},
        )
    with pytest.warns() as told:
        found = Predictor(tiny_model, engine="mnn").predict(photos[0])
        cache.warn("the last")  # `pytest.warns` wants one
    assert found.predictions == expected.predictions
    said = [str(entry.message) for entry in told if issubclass(entry.category, VertebraWarning)][:-1]
    assert len(said) == (damage != "no note") + (damage == "folder") and all("damaged" in text for text in said[:1])
    if damage == "folder":
        assert "made for this run alone" in said[1]
    else:
        assert len(forms) == 2
        Predictor(tiny_model, engine="mnn").predict(photos[0])
        assert len(forms) == 2


@needs_mnn
def test_a_converter_that_was_stopped_is_tried_again(tiny_model, photos, forms, monkeypatch):
    def stopped(command, **options):
        return subprocess.CompletedProcess(command, -9, "", "")

    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "run", stopped)
        with pytest.raises(EngineError, match=r"MNN cannot convert .* \(exit code -9\)"):
            Predictor(tiny_model, engine="mnn").predict(photos[0])
    assert Predictor(tiny_model, engine="mnn").predict(photos[0]).error is None


@needs_mnn
def test_where_a_form_cannot_be_kept(tiny_model, photos, forms, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        assert Predictor(tiny_model, engine="mnn").predict(photos[0]).error is None
    assert len(forms) == 1


@needs_mnn
def test_mnn_says_nothing_on_standard_output(tiny_model, photos, capfd):
    Predictor(tiny_model, engine="mnn").predict(photos[0])
    assert capfd.readouterr().out == ""


def test_without_mnn(tiny_model, photos, monkeypatch):
    monkeypatch.setattr(mnn_engine, "installed", lambda: False)
    with pytest.raises(MissingExtraError, match=r"vertebra\[fast\]"):
        Predictor(tiny_model, engine="mnn").predict(photos[0])
    auto = Predictor(tiny_model)
    assert auto.tune().engine == "onnxruntime"
    assert auto.predict(photos[0]).error is None


def test_lanes_deal_out_a_batch():
    class Echo:
        name, lanes = "echo", 3
        calls: list = []  # noqa: RUF012

        def run(self, batch, outputs, lane):
            self.calls.append((lane, len(batch)))
            return [batch.astype(np.float32)[:, 0, 0]]

    runner = Runner(Echo(), Plan(lanes=3, micro_batch=4))
    batch = np.arange(20, dtype=np.uint8)[:, None, None, None].repeat(3, 3)
    assert np.array_equal(runner.run(batch)[0][:, 0], np.arange(20))
    assert sum(count for _, count in Echo.calls) == 20 and max(count for _, count in Echo.calls) <= 4
    assert {lane for lane, _ in Echo.calls} <= {0, 1, 2}
    runner.close()


def test_the_tiny_file_is_sound(tiny_model):
    onnx.checker.check_model(onnx.load(tiny_model), full_check=True)


def test_torch_is_never_loaded(tiny_model, photos, tmp_path):
    code = (
        "import sys\n"
        "for name in ('torch', 'torchvision', 'onnx', 'scipy', 'pandas'): sys.modules[name] = None\n"
        "import vertebra\n"
        f"network = vertebra.load({str(tiny_model)!r})\n"
        f"print(network.predict({photos[0]!r}).predictions[0]['class'])\n"
        f"print(len(list(network.predict_many({photos!r}))))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1] == "20"


def test_a_file_that_was_replaced_is_not_mixed_with_the_one_before(write_model, photos, tmp_path):
    network = Predictor(write_model(tmp_path / "m.onnx"))
    before = network.predict(photos[0]).predictions
    write_model(tmp_path / "new.onnx", seed=1).replace(tmp_path / "m.onnx")
    assert network.predict(photos[0]).predictions == before  # what is loaded goes on
    with pytest.raises(EngineError, match="has been replaced since it was loaded"):
        list(network.predict_many(photos))


@pytest.mark.skipif(sys.platform == "win32", reason="there are no named pipes in folders")
def test_a_pipe_is_no_model(tmp_path):
    os.mkfifo(tmp_path / "m.onnx")
    with pytest.raises(CardError, match="is a pipe or device"):
        Predictor(tmp_path / "m.onnx")


# --- other processes --------------------------------------------------------------------------------------------------


@pytest.fixture
def used(tiny_model, photos, monkeypatch):
    """A network that has predicted, given by a relative path and with all options; and what it predicts."""
    monkeypatch.chdir(tiny_model.parent)
    options = {"engine": "onnxruntime", "batch": 3, "threads": 1, "scaled": True, "bits": 12}
    network = vertebra.load(tiny_model.name, progress=lambda what: None, **options)
    return network, [result.as_dict() for result in network.predict_many(photos)]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_a_network_is_copied_with_its_settings(used, photos, copied, monkeypatch, tmp_path):
    network, wanted = used
    network.notes.add("photo", 1 << 12, ())
    found = copied(network)
    monkeypatch.chdir(tmp_path)
    for name in ("card", "preprocessing", "engine", "batch", "threads", "scaled", "fast_start"):
        assert getattr(found, name) == getattr(network, name)
    assert found.preprocessing.decoding.bits == 12 and found.path.is_absolute()
    assert [result.as_dict() for result in found.predict_many(photos)] == wanted
    assert found.predict(photos[0]).as_dict() == wanted[0]
    assert found.notes.lines() == [] != network.notes.lines()  # counts of its own


@pytest.mark.parametrize("copied", [lambda network: network, lambda network: pickle.loads(pickle.dumps(network))])
def test_a_network_of_a_relative_path_in_another_folder(tiny_model, photos, copied, monkeypatch, tmp_path):
    monkeypatch.chdir(tiny_model.parent)
    network = vertebra.load(tiny_model.name)
    monkeypatch.chdir(tmp_path)
    assert copied(network).predict(photos[0]).predictions == Predictor(tiny_model).predict(photos[0]).predictions


def test_a_copy_uses_the_cores_that_are_there(tiny_model, monkeypatch):
    given, own = (pickle.dumps(Predictor(tiny_model, threads=threads)) for threads in (3, None))
    monkeypatch.setattr("vertebra.runtime.predictor.usable_cores", lambda: 7)
    assert (pickle.loads(given).threads, pickle.loads(own).threads) == (3, 7)


@pytest.mark.parametrize(
    ("change", "message"), [("replaced", "has been replaced since it was loaded"), ("removed", "is not there any more")]
)
def test_a_copy_of_a_file_that_is_another_says_so(write_model, photos, tmp_path, change, message):
    """At the first prediction: a pool of processes waits for ever where a copy cannot be read at all."""
    path = write_model(tmp_path / "m.onnx")
    content = pickle.dumps(Predictor(path))
    if change == "replaced":
        write_model(path, seed=1)
    else:
        path.unlink()
    network = pickle.loads(content)
    with pytest.raises(EngineError, match=rf"m\.onnx {message}"):
        network.predict(photos[0])


def test_in_processes_that_are_spawned(used, photos):
    network, wanted = used
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert [result.as_dict() for result in pool.map(network.predict, photos[:3], timeout=60)] == wanted[:3]
        with pytest.raises(ImageError, match=r"07\.png"):
            pool.submit(network.predict, photos[7]).result(60)
        assert pool.submit(network.predict, photos[0]).result(60).as_dict() == wanted[0]


FORK = """
import os, sys
import numpy as np
import vertebra

engine, path, lock = sys.argv[1:]
network = vertebra.load(path, engine=engine, threads=2)
pixels = np.zeros((1, 32, 32, 3), np.uint8)
before = network.probabilities(pixels)
if lock == "locked":
    network._engines._lock.acquire()  # by a thread that is not in the child
child = os.fork()
if not child:
    try:
        print(bool(np.allclose(network.probabilities(pixels), before)), flush=True)
        again = vertebra.load(path, threads=2)  # whatever engine is the fastest here
        print(bool(np.allclose(again.probabilities(pixels), before, atol=1e-4)), flush=True)
    except vertebra.VertebraError as error:
        print(error, flush=True)
    finally:
        os._exit(0)
os.waitpid(child, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.parametrize(
    ("engine", "said"),
    [
        ("onnxruntime", "True\nTrue\n"),
        pytest.param("mnn", "MNN ran in the process that this one was forked from", marks=needs_mnn),
    ],
)
def test_in_a_process_that_is_forked(tiny_model, engine, said):
    command = [sys.executable, "-c", FORK, engine, str(tiny_model), "locked"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout


def test_a_network_is_freed_with_its_last_reference(tiny_model, photos, monkeypatch):
    """Not when the garbage collector comes by: it holds hundreds of megabytes."""
    engines = []

    def opened(*arguments):
        engine = open_engine(*arguments)
        engines.append(weakref.ref(engine))
        return engine

    monkeypatch.setattr("vertebra.runtime.engine_selection.open_engine", opened)
    gc.collect()
    gc.disable()
    try:
        network = Predictor(tiny_model, threads=2)
        network.predict(photos[0])
        list(network.predict_many(photos))
        network.probabilities(np.zeros((9, 32, 32, 3), np.uint8))
        with pytest.raises(ImageError):
            network.predict(photos[7])
        del network
        assert len(engines) == 2 and not any(engine() for engine in engines)
    finally:
        gc.enable()


@pytest.mark.skipif(sys.platform != "linux", reason="names are text on this system")
@pytest.mark.parametrize("fast_start", [False, True])
def test_a_file_whose_name_is_no_text(tiny_model, tmp_path, fast_start):
    path = tmp_path / "caf\udce9.onnx"
    path.write_bytes(tiny_model.read_bytes())
    picture = Image.new("RGB", (40, 40), (200, 30, 90))
    photo = tmp_path / "a.png"
    picture.save(photo)
    found, expected = (
        Predictor(each, engine="onnxruntime", fast_start=fast_start).predict(str(photo)) for each in (path, tiny_model)
    )
    assert found.predictions == expected.predictions


# --- which engine is asked for ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "asked"),
    [
        (lambda network, photos: network.predict(photos[0]), (1, None, {})),
        (lambda network, photos: list(network.predict_many(photos[:1])), (1, None, {})),
        (
            lambda network, photos: list(network.predict_many(photos[:3])),
            (4, 3, {"may_measure": True, "decoding": True}),
        ),
        # One that may be short, or wait for its writer.
        (
            lambda network, photos: list(network.predict_many(iter(photos[:3]))),
            (4, None, {"may_measure": False, "decoding": True}),
        ),
        (
            lambda network, photos: list(network.predict_many(iter(photos[:3]), count=900)),
            (4, 900, {"may_measure": True, "decoding": True}),
        ),
        (lambda network, photos: network.tune(), (1, None, {"may_measure": True, "wait": True})),
        (lambda network, photos: network.tune(9), (4, None, {"may_measure": True, "wait": True})),
        (lambda network, photos: network.runner(9), (4, None, {"may_measure": False, "wait": True, "decoding": True})),
        (
            lambda network, photos: network.runner(1, tune=True),
            (1, None, {"may_measure": True, "wait": True, "decoding": True}),
        ),
    ],
)
def test_which_engine_is_asked_for(ask, asked, tiny_model, photos, monkeypatch):
    network, seen = Predictor(tiny_model, batch=4), []
    given = network._engines.get(1)

    def get(batch, count=None, **how):
        seen.append((batch, count, how))
        return given

    monkeypatch.setattr(network._engines, "get", get)
    ask(network, photos)
    assert seen == [asked]
    assert not list(network.predict_many([])) and len(seen) == 1


def test_many_are_decoded_by_as_many_threads_as_the_engine_has(tiny_model, photos, monkeypatch):
    network, asked = Predictor(tiny_model), {}
    plan = Plan("onnxruntime", threads=3, lanes=2, micro_batch=5)
    monkeypatch.setattr(network, "_runner", lambda *what, **how: SimpleNamespace(plan=plan))
    monkeypatch.setattr("vertebra.runtime.predictor.read_ahead", lambda *what, **how: asked.update(how))
    network.predict_many(photos)
    is_slow, chunk = asked.pop("is_slow"), asked.pop("chunk")
    assert asked == {"workers": 6} and chunk(0) == 5
    given, here = Photo("https://example.org/a.jpg", content=b"x"), Photo(photos[0])
    assert not is_slow([here, given]) and is_slow([here, Photo("https://example.org/a.jpg")])


@pytest.mark.parametrize(("batch", "workers"), [(1, 1), (4, 2), (5, 6), (16, 2), (64, 1)])
def test_chunks_are_whole_batches_and_small_at_both_ends(batch, workers):
    sizes, taken = [], 0
    while taken < 1000:
        sizes.append(chunk_size(batch, workers, taken, 1000))
        taken += sizes[-1]
    assert all(size % batch == 0 for size in sizes)
    assert set(sizes[:workers]) == set(sizes[-workers:]) == {batch} and max(sizes) == max(16 // batch, 1) * batch
    assert chunk_size(batch, workers, 500, None) == chunk_size(batch, workers, 500, 20) == batch


def test_many_are_run_in_batches_of_the_plan(tiny_model, photos, monkeypatch):
    sizes, call = [], Runner.call
    monkeypatch.setattr(
        Runner, "call", lambda self, pixels, *how: sizes.append(len(pixels)) or call(self, pixels, *how)
    )
    network = Predictor(tiny_model, engine="onnxruntime", threads=2)
    found = list(network.predict_many([photos[index % 2] for index in range(201)]))
    assert [result.path for result in found] == [str(photos[index % 2]) for index in range(201)]
    assert sorted(sizes) == [1] + 50 * [network.runner(network.batch).plan.micro_batch]


@pytest.mark.parametrize("fast_start", [False, True])
def test_a_photo_that_cannot_be_opened_among_others(fast_start, tiny_model, photos, monkeypatch):
    opened = Photo.open

    def refuse(photo):
        if photo.path == photos[1]:
            raise ImageError("it is gone")
        return opened(photo)

    monkeypatch.setattr(Photo, "open", refuse)
    found = list(Predictor(tiny_model, fast_start=fast_start).predict_many(photos[:3]))
    assert [result.error for result in found] == [None, "it is gone", None]
    assert [bool(result.predictions) for result in found] == [True, False, True]


def test_the_first_photo_is_decoded_while_the_engine_is_opened(tiny_model, photos, monkeypatch):
    network, threads = Predictor(tiny_model), []
    get = network._engines.get

    def noted(*what, **how):
        threads.append(threading.current_thread() is threading.main_thread())
        return get(*what, **how)

    monkeypatch.setattr(network._engines, "get", noted)
    for _ in range(2):
        network.predict(photos[0])
    assert threads == [False, True]


def test_photos_behind_one_that_could_not_be_opened(tiny_model, photos):
    network = Predictor(tiny_model)
    gone, there = network.predict_many([Photo("gone", error="it is gone"), Photo(str(photos[0]))])
    assert (gone.error, gone.predictions) == ("it is gone", []) and there.predictions


def test_predict_is_preprocess_run_postprocess(tiny_model, photos):
    network = Predictor(tiny_model, engine="onnxruntime")
    pixels = network.preprocess(photos[0], "first")
    (result,) = network.postprocess(["first"], network.run(pixels[None], (PROBABILITIES, EMBEDDING)), 3)
    wanted = network.predict(photos[0], top=3, embed=True)
    assert (result.path, result.predictions, result.unsure) == ("first", wanted.predictions, wanted.unsure)
    np.testing.assert_array_equal(result.embedding, wanted.embedding)
