"""A tiny network, small photos, and a run on them. Here `resnet18` and all other names build tiny networks."""

import shutil

import numpy as np
import pytest
from PIL import Image

CLASSES = {"circle": 14, "cross": 16, "stripes": 12}


def draw(label, seed, size=48):
    """A shape of random colour and place; any network can tell the three apart."""
    random = np.random.default_rng([seed, *map(ord, label)])
    y, x = np.mgrid[:size, :size] - size / 2 - random.integers(-4, 5, (2, 1, 1))
    shape = {
        "circle": np.hypot(x, y) < random.integers(10, 18),
        "cross": (abs(x) < 5) | (abs(y) < 5),
        "stripes": (x // random.integers(3, 6)) % 2 == 0,
    }[label]
    colours = random.integers(150, 256, 3), random.integers(0, 100, 3)
    noise = random.normal(0, 12, (size, size, 3))
    return Image.fromarray(np.clip(np.where(shape[..., None], *colours) + noise, 0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def draw_shape():
    """`draw`, for tests that make a folder of their own."""
    return draw


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    """Three classes of easy pictures, one of them broken and one mislabelled."""
    root = tmp_path_factory.mktemp("shapes")
    for label, count in CLASSES.items():
        (root / label).mkdir()
        for number in range(count):
            draw(label, number).save(root / label / f"{number:02}.png")
    draw("circle", 99).save(root / "stripes" / "wrong.png")
    (root / "cross" / "broken.png").write_bytes(b"")
    return root


@pytest.fixture(scope="session")
def shapes_without_broken(shapes, tmp_path_factory):
    """The same, of sound files alone."""
    root = tmp_path_factory.mktemp("sound") / "shapes"
    shutil.copytree(shapes, root)
    (root / "cross" / "broken.png").unlink()
    return root


@pytest.fixture(scope="module", autouse=True)
def _tiny_names(tiny_module):
    """For all tests of this folder."""


@pytest.fixture(scope="session")
def small_weights(tiny_network, tmp_path_factory):
    """Drawn weights of a tiny ResNet-18, as a file."""
    import torch

    path = tmp_path_factory.mktemp("weights") / "drawn.pth"
    torch.save(tiny_network("resnet", num_classes=1000).state_dict(), path)
    return path


@pytest.fixture(scope="session")
def run(shapes, small_weights, tiny_names, tmp_path_factory):
    """A finished run of the probe; not to be changed."""
    import vertebra

    folder = tmp_path_factory.mktemp("run")
    with tiny_names():
        return vertebra.train(shapes, folder, model="resnet18", weights=str(small_weights), folds=3, precision=0.9)


@pytest.fixture
def photo_files(tmp_path):
    """Nine pictures of noise, 60 × 50 pixels."""
    random = np.random.default_rng(0)
    paths = []
    for number in range(9):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(random.integers(0, 256, (50, 60, 3), np.uint8)).save(paths[-1])
    return paths


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Forty pictures of noise, 8 pixels wide and high, of three brightnesses in turn."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    paths = [folder / f"{number:02}.png" for number in range(40)]
    for number, path in enumerate(paths):
        dark = 80 * (number % 3)
        Image.fromarray(random.integers(dark, dark + 90, (8, 8, 3), np.uint8)).save(path)
    return paths
