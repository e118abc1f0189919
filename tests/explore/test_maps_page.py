"""The page shows a part's feature maps, vectors and costs as torch computes them."""

import re

import numpy as np
import pytest
import torch
from page_waiting import wait_until

from vertebra.card import Preprocessing
from vertebra.explore.document import build_document
from vertebra.explore.observation import build_structure, observe
from vertebra.explore.options import Options
from vertebra.explore.photo import read_photo
from vertebra.explore.subject import Subject, network_input

SIZE = 64
BLOCK = "features.3"  # signed maps of several channels


class Shown:
    """A page that is open, with the network it is of."""

    def __init__(self, page, network, document, structure, x):
        self.page, self.network, self.document, self.structure, self.x = page, network, document, structure, x

    def select(self, part):
        self.page.evaluate("id => { location.hash = '#' + id }", part)
        self.page.wait_for_selector(f".inspector h2:has-text('{part.partition('/')[2]}')")

    def seen(self, part):
        return self.document["views"][0]["parts"][part]

    def value_and_contribution(self, module):
        """The module's output and gradient × value to the best logit, with plain hooks."""
        kept = []
        handle = self.network.get_submodule(module).register_forward_hook(lambda m, inputs, out: kept.append(out))
        logits = self.network(self.x.clone().requires_grad_())
        handle.remove()
        (gradient,) = torch.autograd.grad(logits.max(), kept[0])
        return kept[0].detach(), gradient * kept[0].detach()


@pytest.fixture(scope="module")
def shown(show, noise, tiny_with_values):
    network = tiny_with_values()
    subject = Subject("tiny", network, Preprocessing(SIZE), tuple("abcde"), "", True)
    structure = build_structure(subject)
    photo = read_photo(noise(90, 120), subject.preprocessing)
    document = build_document([observe(structure, photo)], Options())
    return Shown(show(document), network, document, structure, network_input(subject, photo.pixels))


def number(text):
    return float(text.replace("−", "-").replace("+", "").replace(",", ""))


# Points at every cell of the enlarged map and reads, from the tiles, the value of each channel there.
READ_CELLS = """async () => {
  const map = document.querySelector('.map-frame .map'), [w, h] = map.style.aspectRatio.split('/').map(Number)
  const tiles = [...document.querySelectorAll('.map-tile')], box = map.getBoundingClientRect(), read = []
  for (let y = 0; y < h; y++) for (let x = 0; x < w; x++) {
    const clientX = box.left + (x + 0.5) * box.width / w, clientY = box.top + (y + 0.5) * box.height / h
    map.dispatchEvent(new PointerEvent('pointermove', { clientX, clientY, bubbles: true, pointerType: 'mouse' }))
    await new Promise((done) => setTimeout(done))
    read.push(tiles.map((tile) => tile.querySelector('.map-value').textContent))
  }
  return { cells: read, channels: tiles.map((tile) => Number(tile.dataset.channel)) }
}"""


def test_values_and_contributions_of_all_cells(shown):
    shown.select(f"block/{BLOCK}")
    shown.page.wait_for_selector(".map-figures dd:has-text('%')")
    shown.page.set_viewport_size({"width": 390, "height": 1000})
    wait_until(shown.page, "document.querySelectorAll('.map-tile').length === 12")
    shown.page.get_by_role("button", name="Show all 16").click()
    assert shown.page.evaluate("document.activeElement.dataset.channel") == str(
        shown.seen(f"block/{BLOCK}")["maps"]["channels"][12]
    )
    read = shown.page.evaluate(READ_CELLS)
    shown.page.set_viewport_size({"width": 1400, "height": 1000})
    values, contributions = shown.value_and_contribution(BLOCK)
    low, high = values[0].amin((1, 2)), values[0].amax((1, 2))
    assert sorted(read["channels"]) == list(range(16))
    found = torch.tensor([[number(text) for text in cell] for cell in read["cells"]])  # (cells, channels)
    expected = values[0, read["channels"]].flatten(1).T
    error = ((high - low) / 255 / 2)[read["channels"]]
    assert found.shape == (64, 16)
    assert bool(((found - expected).abs() <= 1.1 * error).all())
    sums = contributions[0].sum((1, 2))
    assert read["channels"] == sums.argsort(descending=True).tolist()
    for place, channel in enumerate(read["channels"]):
        label = shown.page.locator(".map-tile").nth(place).get_attribute("aria-label")
        contribution, lowest, highest = map(number, re.findall(r"[+−]?\d[\d.]*(?:e−\d+)?", label)[1:])
        assert contribution == pytest.approx(float(sums[channel]), rel=0.006, abs=1e-6)
        assert (lowest, highest) == pytest.approx((float(low[channel]), float(high[channel])), rel=0.006)


def test_enlarged_channel(shown):
    """Its figures, and the value of a cell with its error, against torch; the colours of lowest and highest value."""
    shown.select(f"block/{BLOCK}")
    maps = shown.seen(f"block/{BLOCK}")["maps"]
    channel = next(
        number
        for number, low, high in zip(maps["channels"], maps["low"], maps["high"], strict=True)
        if number != maps["channels"][0] and low < 0 < high
    )
    shown.page.locator(f'.map-tile[data-channel="{channel}"]').click()
    assert shown.page.locator(".map-large h4").inner_text() == f"Channel {channel}"
    assert shown.page.url.endswith(f"#block/{BLOCK}:{channel}")
    own = shown.value_and_contribution(BLOCK)[0][0, channel]
    error = float(own.max() - own.min()) / 255 / 2
    figures = [number(text.rstrip(" %")) for text in shown.page.locator(".map-figures dd").all_inner_texts()[2:]]
    assert figures[0] == pytest.approx(float(own.mean()), abs=1.1 * error)
    shown.page.locator(".map-frame").focus()
    for key in ("ArrowUp", "ArrowLeft"):
        shown.page.keyboard.press(key)
    y, x, value, told = map(number, re.findall(r"−?\d[\d.]*", shown.page.locator(".map-readout").inner_text()))
    assert value == pytest.approx(float(own[int(y), int(x)]), abs=told)
    assert told == pytest.approx(error, rel=0.1)
    pixels, ends = shown.page.evaluate("""() => {
      const rgb = (canvas) => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data
      const ramp = [...rgb(document.querySelector('.map-legend canvas'))]
      return [[...rgb(document.querySelector('.map-frame canvas'))], [ramp.slice(0, 3), ramp.slice(-4, -1)]]
    }""")
    colours = np.array(pixels).reshape(*own.shape, 4)[..., :3]
    lowest, highest = (np.unravel_index(int(place), own.shape) for place in (own.argmin(), own.argmax()))
    assert [colours[lowest].tolist(), colours[highest].tolist()] == ends
    shown.page.keyboard.press("Escape")
    assert shown.page.evaluate("document.activeElement.dataset.channel") == str(channel)
    shown.page.keyboard.press("Escape")
    assert shown.page.url.endswith(f"#block/{BLOCK}")


def test_grid_is_one_tab_stop_with_arrow_keys(shown):
    shown.select(f"block/{BLOCK}")
    channels = shown.seen(f"block/{BLOCK}")["maps"]["channels"]
    tiles = shown.page.locator(".map-tile")
    assert tiles.evaluate_all("tiles => tiles.filter((tile) => tile.tabIndex === 0).length") == 1
    tiles.first.focus()
    columns = tiles.evaluate_all("tiles => tiles.filter((tile) => tile.offsetTop === tiles[0].offsetTop).length")
    for key, place in (("ArrowRight", 1), ("ArrowDown", 1 + columns), ("End", 15), ("ArrowRight", 15), ("Home", 0)):
        shown.page.keyboard.press(key)
        assert shown.page.evaluate("document.activeElement.dataset.channel") == str(channels[place])
        assert shown.page.locator(".map-large h4").inner_text() == f"Channel {channels[place]}"
    shown.page.keyboard.press("Enter")
    assert shown.page.evaluate("document.activeElement.className") == "map-frame"


def test_scales(shown):
    """Its own scale ends at the channel's extremes and zero; one for all at those of all channels."""
    shown.select(f"block/{BLOCK}")
    values = shown.value_and_contribution(BLOCK)[0][0]
    channels = shown.seen(f"block/{BLOCK}")["maps"]["channels"]
    legend = shown.page.locator(".map-legend")

    def ends():
        return [number(text) for text in re.findall(r"−?\d[\d.]*", legend.get_attribute("aria-label"))]

    own = values[channels[0]]
    assert ends() == pytest.approx([min(0, float(own.min())), max(0, float(own.max()))], abs=0.006)
    shown.page.get_by_role("button", name="One scale for all").click()
    assert ends() == pytest.approx([float(values.min()), float(values.max())], abs=0.006)
    shown.page.get_by_role("button", name="Each channel’s own scale").click()
    shown.select("stage/stem")  # ReLU6: nothing is negative, so the scale begins at zero
    assert ends()[0] == 0


def test_costs_and_formula(shown):
    """Costs of each layer as `inspect` has them; the MACs of convolutions of each kind and of a linear layer."""
    rows = shown.structure.anatomy.rows
    formulas = 0
    for part in shown.document["networks"][0]["parts"]:
        formula = shown.document["views"][0]["parts"].get(part["id"], {}).get("formula")
        multiplying = [rows[index] for index in part["rows"] if rows[index].macs]
        if part["level"] not in ("layer", "operation") or len(multiplying) != 1:
            assert formula is None
            continue
        module = shown.network.get_submodule(multiplying[0].module)
        kernel = list(getattr(module, "kernel_size", ()))
        inputs, outputs = module.weight.shape[1] * getattr(module, "groups", 1), module.weight.shape[0]
        assert (formula["inputs"], formula["outputs"], formula["kernel"]) == (inputs, outputs, kernel)
        assert formula["macs"] == part["macs"] == multiplying[0].macs
        formulas += 1
    assert formulas > 20
    shown.select("layer/features.3.conv.1.0")
    text = shown.page.locator(".formula").inner_text()
    assert "MACs = H · W · Cₒᵤₜ · Cᵢₙ / groups · k²" in text
    assert "= 8 · 8 · 48 · 48 / 48 · 3² = 27,648" in text
    costs = shown.page.locator(".costs").inner_text()
    part = shown.structure.parts["layer/features.3.conv.1.0"]
    assert f"({part.bytes:,})" in costs
    assert f"{100 * part.macs / shown.structure.anatomy.macs:.1f} %" in costs
    shown.select("operation/features.3.conv.1.1")  # without maps of its own
    shown.page.get_by_role("button", name="Maps of features.3.conv.1.0").click()
    assert shown.page.url.endswith("#layer/features.3.conv.1.0")


def test_vectors_and_classes(shown):
    """Behind the global pooling a value for each channel, exact; behind the classifier the classes."""
    shown.select("layer/global_avg_pool")
    rows = shown.page.locator(".vector tbody tr").all_inner_texts()
    pooled = shown.value_and_contribution("features")[0].mean((2, 3))[0]
    logits = shown.network(shown.x)[0].detach()
    weight = shown.network.classifier[1].weight[logits.argmax()].detach()
    assert len(rows) == 32
    previous = np.inf
    for row in rows:
        channel, value, contribution = (number(text) for text in row.split())
        assert value == pytest.approx(float(pooled[int(channel)]), rel=0.006, abs=1e-4)
        assert contribution == pytest.approx(float((pooled * weight)[int(channel)]), rel=0.006, abs=1e-4)
        assert contribution <= previous
        previous = contribution
    shown.select("stage/classifier")
    rows = shown.page.locator(".vector tbody tr").all_inner_texts()
    for row, index in zip(rows, logits.argsort(descending=True).tolist(), strict=True):
        name, logit, probability, _ = row.split()
        assert name == "abcde"[index]
        assert number(logit) == pytest.approx(float(logits[index]), rel=1e-3)
        assert number(probability) == pytest.approx(100 * float(logits.softmax(0)[index]), abs=0.051)
