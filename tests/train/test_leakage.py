"""Duplicates, mirrored ones too, are held out together; leaks between the data set's own splits are noted."""

import csv

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

import vertebra


def noise(seed):
    """A picture with edges that says nothing of its label."""
    random = np.random.default_rng(seed)
    levels = np.zeros((90, 120, 3))
    for cells in (3, 8, 24):
        coarse = Image.fromarray(random.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        levels += np.asarray(coarse.resize((120, 90)), float) / cells**0.7
    return Image.fromarray((levels * 220 / levels.max()).astype(np.uint8))


@pytest.fixture
def mirrored(tmp_path):
    """60 photos with random labels of two classes, and a mirrored and a cropped copy of each."""
    labels = np.random.default_rng(0).permutation(["heads", "tails"] * 30)
    for label in ("heads", "tails"):
        (tmp_path / "coins" / label).mkdir(parents=True)
    for number, label in enumerate(labels):
        image = noise(number)
        image.save(tmp_path / "coins" / label / f"{number:02}.png")
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "coins" / label / f"{number:02} mirror.png")
        image.crop((15, 11, 120, 90)).save(tmp_path / "coins" / label / f"{number:02} part.png")
    return tmp_path / "coins"


def test_mirrored_copies_give_nothing_away(mirrored, small_weights, tmp_path):
    found = vertebra.train(mirrored, tmp_path / "run", model="resnet18", weights=str(small_weights), folds=3)
    assert found.metrics["n"] == 180
    assert found.metrics["top1"] < 0.68  # by chance 0.5; with the copies in the other folds 0.9
    assert "mirrored" in found.report.read_text(encoding="utf-8")


@pytest.mark.slow
def test_copies_stay_together_in_every_split(mirrored, small_weights, tmp_path):
    vertebra.train(
        mirrored, tmp_path / "run", model="resnet18", method="scratch", epochs=1, lr=0.01, image_size=32, batch_size=32
    )
    with (tmp_path / "run" / "data.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    splits = {}
    for row in rows:
        splits.setdefault(row["path"].rsplit("/", 1)[1][:2], set()).add(row["split"])
    assert len(splits) == 60
    assert all(len(own) == 1 for own in splits.values())
    assert {next(iter(own)) for own in splits.values()} == {"train", "val", "test"}
    assert "Same picture, different splits" not in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_leaks_between_the_data_sets_own_splits_are_noted(small_weights, tmp_path):
    for split, count in (("train", 12), ("test", 4)):
        for label in ("heads", "tails"):
            folder = tmp_path / "coins" / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                noise(sum(map(ord, split + label)) * 100 + number).save(folder / f"{number}.png")
    image = noise(1)
    image.save(tmp_path / "coins" / "train" / "heads" / "twin.png")
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "coins" / "test" / "heads" / "turned.png")
    found = vertebra.train(tmp_path / "coins", tmp_path / "run", model="resnet18", weights=str(small_weights), folds=3)
    (note,) = [note for note in found.metrics["notes"] if "same picture" in note]
    assert note.startswith(
        "1 of these 9 photos shows the same picture as a photo that was not held out, by the data set's own splits, "
        "such as test/heads/turned.png and train/heads/twin.png. So accuracy looks better than it is. Without them "
        "top-1 is "
    )
    assert note.endswith(" % of 8.")
    assert "Same picture, different splits: 1" in found.report.read_text(encoding="utf-8")
