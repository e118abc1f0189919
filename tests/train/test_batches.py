"""The order of the photos in batches."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")
import torch
from PIL import Image

from vertebra.card import Preprocessing
from vertebra.train import Settings
from vertebra.train.batch_loader import TrainPhotos, batches_of_epoch, stream

PREPROCESSING = Preprocessing(32, 36)


def settings(**values):
    return Settings.from_mapping({"data": "x", "method": "scratch", **values}, "test")


@pytest.fixture
def photo_files(tmp_path):
    random = np.random.default_rng(0)
    paths = []
    for number in range(9):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(random.integers(0, 256, (50, 60, 3), np.uint8)).save(paths[-1])
    return paths


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_goes_on_where_it_is_told_to(workers, photo_files):
    labels = np.arange(9)
    photos = TrainPhotos(photo_files, labels, settings(batch_size=4), PREPROCESSING)

    def take(start, count, part=(0, 1), workers=0):
        found = stream(photos, start=start, part=part, total=9, workers=workers)
        return [next(found) for _ in range(count)]

    whole = take(0, 7)
    assert [len(batch[1]) for batch in whole] == [3] * 7
    for (pixels, label), (others, other) in zip(whole[4:], take(4, 3, workers=workers), strict=True):
        assert torch.equal(pixels, others)
        assert torch.equal(label, other)
    halves = [take(0, 3, (rank, 2)) for rank in range(2)]
    for batch, one, two in zip(whole, *halves, strict=False):
        assert batch[1][0::2].tolist() == one[1].tolist()
        assert torch.equal(batch[0][1::2], two[0])
    photo_files[5].unlink()
    assert "5.png: no such file" in next(batch for batch in take(0, 3, workers=workers) if isinstance(batch, str))


def test_balanced_draws():
    labels = np.array([0] * 90 + [1] * 10)
    drawn = np.concatenate(batches_of_epoch(labels, settings(balance="sampler", batch_size=10), 0))
    assert len(drawn) == 100
    assert 30 <= (labels[drawn] == 1).sum() <= 70
