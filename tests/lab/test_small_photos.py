"""A user's folder in place of the digits."""

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

from vertebra.data import DataError
from vertebra.errors import UsageError
from vertebra.lab.small_photos import digits_or_photos, photos


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Class folders with so many photos of coarse noise."""
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "cache"))

    def make(**classes):
        random = np.random.default_rng(0)
        for label, count in classes.items():
            (tmp_path / "photos" / label).mkdir(parents=True)
            for number in range(count):
                values = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
                Image.fromarray(values).resize((40, 36), 3).save(tmp_path / "photos" / label / f"{number}.png")
        return tmp_path / "photos"

    return make


def test_usable_photos_of_the_first_classes_with_enough(folder):
    root = folder(ant=6, bee=3, cow=7, dog=6)
    (root / "ant" / "broken.png").write_bytes(b"no picture")
    (root / "ant" / "6.png").write_bytes((root / "ant" / "0.png").read_bytes())
    found = photos(root, 16, classes=2, per_class=4)
    assert found.classes == ("ant", "cow")
    assert found.pixels.shape == (14, 16, 16, 3)
    assert np.bincount(found.labels).tolist() == [7, 7]
    assert len(np.unique(found.pictures)) == 13  # the copy is a duplicate
    images = found.split(0).few(4)
    assert np.bincount(images.train_labels).tolist() == [4, 4]
    assert np.array_equal(found.pixels, photos(root, 16, classes=2, per_class=4).pixels)
    assert np.bincount(photos(root, 8, max_per_class=5).labels)[1:].tolist() == [3, 5, 5]


def test_a_class_that_the_audit_leaves_too_few_is_replaced(folder):
    root = folder(ant=4, bee=4, cow=4)
    (root / "ant" / "0.png").write_bytes(b"no picture")
    assert photos(root, 8, classes=2, per_class=3).classes == ("bee", "cow")
    with pytest.raises(UsageError, match=r"has 2 classes with at least 4 usable photos, and 3 such classes are needed"):
        photos(root, 8, classes=3, per_class=3)


def test_a_folder_that_is_too_small_or_empty(folder, tmp_path):
    root = folder(ant=4, bee=4)
    with pytest.raises(UsageError, match=r"photos has 0 classes with at least 40 usable photos, and 20 such"):
        digits_or_photos(root, classes=20, per_class=30)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        photos(tmp_path / "empty")
    with pytest.raises(UsageError, match="there is no folder"):
        photos(tmp_path / "nothing")


def test_the_digits_where_no_folder_is_given():
    pytest.importorskip("sklearn")
    assert digits_or_photos(None).name == "digits"


def test_splits_of_the_folder_are_kept_and_test_photos_left_out(folder, tmp_path):
    root = tmp_path / "split"
    source = folder(ant=9, bee=9)
    for number, split in enumerate(("train", "val", "test")):
        for label in ("ant", "bee"):
            (root / split / label).mkdir(parents=True)
            for index in range(3 * number, 3 * number + 3):
                (source / label / f"{index}.png").rename(root / split / label / f"{index}.png")
    images = photos(root, 8).split(5)
    assert (len(images.train), len(images.val)) == (6, 6)
