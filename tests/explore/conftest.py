"""Pages of `vertebra explore` for tests that open one in a browser.

- `noise(height, width)`: a PNG file of random pixels, in bytes.
- `tiny_with_values(family, …)`: a tiny network of a family whose maps are of the order of 1.
- `show(document, …)`: a document as a page that is open; a page may complain about nothing (`is_wrong`) until the
  tests of its module end.
"""

import io

import numpy as np
import pytest
import tiny
from PIL import Image


@pytest.fixture(scope="session")
def noise():
    def make(height, width):
        file = io.BytesIO()
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()

    return make


@pytest.fixture(scope="session")
def tiny_with_values():
    import torch

    def build(family="mobilenetv2", num_classes=5):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = tiny.TINY_BUILDERS[family](num_classes=num_classes).eval()
            for module in network.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    torch.nn.init.normal_(module.bias)
        return network

    return build


@pytest.fixture(scope="module")
def show(browser, tmp_path_factory):
    from vertebra.explore.page import render_page

    pages, wrong = [], []

    def open_document(document, address="", width=1400, height=1000, is_wrong=lambda message: True):
        path = tmp_path_factory.mktemp("page") / "page.html"
        path.write_text(render_page(document), encoding="utf-8")
        page = browser.new_page(viewport={"width": width, "height": height})
        pages.append(page)
        page.on("console", lambda message: wrong.append(message.text) if is_wrong(message) else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(path.as_uri() + address)
        return page

    yield open_document
    for page in pages:
        page.close()
    assert wrong == []
