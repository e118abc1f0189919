"""`resize` gives Pillow's pixels."""

import numpy as np
import pytest
from PIL import Image
from vertebra_kernels import INSTRUCTION_SETS, instruction_set, is_resizable, resize

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def extremes(height, width, seed=0):
    """Noise of black and white, whose weighted sums leave 0 to 255 and are clipped."""
    return np.random.default_rng(seed).integers(0, 2, (height, width, 3), np.uint8) * 255


def by_pillow(image, size, interpolation, box):
    picture = Image.fromarray(image).resize(size[::-1], FILTERS[interpolation])
    return np.asarray(picture.crop(box))


def random_cases(count):
    random = np.random.default_rng(7)
    for _ in range(count):
        height, width, out_height, out_width = (int(2 ** random.uniform(0, 8.5)) for _ in range(4))
        left, top = int(random.integers(out_width)), int(random.integers(out_height))
        if not is_resizable((height, width), (out_height, out_width)):
            continue
        right = int(random.integers(left + 1, out_width + 1))
        bottom = int(random.integers(top + 1, out_height + 1))
        yield height, width, (out_height, out_width), (left, top, right, bottom)


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("instructions", INSTRUCTION_SETS[INSTRUCTION_SETS.index(instruction_set()) :])
def test_random_sizes_and_crops(interpolation, instructions):
    for seed, (height, width, size, box) in enumerate(random_cases(200)):
        image = extremes(height, width, seed)
        if seed % 2:
            image = np.random.default_rng(seed).integers(0, 256, image.shape, np.uint8)
        right, case = by_pillow(image, size, interpolation, box), f"{height} x {width} {size}"
        np.testing.assert_array_equal(resize(image, size, interpolation, box, instructions), right, case)
        fourth = np.random.default_rng(seed).integers(0, 256, (height, width, 1), np.uint8)
        padded = np.concatenate([image, fourth], axis=2)
        np.testing.assert_array_equal(resize(padded, size, interpolation, box, instructions), right, case)


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (1, 1, (1, 1)),
        (1, 1, (256, 300)),
        (1, 900, (2, 1800)),
        (900, 1, (1800, 3)),
        (17, 1201, (17, 5)),
        (224, 224, (224, 224)),
        (40, 3000, (4, 256)),
        (3000, 2000, (300, 200)),
        (256, 257, (255, 256)),
    ],
)
def test_narrow_equal_and_much_smaller(interpolation, height, width, size):
    image = extremes(height, width)
    box = (0, 0, size[1], size[0])
    np.testing.assert_array_equal(resize(image, size, interpolation, box), by_pillow(image, size, interpolation, box))


def test_rows_that_do_not_follow_each_other():
    image = extremes(60, 90)[::2, ::3]
    box = (1, 2, 20, 21)
    np.testing.assert_array_equal(
        resize(image, (22, 24), "bicubic", box), by_pillow(np.ascontiguousarray(image), (22, 24), "bicubic", box)
    )


def test_what_pillow_may_resize_along_columns_first():
    assert not is_resizable((600, 200), (256, 85))
    assert is_resizable((200, 600), (256, 768))
    with pytest.raises(ValueError, match="600 x 200 pixels to 256 x 85"):
        resize(extremes(600, 200), (256, 85), "bicubic", (0, 0, 85, 256))


@pytest.mark.parametrize(
    ("image", "size", "interpolation", "box", "reason"),
    [
        (np.zeros((4, 4), np.uint8), (2, 2), "bicubic", (0, 0, 2, 2), "uint8 (4, 4)"),
        (np.zeros((4, 4, 2), np.uint8), (2, 2), "bicubic", (0, 0, 2, 2), "uint8 (4, 4, 2)"),
        (np.zeros((4, 4, 5), np.uint8), (2, 2), "bicubic", (0, 0, 2, 2), "uint8 (4, 4, 5)"),
        (np.zeros((4, 4, 3), np.float32), (2, 2), "bicubic", (0, 0, 2, 2), "float32 (4, 4, 3)"),
        (np.zeros((4, 4, 3), np.uint8), (2, 2), "nearest", (0, 0, 2, 2), "'nearest'"),
        (np.zeros((4, 4, 3), np.uint8), (2, 2), "bicubic", (0, 0, 3, 2), "not within 2 x 2"),
        (np.zeros((4, 4, 3), np.uint8), (2, 2), "bicubic", (1, 0, 1, 2), "not within 2 x 2"),
        (np.zeros((4, 4, 3), np.uint8), (2, 2), "bicubic", (-1, 0, 1, 2), "not within 2 x 2"),
        (np.zeros((0, 4, 3), np.uint8), (2, 2), "bicubic", (0, 0, 2, 2), "outside its limits"),
        (np.zeros((4, 4, 3), np.uint8), (8, 1 << 30), "bicubic", (0, 0, 2, 2), "outside its limits"),
    ],
)
def test_what_is_refused(image, size, interpolation, box, reason):
    with pytest.raises(ValueError) as error:
        resize(image, size, interpolation, box)
    assert reason in str(error.value)
