"""The page works out the values of its layers as torch does."""

import pytest
import tiny
import torch

from vertebra.card import Preprocessing
from vertebra.explore.document import build_document
from vertebra.explore.observation import build_structure, observe
from vertebra.explore.options import Options
from vertebra.explore.photo import read_photo
from vertebra.explore.subject import Subject, network_input

ASKED = "features.0.0,2,0,0"


@pytest.fixture(scope="module")
def shown(show, noise):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = tiny.TINY_BUILDERS["mobilenetv2"](num_classes=5).eval()
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.normal_(module.bias)
                torch.nn.init.uniform_(module.running_var, 0.5, 2)
            elif isinstance(module, torch.nn.Linear):
                torch.nn.init.normal_(module.bias)
    subject = Subject("tiny", network, Preprocessing(64), tuple("abcde"), "", True)
    structure = build_structure(subject)
    photo = read_photo(noise(64, 64), subject.preprocessing)
    document = build_document([observe(structure, photo)], Options(values=(ASKED,)))
    with torch.no_grad():
        outputs = {}
        for name, module in network.named_modules():
            module.register_forward_hook(lambda m, i, out, name=name: outputs.setdefault(name, out.clone()))
        network(network_input(subject, photo.pixels))
    return show(document), document, outputs


def panel(page, part):
    page.evaluate("id => { location.hash = '#' + id }", part)
    page.wait_for_selector(f".inspector h2:has-text('{part.partition('/')[2]}')")
    return page.locator(".worked-panel")


def found(shown_panel):
    return float(shown_panel.locator(".worked-check").get_attribute("data-found"))


def test_the_values_of_all_layers_are_torchs(shown):
    page, document, outputs = shown
    checked = 0
    for part, seen in document["views"][0]["parts"].items():
        if part.startswith("layer/") and "worked" in seen:
            of_layer = panel(page, part)
            value = seen["worked"][0]
            # The module behind the convolution that runs last: features.0.2 after features.0.0 and its norm.
            *front, last = value["layer"].split(".")
            name = ".".join([*front, str(int(last) + len(value["steps"]) - 1)])
            own = (
                outputs[name][0, *value["cell"]]
                if value["kind"] == "convolution"
                else outputs[name][0, value["cell"][0]]
            )
            assert found(of_layer) == pytest.approx(float(own), rel=1e-4, abs=1e-4), part
            checked += 1
    assert checked > 10


def test_a_value_that_is_asked_for_comes_first_and_the_strongest_can_be_chosen(shown):
    page, document, outputs = shown
    part, values = next(
        (part, seen["worked"]) for part, seen in document["views"][0]["parts"].items()
        if part.startswith("layer/") and seen.get("worked", [{}])[0].get("asked")
    )  # fmt: skip
    of_layer = panel(page, part)
    assert "as asked for" in of_layer.inner_text()
    assert found(of_layer) == pytest.approx(float(outputs["features.0.2"][0, 2, 0, 0]), abs=1e-5)
    # The kernel hangs over the upper left corner: 5 of the 9 positions of each colour.
    assert of_layer.locator("td.outside").count() == 15
    assert of_layer.locator("h4").all_inner_texts()[0] in ("Red", "Green", "Blue")
    of_layer.locator(".worked-choice button").nth(1).click()
    assert "contributes most" in of_layer.inner_text()
    assert found(of_layer) == pytest.approx(values[1]["steps"][-1]["value"], abs=1e-5)


def test_all_terms_can_be_shown(shown):
    page, document, _ = shown
    parts = document["views"][0]["parts"]
    part = max(
        (
            part
            for part in parts
            if part.startswith("layer/") and parts[part].get("worked", [{}])[0].get("kind") == "linear"
        ),
        key=lambda part: parts[part]["worked"][0]["channels"],
    )
    count = parts[part]["worked"][0]["channels"]
    of_layer = panel(page, part)
    rows = of_layer.locator(".worked-terms tbody tr")
    assert rows.count() == 10 < count
    of_layer.get_by_role("button", name=f"Show all {count}").click()
    assert rows.count() == count
    # Strongest first.
    products = [
        float(text.removeprefix("= ").replace("−", "-")) for text in rows.locator("td:nth-child(4)").all_inner_texts()
    ]
    sizes = list(map(abs, products))
    assert sizes == sorted(sizes, reverse=True)
    total = sum(products) + parts[part]["worked"][0]["bias"]
    assert total == pytest.approx(found(of_layer), abs=1e-3)


def test_a_stage_leads_to_the_layer_that_makes_its_value_and_speaks_japanese(shown):
    page, document, _ = shown
    parts = document["views"][0]["parts"]
    stage, value = next(
        (part, seen["worked"][0]) for part, seen in parts.items() if part.startswith("stage/") and "worked" in seen
    )
    of_stage = panel(page, stage)
    page.get_by_role("button", name="日本語").click()
    assert "1つの値ができるまで" in of_stage.inner_text()
    page.get_by_role("button", name="EN").click()
    of_stage.get_by_role("button", name=value["layer"], exact=True).first.click()
    assert page.evaluate("decodeURIComponent(location.hash)") == f"#{value['made_in']}"
