"""Small data sets, made in a moment."""

import numpy as np
import pytest
from PIL import Image


def picture(seed, size=(48, 40)):
    """Coarse coloured noise: no two seeds look alike."""
    values = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(values).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="session")
def draw():
    return picture


@pytest.fixture
def folder(tmp_path):
    """Make class folders with so many photos: `folder(cat=3, dog=2)`; each photo differs."""

    def make(root=tmp_path / "photos", **classes):
        seed = 0
        for label, count in classes.items():
            (root / label).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                seed += 1
                picture(sum(map(ord, label)) * 1000 + seed).save(root / label / f"{number}.png")
        return root

    return make
