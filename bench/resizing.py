"""Resize and crop an RGB photo: vertebra-kernels beside Pillow, with the same pixels.

Both start from Pillow's image, as decoding gives one, and end with an array; the copy of the image's pixels for
vertebra-kernels is part of the time.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import sys
from typing import Any

import _common
import numpy as np
from PIL import Image

# Height and width of photos: the first is the median of Caltech-101, the second of ImageNet.
SIZES = ((200, 300), (375, 500), (1500, 2000))
RESIZE, CROP = 256, 224
PHOTOS = 8  # in each measurement
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
PACKAGES = ("vertebra-kernels", "pillow")


def by_kernels(pictures: list[Image.Image], size: tuple[int, int], name: str, box: tuple[int, int, int, int]) -> Any:
    from vertebra_kernels import resize

    return [resize(np.asarray(picture), size, name, box) for picture in pictures]


def by_pillow(pictures: list[Image.Image], size: tuple[int, int], name: str, box: tuple[int, int, int, int]) -> Any:
    return [np.asarray(picture.resize(size[::-1], FILTERS[name]).crop(box)) for picture in pictures]


def measure(n: int) -> dict[str, Any]:
    if importlib.util.find_spec("vertebra_kernels") is None:
        sys.exit("vertebra-kernels is not installed. Run: pip install ./kernels")
    from vertebra.preprocessing import Preprocessing, center_crop_box

    rows = {}
    for height, width in SIZES:
        random = np.random.default_rng(0)
        images = [random.integers(0, 256, (height, width, 3), np.uint8) for _ in range(PHOTOS)]
        pictures = [Image.fromarray(image) for image in images]
        size = Preprocessing(CROP, RESIZE).resized(height, width)
        box = center_crop_box(*size, CROP)
        for name in FILTERS:
            calls = {
                "vertebra-kernels": functools.partial(by_kernels, pictures, size, name, box),
                "pillow": functools.partial(by_pillow, pictures, size, name, box),
            }
            if not np.array_equal(calls["vertebra-kernels"](), calls["pillow"]()):
                sys.exit(f"other pixels than Pillow's: {height} x {width}, {name}")
            found = _common.alternate(calls, n, warm=3)
            rows[f"{width} × {height}, {name}"] = {k: _common.summary(v, 1000 / PHOTOS, 3) for k, v in found.items()}
    return {"unit": "ms", "resize": RESIZE, "crop": CROP, "rows": rows}


def render(document: dict[str, Any]) -> str:
    rows = []
    for label, found in document["rows"].items():
        ours, pillow = found["vertebra-kernels"]["median"], found["pillow"]["median"]
        rows.append([label, f"**{ours:.2f}**", f"{pillow:.2f}", f"{pillow / ours:.1f}×"])
    n = next(iter(document["rows"].values()))["pillow"]["n"]
    heads = ["photo, filter", "vertebra-kernels", "Pillow", "faster"]
    text = (
        f"ms a photo, median of {n}, in one thread: the shorter side to "
        f"{document['resize']}, then {document['crop']} × {document['crop']} from the middle. The pixels are equal."
    )
    return f"{_common.table(heads, rows)}\n\n{text} {_common.footnote(document)}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Resize and crop a photo: vertebra-kernels beside Pillow")
    parser.add_argument("-n", type=int, default=50, help="runs of each (default 50)")
    parser.add_argument("--table", action="store_true", help="only make the table in the docs again from the JSON")
    options = parser.parse_args()
    if not options.table:
        _common.write("resizing", PACKAGES, measure(options.n))
    text = render(_common.read("resizing"))
    _common.publish("resizing", text)
    print(text)


if __name__ == "__main__":
    main()
