"""Reports of made-up predictions, and a browser without a network."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from vertebra.data import Photo


@pytest.fixture(scope="session")
def photograph():
    """Write a photo of coarse coloured noise: `photograph(path, seed, size)`."""

    def write(path, seed=0, size=(8, 8)):
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(values).resize(size, Image.Resampling.BICUBIC).save(path)
        return path

    return write


@pytest.fixture(scope="session")
def predictions(photograph):
    """Held-out predictions of photos in class folders: `predictions(root, ["cat", "dog"], 6)`; some are wrong."""
    pytest.importorskip("torch")
    from vertebra.train.evaluation import Calibration, evaluate_predictions

    def make(root, names, of_each=6, size=(8, 8), precision=0.9):
        random = np.random.default_rng(len(names))
        labels = np.repeat(np.arange(len(names)), of_each)
        photos = [
            Photo(photograph(root / str(label) / f"{number}.png", number, size), names[label])
            for number, label in enumerate(labels.tolist())
        ]
        logits = random.normal(0, 1, (len(labels), len(names)))
        logits[np.arange(len(labels)), labels] += 6
        wrong = np.nonzero(np.arange(len(labels)) % of_each < np.minimum(1 + labels % 3, of_each - 1))[0]
        logits[wrong, (labels[wrong] + 1) % len(names)] += random.uniform(8, 14, len(wrong))
        calibration = Calibration.fit(logits, labels, precision)
        return evaluate_predictions("made up", photos, labels, logits, calibration, names)

    return make


@pytest.fixture(scope="session")
def report(predictions):
    """Write a report: `report(folder, names, …)` → its path and what it is of; `more` are fields of `Report`."""
    from vertebra.card import Decoding
    from vertebra.train.report_page import Report

    def write(folder, names, of_each=6, size=(8, 8), **more):
        held = predictions(folder / "photos", names, of_each, size)
        page = folder / "run" / "report.html"
        page.parent.mkdir()
        made = Report("a network on photos", "Training report", "Made up.", held, Decoding(),
                      threshold=held.rejections[-1].threshold, temperature=1.2, **more)  # fmt: skip
        page.write_text(made.html(page.parent), encoding="utf-8")
        return SimpleNamespace(held=held, as_uri=page.as_uri, path=page)

    return write


@pytest.fixture
def visit(offline_page):
    """`visit(path, …)`: a page that is open and has asked for itself alone; what it asks for is in `page.asked`."""

    def open_page(path, **options):
        page = offline_page(path, **options)
        assert page.asked == [path.as_uri()]
        return page

    return open_page


@pytest.fixture
def sound():
    """`sound(page)`: axe finds nothing, light and dark, and it does not scroll sideways."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()

    def check(page):
        for theme in ("light", "dark"):
            page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
            options = {"resultTypes": ["violations"]} | ({"runOnly": ["color-contrast"]} if theme == "dark" else {})
            # The policy forbids scripts from elsewhere within the page; axe comes from the test.
            found = axe.run(page, options=options).response["violations"]
            assert [(each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found] == []
        assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]

    return check
