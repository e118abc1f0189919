"""Training on shards, Parquet with bytes and S3: the same classifier as on the same photos in folders."""

import shutil

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("pyarrow")
from packed_photos import pack_parquet, pack_shards, photos_of
from safetensors.numpy import load_file

import vertebra
from vertebra.train.evaluate_model import evaluate


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


@pytest.mark.parametrize("kind", ["shards", "parquet"])
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
