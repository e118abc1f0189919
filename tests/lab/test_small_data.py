"""The digits: split by a seed, padded, resized and shifted."""

import sys
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")

from vertebra.errors import MissingExtraError, UsageError
from vertebra.lab.small_data import ImageSet, digits, padded, resized, shifted


def test_the_digits_are_scikit_learns_split_into_1347_and_450():
    from sklearn.datasets import load_digits

    found = digits()
    assert found.pixels.shape == (1797, 8, 8, 3)
    assert np.array_equal(np.rint(found.pixels[..., 1] * (16 / 255)), load_digits().images)
    images = found.split(3)
    assert (len(images.train), len(images.val), images.size) == (1347, 450, 8)
    assert np.all(np.abs(np.bincount(images.val_labels) - np.bincount(found.labels) / 4) <= 0.5)
    together = np.concatenate([images.train, images.val]).reshape(1797, -1)
    assert np.array_equal(np.sort(together, axis=0), np.sort(found.pixels.reshape(1797, -1), axis=0))


def test_the_seed_decides_the_split_and_the_few():
    found = digits()
    one, again, other = (found.split(seed) for seed in (0, 0, 1))
    assert np.array_equal(one.val, again.val)
    assert not np.array_equal(one.val, other.val)
    few = one.few(5)
    assert np.bincount(few.train_labels).tolist() == [5] * 10
    assert np.array_equal(few.train, again.few(5).train)
    assert np.array_equal(few.val, one.val)
    assert {image.tobytes() for image in few.train} <= {image.tobytes() for image in one.train}


def test_training_pixels_are_normalised_to_mean_0_and_deviation_1():
    from vertebra.train.loss import to_images

    images = digits().padded(12).split(0)
    values = to_images(pytest.importorskip("torch").from_numpy(images.train), images.preprocessing)
    assert values.mean().item() == pytest.approx(0, abs=1e-4)
    assert values.std().item() == pytest.approx(1, abs=1e-4)
    black = replace(images, train=np.zeros_like(images.train))
    assert np.isfinite(black.preprocessing.std).all()
    assert min(black.preprocessing.std) > 0


def test_duplicates_stay_on_one_side_and_a_given_split_stays():
    labels = np.arange(40) % 2
    pixels = np.arange(40, dtype=np.uint8).repeat(3).reshape(40, 1, 1, 3)
    pictures = np.arange(40)
    pictures[[0, 2, 4, 7]] = 0  # the last is of the other class
    found = ImageSet("four alike", ("a", "b"), pixels, labels, pictures, (None,) * 40)
    for seed in range(20):
        images = found.split(seed)
        val = set(images.val[:, 0, 0, 0].tolist())
        assert len(val & {0, 2, 4, 7}) in (0, 4)
        assert 2 <= (images.val_labels == 0).sum() <= 5
    given = replace(found, splits=("train",) * 30 + ("val",) * 10)
    assert given.split(0).val[:, 0, 0, 0].tolist() == list(range(30, 40))


def test_too_few_images_says_how_many_there_are_and_are_needed():
    with pytest.raises(
        UsageError, match=r"digits has 130 training images of class '8', and 200 of each class are need"
    ):
        digits().split(0).few(200)


def test_the_digest_changes_with_each_pixel_label_and_split():
    found = digits()
    other = found.pixels.copy()
    other[5, 2, 2, 0] += 1
    changed = (
        replace(found, pixels=other),
        replace(found, labels=found.labels[::-1]),
        found.padded(12),
        replace(found, splits=("val", *found.splits[1:])),
    )
    assert len({found.sha256, *(images.sha256 for images in changed)}) == 5
    assert digits().sha256 == found.sha256


def test_padded_resized_and_shifted():
    pixels = digits().pixels[:4]
    around = padded(pixels, 11)
    assert around.shape == (4, 11, 11, 3)
    assert np.array_equal(around[:, 1:9, 1:9], pixels)
    assert around.sum() == pixels.sum()
    assert resized(pixels, 16).shape == (4, 16, 16, 3)
    assert resized(pixels, 8) is pixels
    flat = np.full((1, 8, 8, 3), 77, np.uint8)
    assert np.all(resized(flat, 20) == 77)
    wide = padded(pixels, 12)
    for down, right in ((2, 0), (-2, 0), (0, 2), (0, -2)):
        moved = shifted(wide, down, right)
        assert moved.sum() == wide.sum()  # the margin was wide enough
        assert np.array_equal(moved, np.roll(wide, (down, right), (1, 2)))
    assert shifted(pixels, 3, -3)[:, :3].sum() == shifted(pixels, 3, -3)[:, :, -3:].sum() == 0
    with pytest.raises(UsageError, match="are larger"):
        padded(pixels, 7)
    with pytest.raises(UsageError, match="cannot be shifted by 8 and 0"):
        shifted(pixels, 8, 0)


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch):
    # On a machine without it, neither the module nor its specification can be found.
    for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    monkeypatch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if "editable" not in repr(finder)])
    with pytest.raises(MissingExtraError, match=r"the data set digits needs .*'vertebra\[train\]'"):
        digits()


def test_duplicates_alone_cannot_be_split():
    found = digits()
    with pytest.raises(UsageError, match="digits has no photos for validation: duplicates stay together"):
        replace(found, pictures=np.zeros_like(found.pictures)).split(0)
