"""A network of each family from the command to the page: the page shows the numbers that torch computes."""

import contextlib
import json
import re
from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import tiny
import torch
from page_waiting import wait_until
from PIL import Image

from vertebra.cli import main
from vertebra.explore import exploration, subject
from vertebra.models import get_model_weights

SIDE = 64  # of the tiny networks' input
FAMILIES = {
    "vgg": "vgg16",
    "googlenet": "googlenet",
    "resnet": "resnet50",
    "densenet": "densenet121",
    "mobilenetv2": "mobilenet_v2",
    "efficientnet": "efficientnet_b0",
}
TINY = [pytest.param((name, SIDE), id=f"tiny {name}") for name in FAMILIES.values()]
WHOLE = [
    pytest.param((name, None), id=name, marks=pytest.mark.slow)
    for name in (*FAMILIES.values(), "efficientnet_lite0", "efficientnet_v2_s")
]
NUMBER = r"[+−]?\d[\d,]*(?:\.\d+)?(?:e[+−]?\d+)?"


def number(text):
    return float(text.replace("−", "-").replace(",", ""))


def numbers(text):
    return [number(found) for found in re.findall(NUMBER, text)]


def small_inputs(side):
    """In place of `get_model_weights`: their classes and mean, at another size."""

    def find(name):
        default = get_model_weights(name)["DEFAULT"]
        shape = replace(default.preprocessing, crop_size=side, resize_size=side)
        return {"DEFAULT": SimpleNamespace(preprocessing=shape, meta=default.meta)}

    return mock.patch.object(subject, "get_model_weights", find)


class Shown:
    """An open page; the document in it; the network, and what its modules give, by plain hooks."""

    def __init__(self, page, network, x):
        self.page, self.network, self.x = page, network.requires_grad_(False), x
        self.document = json.loads(page.locator("#document").text_content())
        self.outputs, self.order = {}, []
        handles = []
        for name, module in network.named_modules():

            def keep(module, inputs, output, name=name):
                if isinstance(output, torch.Tensor) and name not in self.outputs:
                    self.outputs[name] = output.clone()  # before an activation writes into it
                    self.order += [name] if not list(module.children()) else []

            handles.append(module.register_forward_hook(keep))
        linear = [module for module in network.modules() if isinstance(module, torch.nn.Linear)][-1]
        handles.append(linear.register_forward_hook(lambda module, inputs, output: self.read.append(inputs[0][0])))
        self.read, self.linear = [], linear
        with torch.no_grad():
            self.logits = network(x)[0]
        for handle in handles:
            handle.remove()
        self.target = int(self.logits.argmax())

    def contributions(self, path):
        """Of each channel of a module's output to the predicted class's logit: the sum of gradient × value."""
        kept = []

        def keep(module, inputs, output):
            kept.append(output)
            return output.clone()

        handle = self.network.get_submodule(path).register_forward_hook(keep)
        logit = self.network(self.x.clone().requires_grad_())[0, self.target]
        handle.remove()
        return (torch.autograd.grad(logit, kept[0])[0] * kept[0].detach())[0].sum((1, 2))

    def first(self, key, level=""):
        """The first part (of this level) with such a section, and the section."""
        seen = self.document["views"][0]["parts"]
        ids = [part["id"] for part in self.document["networks"][0]["parts"]]
        return next((part, seen[part][key]) for part in ids if key in seen.get(part, {}) and part.startswith(level))

    def select(self, part, panel):
        self.page.evaluate("id => { location.hash = '#' + id }", part)
        self.page.wait_for_selector(f".inspector h2:has-text('{part.partition('/')[2]}')")
        return self.page.locator(f".{panel}-panel")


@pytest.fixture(scope="module", params=TINY + WHOLE)
def shown(request, browser, tmp_path_factory):
    name, side = request.param
    folder = tmp_path_factory.mktemp(name)
    loaded, wrong = [], []
    load = exploration.load_subject
    with contextlib.ExitStack() as stack:
        if side:
            stack.enter_context(tiny.tiny_names())
            stack.enter_context(small_inputs(side))
            stack.enter_context(mock.patch.object(exploration, "time_parts"))  # half a second each
        stack.enter_context(
            mock.patch.object(exploration, "load_subject", lambda *a, **k: loaded.append(load(*a, **k)) or loaded[-1])
        )
        shape = subject.get_model_weights(name)["DEFAULT"].preprocessing
        # Of the size that photos are resized to: then only the margins are cut off.
        pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
        photo = Image.fromarray(pixels).resize((shape.resize_size, shape.resize_size), Image.Resampling.BICUBIC)
        photo.save(folder / "photo.png")
        weights = "DEFAULT" if "lite" in name else "none"
        path = folder / "page.html"
        arguments = [str(folder / "photo.png"), "--model", name, "--weights", weights, "--html", str(path)]
        assert main(["explore", *arguments]) == 0
    margin = (shape.resize_size - shape.crop_size) // 2
    kept = np.asarray(photo)[margin:, margin:][: shape.crop_size, : shape.crop_size]
    x = (torch.from_numpy(kept.copy()).float() / 255 - torch.tensor(shape.mean)) / torch.tensor(shape.std)
    page = browser.new_page(viewport={"width": 1400, "height": 1000}, reduced_motion="reduce")
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.route(re.compile("^(http|ws)"), lambda route: (wrong.append(route.request.url), route.abort()))
    page.goto(path.as_uri())
    page.wait_for_selector("[role=treeitem]")
    yield Shown(page, loaded[0].network, x.permute(2, 0, 1)[None])
    page.close()
    assert wrong == []


def test_the_answer_and_its_evidence(shown):
    """Probabilities; the strongest channel of the last map: weight × mean, in VGG gradient × value."""
    page, probabilities = shown.page, shown.logits.softmax(0)
    untrained = page.locator("header.head").get_by_text("untrained", exact=True)
    assert untrained.count() == shown.document["networks"][0]["untrained"]
    answers = page.locator(".answers button")
    assert answers.count() == 5
    for answer, index in zip(answers.all(), probabilities.topk(5).indices.tolist(), strict=True):
        assert answer.get_attribute("data-class") == str(index)
        assert numbers(answer.inner_text())[-1] == pytest.approx(100 * float(probabilities[index]), abs=0.051)
    panel = shown.select(shown.document["views"][0]["evidence"]["part"], "evidence")
    strongest = [numbers(text) for text in panel.locator(".channels").first.locator("li").all_inner_texts()]
    if type(shown.network).__name__ == "VGG":
        contributions = shown.contributions("features")
    else:
        contributions = shown.linear.weight[shown.target] * shown.read[0]
    assert strongest[0][1] == pytest.approx(float(contributions.max()), rel=0.006)
    for channel, contribution in strongest:
        assert contribution == pytest.approx(float(contributions[int(channel)]), rel=0.006, abs=1e-12)


def test_unfold_point_search_and_read_a_value(shown):
    """The part that is selected at first: its parameters, its blocks, and a value of its strongest map."""
    page = shown.page
    page.evaluate("location.hash = ''")
    page.reload()
    stage = page.locator("[role=treeitem][aria-selected=true]")
    name = stage.get_attribute("data-part").partition("/")[2]
    modules = next(each.modules for each in shown.network.stages if each.name == name)
    count = sum(weight.numel() for path in modules for weight in shown.network.get_submodule(path).parameters())
    assert count in numbers(page.locator(".costs").inner_text())
    before = page.locator("[role=treeitem]").count()
    stage.locator(".twist").click()
    assert page.locator("[role=treeitem]").count() > before
    own = shown.outputs[modules[-1]][0]
    channel = int(page.locator(".map-large h4").inner_text().split()[-1])
    page.wait_for_selector(".map-figures dd:has-text('%')")
    frame = page.locator(".map-frame .map")
    frame.hover(position={"x": 3, "y": 3})
    y, x, value, error = numbers(page.locator(".map-readout").inner_text())
    assert (y, x) == (0, 0)
    # Of a map with a single value there is no error but that of the four digits.
    assert abs(value - float(own[channel, 0, 0])) <= error + 6e-4 * abs(value)
    assert error == pytest.approx(float(own[channel].max() - own[channel].min()) / 255 / 2, rel=0.1)
    contributions = shown.contributions(modules[-1])
    assert contributions.argmax() == channel
    contribution = number(page.locator(".map-figures dd").first.inner_text())
    assert contribution == pytest.approx(float(contributions[channel]), rel=0.006)
    page.keyboard.press("/")
    page.keyboard.type("classifier")
    page.keyboard.press("Enter")
    wait_until(page, "decodeURIComponent(location.hash) === '#stage/classifier'")


def test_a_value_of_the_first_layer_and_the_logit(shown):
    """Each step of the stem's value is the output of the module that takes it; the last layer gives the logit."""
    part, (value, *_) = shown.first("worked", "layer")
    panel = shown.select(part, "worked")
    told = [text for text in panel.locator(".worked-chain tbody td:last-child").all_inner_texts() if text.strip()]
    start = shown.order.index(value["layer"])
    assert value["kind"] == "convolution" and len(told) == len(value["steps"]) >= 2
    inside = value["layer"].rpartition(".")[0]
    for text, leaf in zip(told, shown.order[start:], strict=False):
        name = leaf if leaf.startswith(inside) else inside  # GoogLeNet's ReLU is no module, but the block's last step
        assert number(text) == pytest.approx(float(shown.outputs[name][0, *value["cell"]]), rel=1e-4, abs=1e-6), name
    name = next(name for name, module in shown.network.named_modules() if module is shown.linear)
    panel = shown.select(f"layer/{name}", "worked")
    found = float(panel.locator(".worked-check").get_attribute("data-found"))
    assert found == pytest.approx(float(shown.logits[shown.target]), rel=1e-4, abs=1e-5)


def test_what_is_special(shown):
    page, outputs, kind = shown.page, shown.outputs, type(shown.network).__name__
    if kind == "VGG":
        part, (activation, *_) = shown.first("activations", "layer")
        text = shown.select(part, "activations").inner_text()
        negative = float((outputs[activation["source"]] < 0).float().mean())
        assert number(re.search(rf"({NUMBER}) %", text)[1]) == pytest.approx(100 * negative, abs=0.06)
    elif kind == "GoogLeNet":
        network = shown.document["networks"][0]
        stages = [part["parameters"] for part in network["parts"] if part["level"] == "stage"]
        assert sum(stages) == network["parameters"], "without the heads that are for training alone"
        part, (joined, *_) = shown.first("branches", "layer/inception")
        terms = shown.select(part, "branches").locator(".term")
        block = joined["name"].rpartition(".")[0]
        norms = [float(outputs[f"{block}.branch{branch}"].norm()) for branch in (1, 2, 3, 4)]
        found = [number(term.locator("b.number").nth(1).inner_text()) for term in terms.all()]
        assert found == pytest.approx(norms, rel=0.006)
    elif kind == "DenseNet":
        part, block = shown.first("dense", "stage")
        matrix = shown.select(part, "dense").locator(".matrix svg")
        matrix.scroll_into_view_if_needed()
        matrix.hover(position={"x": 2, "y": 2})
        layers = [name for name in outputs if name.endswith(f"{block['block']}.denselayer1.conv1")]
        weight = shown.network.get_submodule(layers[0]).weight
        assert numbers(page.locator(".dense-panel .readout").inner_text())[-1] == pytest.approx(
            float(weight.abs().mean()), rel=0.006
        )
    else:
        part, (addition, *_) = shown.first("additions")
        block = addition["name"].rpartition(".")[0]
        branch = {"ResNet": "bn3", "MobileNetV2": "conv", "EfficientNet": "block"}[kind]
        found = shown.select(part, "additions").locator(".term").nth(1).locator("b.number").first.inner_text()
        assert number(found) == pytest.approx(float(outputs[f"{block}.{branch}"].norm()), rel=0.006)
    gates = [name for name in outputs if name.endswith("scale_activation")]
    if gates:
        part, _ = shown.first("gates")
        panel = shown.select(part, "gates")
        panel.get_by_role("slider").fill("3")
        own = outputs[gates[0]]
        assert numbers(panel.locator("label .number").inner_text()) == [3, pytest.approx(float(own[0, 3]), abs=6e-5)]


def test_it_speaks_japanese(shown):
    page = shown.page
    shown.select("stage/classifier", "summary")
    before = page.locator("main").inner_text()
    page.get_by_role("button", name="日本語").click()
    text = page.locator("main").inner_text()
    assert "予測クラス" in text
    assert "Predicted classes" in before and "Predicted classes" not in text
    assert re.findall(r"\d+\.\d %", text) == re.findall(r"\d+\.\d %", before)
    page.get_by_role("button", name="EN", exact=True).click()
    assert "Predicted classes" in page.locator("main").inner_text()


@pytest.mark.parametrize("shown", WHOLE, indirect=True)
def test_a_narrow_page_does_not_scroll_sideways(shown):
    for part in [part["id"] for part in shown.document["networks"][0]["parts"] if part["level"] == "stage"]:
        shown.select(part, "summary")
        for width in (320, 390):
            shown.page.set_viewport_size({"width": width, "height": 800})
            assert shown.page.evaluate("document.documentElement.scrollWidth") == width, part
        shown.page.set_viewport_size({"width": 1400, "height": 1000})


@pytest.mark.parametrize("shown", WHOLE, indirect=True)
def test_parameters_and_macs_are_those_of_inspect(shown, capsys):
    network = shown.document["networks"][0]
    capsys.readouterr()
    assert main(["inspect", network["name"], "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (network["parameters"], network["macs"]) == (found["parameters"], found["macs"])


@pytest.mark.parametrize("shown", WHOLE, indirect=True)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(shown, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    shown.page.evaluate("theme => { document.documentElement.dataset.theme = theme }", scheme)
    for address in ("stage/stem", "stage/classifier"):
        if any(part["id"] == address for part in shown.document["networks"][0]["parts"]):
            shown.select(address, "summary")
        found = axe.run(shown.page, options={"resultTypes": ["violations"]}).response["violations"]
        assert [(each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found] == [], address
