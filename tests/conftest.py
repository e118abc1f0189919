"""What every test may rely on."""

import os
from pathlib import Path

import pytest

# Set before torch is imported: the suite runs in several processes, and each of them taking all cores is slower.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_photos() -> list[Path]:
    """100 photos of ImageNet, the n-th of class 10·n; skips where the folder is missing."""
    photos = sorted((SHARED / "imagenet-photos").glob("*.JPEG"))
    if not photos:
        pytest.skip(f"no photos in {SHARED / 'imagenet-photos'}")
    return photos
