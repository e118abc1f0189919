"""Training on shards, Parquet with bytes and S3: the same classifier as on the same photos in folders."""

import shutil
import signal

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("pyarrow")
from packed_photos import pack_parquet, pack_shards, photos_of
from safetensors.numpy import load_file

import vertebra
from vertebra.cache import cache_dir
from vertebra.errors import UsageError
from vertebra.sources.shard_reader import forget_shards
from vertebra.train import Settings, TrainError, resume
from vertebra.train.batch_loader import batches_of_epoch
from vertebra.train.evaluate_model import evaluate
from vertebra.train.run_folder import Stopped


@pytest.fixture(scope="module")
def packed(shapes_without_broken, tmp_path_factory):
    """The same photos as shards, as Hugging Face's Parquet and as class folders."""
    root = tmp_path_factory.mktemp("packed")
    pack_shards(shapes_without_broken, root / "shards", 9)
    entries = [(path.name, path.read_bytes(), label) for path, label in photos_of(shapes_without_broken)]
    names = sorted({label for _, _, label in entries})
    for number, start in enumerate(range(0, len(entries), 15)):
        pack_parquet(root / "parquet" / f"part-{number}.parquet", entries[start : start + 15], names)
    shutil.copytree(shapes_without_broken, root / "folders")
    return root


def probe(data, out, small_weights, **options):
    return vertebra.train(data, out, model="resnet18", weights=str(small_weights), folds=3, **options)


def weights_of(run):
    return load_file(run / "weights.safetensors")


def check_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert np.array_equal(found[name], value), name


@pytest.mark.parametrize("kind", ["shards", pytest.param("parquet", marks=pytest.mark.slow)])
def test_a_probe_of_packed_photos_is_that_of_the_files(kind, packed, small_weights, tmp_path):
    expected = probe(packed / "folders", tmp_path / "files", small_weights)
    found = probe(packed / kind, tmp_path / "packed", small_weights)
    assert found.metrics["top1"] == expected.metrics["top1"]
    check_same(weights_of(found.run), weights_of(expected.run))
    measured = evaluate(found.run, packed / kind)
    assert measured.trained_on == measured.held.metrics.n
    # The table of a run is a data set, and its report has the photos.
    again = evaluate(found.run, found.run / "data.csv")
    assert again.held.metrics.top1 == measured.held.metrics.top1
    assert "::" in (found.run / "report.html").read_text()


@pytest.mark.slow
def test_a_probe_of_s3_is_that_of_the_files(packed, small_weights, tmp_path, s3):
    expected = probe(packed / "folders", tmp_path / "files", small_weights)
    address = s3.upload(packed / "folders", "photos")
    found = probe(address, tmp_path / "folders", small_weights)
    check_same(weights_of(found.run), weights_of(expected.run))
    lines = ["path,label", *(f"{address}/{label}/{path.name},{label}" for path, label in photos_of(packed / "folders"))]
    table = tmp_path / "table.csv"
    table.write_text("\n".join(lines))
    check_same(weights_of(probe(table, tmp_path / "table", small_weights).run), weights_of(expected.run))
    shards = s3.upload(packed / "shards", "shards")
    found = probe(shards, tmp_path / "shards", small_weights)
    check_same(weights_of(found.run), weights_of(expected.run))
    assert evaluate(found.run, found.run / "data.csv").held.metrics.n == found.metrics["n"]


# --- training steps ---------------------------------------------------------------------------------------------------

OPTIONS = {"model": "resnet18", "method": "scratch", "image_size": 32, "batch_size": 6, "epochs": 2, "workers": 0}


def scratch(data, out, **options):
    return vertebra.train(data, out, **OPTIONS | options)


def stopped(data, out, **options):
    """A run that is stopped after some steps."""
    asked = []

    def stop_at(what, done, total):
        if what.startswith("training") and done >= 12 and not asked:
            asked.append(done)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Stopped, match=r"stopped after step"):
        scratch(data, out, progress=stop_at, **options)
    return out


@pytest.mark.parametrize("kind", ["shards", pytest.param("parquet", marks=pytest.mark.slow)])
def test_a_stopped_run_on_shards_ends_with_the_same_weights(kind, packed, tmp_path):
    whole = scratch(packed / kind, tmp_path / "whole", shuffle_shards=2)
    assert any("shards, and the photos of 2 of them at a time" in note for note in whole.metrics["notes"])
    again = resume(stopped(packed / kind, tmp_path / "stopped", shuffle_shards=2))
    check_same(weights_of(again.run), weights_of(whole.run))
    with pytest.raises(UsageError, match="shuffle_shards cannot change in the middle of a run"):
        resume(stopped(packed / kind, tmp_path / "other", shuffle_shards=2), shuffle_shards=3)


@pytest.mark.parametrize("pattern", ["shards/{000..002}.tar", "shards/*.tar"])
def test_a_relative_pattern_is_that_of_the_folder_where_the_run_began(pattern, packed, tmp_path, monkeypatch):
    """Also where it was stopped before the photos were found, and that folder's name has a pattern's characters."""
    begun, other = tmp_path / "a [b]*", tmp_path / "other"
    shutil.copytree(packed / "shards", begun / "shards")
    shutil.copytree(packed / "shards", other / "shards")
    (other / "shards" / "001.tar").write_bytes(b"of another data set")
    monkeypatch.chdir(begun)

    def stop(what, done, total):
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(Stopped):
        scratch(pattern, tmp_path / "run", epochs=1, progress=stop)
    monkeypatch.chdir(other)
    found = resume(tmp_path / "run")
    assert found.metrics["n"] > 0
    assert str(begun / "shards" / "001.tar") in (tmp_path / "run" / "data.csv").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["shards", "folders"])
def test_workers_read_s3_and_a_stopped_run_goes_on(kind, packed, tmp_path, s3):
    """The weights are those of the same photos on this machine, with forked workers and copies made ahead."""
    options = {"shuffle_shards": 2} if kind == "shards" else {}
    expected = scratch(packed / kind, tmp_path / "local", **options)
    place = s3.upload(packed / kind, kind)
    check_same(weights_of(scratch(place, tmp_path / "whole", workers=2, **options).run), weights_of(expected.run))
    again = resume(stopped(place, tmp_path / "stopped", workers=2, **options))
    check_same(weights_of(again.run), weights_of(expected.run))


@pytest.mark.slow
def test_few_shards_are_shuffled_as_files_are(packed, tmp_path):
    """All are open at once, so the order is that of files, and so are the weights."""
    expected = scratch(packed / "folders", tmp_path / "files", epochs=1)
    check_same(weights_of(scratch(packed / "shards", tmp_path / "shards", epochs=1).run), weights_of(expected.run))


@pytest.mark.slow
@pytest.mark.parametrize("remote", [False, True])
def test_a_shard_that_has_changed_is_refused_by_name(remote, packed, tmp_path, request):
    data = shutil.copytree(packed / "shards", tmp_path / "shards")
    s3 = request.getfixturevalue("s3") if remote else None
    place = s3.upload(data, "shards") if remote else str(data)
    run = stopped(place, tmp_path / "run")
    before = (data / "001.tar").read_bytes()
    changed = bytearray(before)
    offset = changed.index(b"\x89PNG") + 60
    changed[offset] ^= 255

    def put(content):
        (data / "001.tar").write_bytes(content)
        if s3 is not None:
            s3.upload(data, "shards")

    put(changed)
    with pytest.raises(TrainError, match=rf"a photo has been changed \({place}/001\.tar::\S+\) since the run started"):
        resume(run)
    put(before)  # with another time
    assert resume(run).metrics["n"] > 0


@pytest.mark.slow
def test_a_shard_that_is_away_ends_the_run_and_it_goes_on_when_it_is_back(packed, tmp_path, s3, monkeypatch):
    place = s3.upload(packed / "shards", "shards")
    run = stopped(place, tmp_path / "run")
    content = s3.get("shards/002.tar")
    s3.client.delete_object(Bucket=s3.name, Key="shards/002.tar")
    shutil.rmtree(cache_dir() / "remote")
    forget_shards()
    with pytest.raises(TrainError, match=rf"{place}/002\.tar.* no such file.* What was trained until step .* --resume"):
        resume(run)
    s3.put("shards/002.tar", content)
    assert resume(run).metrics["n"] > 0


@pytest.mark.slow
def test_shards_that_do_not_fit_into_the_cache_together(packed, tmp_path, monkeypatch):
    size = max(path.stat().st_size for path in (packed / "parquet").iterdir())
    monkeypatch.setenv("VERTEBRA_REMOTE_CACHE_GB", f"{1.5 * size / 1e9:.9f}")
    with pytest.raises(UsageError, match=r"shards that are shuffled together have .* --set shuffle_shards=1"):
        scratch(packed / "parquet", tmp_path / "run")
    assert scratch(packed / "parquet", tmp_path / "one", shuffle_shards=1, epochs=1).metrics["n"] > 0
    assert scratch(packed / "shards", tmp_path / "local", epochs=1).metrics["n"] > 0  # which are not copied


# --- the order --------------------------------------------------------------------------------------------------------


def order(shards, epoch=0, **options):
    settings = Settings.from_mapping({"data": "x", "method": "scratch", "batch_size": 7, **options}, "test")
    return np.concatenate(batches_of_epoch(np.arange(len(shards)) % 3, settings, epoch, shards))


def test_each_photo_once_and_few_shards_at_a_time():
    shards = np.repeat(np.arange(20), 30)
    found = order(shards, shuffle_shards=4)
    assert sorted(found.tolist()) == list(range(600))
    windows = [set(shards[found[start : start + 120]].tolist()) for start in range(0, 600, 120)]
    assert [len(window) for window in windows] == [4] * 5
    # Mixed within: a step of seven photos has more than one shard.
    assert np.mean([len(set(shards[found[start : start + 7]])) for start in range(0, 120, 7)]) > 2
    other = order(shards, 1, shuffle_shards=4)
    assert {frozenset(shards[other[start : start + 120]].tolist()) for start in range(0, 600, 120)} != set(
        map(frozenset, windows)
    )
    assert order(shards, shuffle_shards=4).tolist() == found.tolist()


def test_balanced_draws_are_those_without_shards():
    shards = np.repeat(np.arange(20), 30)
    options = {"balance": "sampler", "shuffle_shards": 4}
    found, expected = order(shards, **options), order(np.zeros(600, np.int64), **options)
    assert sorted(found.tolist()) == sorted(expected.tolist())
    assert len(set(shards[found[:100]].tolist())) <= 4
