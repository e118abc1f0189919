"""Features that are kept: of which photo, network, pixels and engine they are, and what becomes of damaged ones."""

import random
import shutil

import numpy as np
import pytest
from PIL import Image

from vertebra import cache
from vertebra.card import Preprocessing, read_card
from vertebra.data import open_dataset
from vertebra.errors import VertebraWarning
from vertebra.runtime.engine import Plan, engine_version
from vertebra.train import dataset_features as features_module
from vertebra.train.dataset_features import compute_features, open_feature_store

PREPROCESSING = Preprocessing(32, 40, "bicubic")


_THE_CACHE = []  # of the session, which `run` fills


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    _THE_CACHE[:] = [cache.cache_dir()]
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_warned", set())


@pytest.fixture
def dataset(tmp_path):
    chance = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(6):
            pixels = chance.integers(0, 256, (48, 48, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{number}.png")
    return open_dataset(tmp_path / "photos")


def the_index():
    (path,) = (cache.cache_dir() / "features").glob("*/*.index")
    return path


def test_damaged_rows_are_computed_again(dataset, tiny_model):
    first = compute_features(dataset, tiny_model, PREPROCESSING)
    assert (first.computed, compute_features(dataset, tiny_model, PREPROCESSING).computed) == (12, 0)
    values = the_index().with_suffix(".f16")
    content = bytearray(values.read_bytes())
    for row, place in ((2, 0), (5, 3), (7, -1)):
        content[(row + (place < 0)) * len(content) // 12 + place] ^= 1
    values.write_bytes(content)
    with pytest.warns(VertebraWarning, match=r"[0-9a-f]{24} is damaged\. What it held is made again") as told:
        again = compute_features(dataset, tiny_model, PREPROCESSING)
    assert again.computed == 3 and len(told) == 1
    assert again.infos == first.infos
    # Not the same batches, so rounding may differ.
    assert np.allclose(again.features, first.features, rtol=1e-5, atol=1e-6)
    assert compute_features(dataset, tiny_model, PREPROCESSING).computed == 0


def test_a_file_of_another_network_in_its_place(dataset, tiny_model, write_model, tmp_path):
    expected = compute_features(dataset, tiny_model, PREPROCESSING).features
    contents = {suffix: the_index().with_suffix(suffix).read_bytes() for suffix in (".index", ".f16")}
    shutil.rmtree(the_index().parent)
    other = write_model(tmp_path / "other.onnx", seed=1)
    compute_features(dataset, other, PREPROCESSING)
    own = the_index()
    for suffix, content in contents.items():
        own.with_suffix(suffix).write_bytes(content)
    with pytest.warns(VertebraWarning, match="is damaged"):
        found = compute_features(dataset, other, PREPROCESSING)
    assert found.computed == 12
    assert not np.allclose(found.features, expected, rtol=0.1)


def test_what_features_are_kept_by(tiny_model, write_model, tmp_path, monkeypatch):
    values = np.ones(8, np.float32)

    def known(body=tiny_model, preprocessing=PREPROCESSING, plan=Plan()):  # noqa: B008 - frozen
        store = open_feature_store(body, preprocessing, plan)
        found = store.get("ab" * 32) is not None
        store.put("ab" * 32, values)
        store.close()
        return found

    assert [known(), known()] == [False, True]
    assert known(plan=Plan(lanes=2, threads=3, micro_batch=4))  # which are equal to the last bit
    assert not known(preprocessing=Preprocessing(32, 48, "bicubic"))
    # Another network that calls itself the same, or the same one damaged.
    other = write_model(tmp_path / "other.onnx", seed=1)
    assert read_card(other) == read_card(tiny_model)
    assert not known(body=other)
    monkeypatch.setattr(features_module, "decoder_versions", lambda: "Pillow 99")
    assert not known()
    monkeypatch.undo()
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(features_module, "FIT_VERSION", 99)
    assert not known()
    monkeypatch.setattr(features_module, "engine_version", lambda plan: "another engine")
    assert not known()


def test_engines_have_separate_caches():
    assert engine_version(Plan()).startswith("onnxruntime ")
    assert engine_version(Plan()) != engine_version(Plan(fast_start=True))
    assert engine_version(Plan()) == engine_version(Plan(lanes=2, threads=2))


def test_a_run_with_a_damaged_cache_gives_the_same_classifier(run, shapes, small_weights, tmp_path, monkeypatch):
    """Every file of the cache damaged at random: the network, the features, what is known of the photos, the notes."""
    load_file = pytest.importorskip("safetensors.numpy").load_file
    import vertebra

    shutil.copytree(_THE_CACHE[0], tmp_path / "cache")
    files = sorted(path for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert {path.suffix for path in files} >= {".onnx", ".sqlite", ".json", ".index", ".f16"}
    for number, path in enumerate(files):
        chance, content = random.Random(number), bytearray(path.read_bytes())
        for _ in range(300):
            content[chance.randrange(len(content))] = chance.randrange(256)
        path.write_bytes(content)
    with pytest.warns(VertebraWarning, match="is damaged") as told:
        again = vertebra.train(
            shapes, tmp_path / "run", model="resnet18", weights=str(small_weights), folds=3, precision=0.9
        )
    said = [str(entry.message) for entry in told if "is damaged" in str(entry.message)]
    assert len(said) == len(set(said))
    expected, found = (load_file(one.run / "weights.safetensors") for one in (run, again))
    assert all(np.array_equal(expected[name], value) for name, value in found.items())
    assert again.metrics["top1"] == run.metrics["top1"]
